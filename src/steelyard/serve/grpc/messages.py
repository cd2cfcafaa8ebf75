"""The protocol's messages, in a descriptor pool of our own.

The rule of this file: nothing here goes into protobuf's default pool. Two definitions of `inference.*` in one
pool clash, and the stubs of tritonclient and of the KServe SDK are in the default one; so ours live beside
them in one process, and still have the public names, which reflection tells. No code is generated: the
descriptors that `generate.py` compiles are read here, which binds us to no version of protobuf.
"""

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1.ServerReflection"

POOL = descriptor_pool.DescriptorPool()


def _load() -> None:
    data = files("steelyard.serve.grpc").joinpath("protocol.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        POOL.AddSerializedFile(file.SerializeToString())


_load()


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def methods(service: str) -> dict[str, tuple[Any, Any]]:
    """For the name of each method of a service -> the classes of its request and its answer."""
    return {
        method.name: (message(method.input_type.full_name), message(method.output_type.full_name))
        for method in POOL.FindServiceByName(service).methods
    }


InferRequest = message("inference.ModelInferRequest")
InferResponse = message("inference.ModelInferResponse")
StreamInferResponse = message("inference.ModelStreamInferResponse")
