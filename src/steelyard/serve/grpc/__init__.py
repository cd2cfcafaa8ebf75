"""The edge: the Open Inference Protocol over gRPC. Needs the extra `grpc`."""

from steelyard.serve.grpc.listen import GrpcListener, serve_grpc

__all__ = ["GrpcListener", "serve_grpc"]
