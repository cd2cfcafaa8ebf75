"""A service as Triton's `ModelConfig` in JSON: what its clients and perf_analyzer read before they infer.

The rules of this file: `dims` leave the leading axis out where it counts rows (the metadata's `shape` has
it), and `max_batch_size` is the rows that *one request* may have; how many of them share a batch is ours to
choose, and more rows than a batch takes are split. A pipeline looks like one model: its stages cannot be
called, so it is no `ensemble`. Source: Triton's model_config.proto; a client takes what is left out as unset.
"""

from typing import Any

from steelyard.runtime.base import TensorSpec
from steelyard.serve.base import ServedService

_TYPE_OF = {"BYTES": "TYPE_STRING"}


def model_config(served: ServedService) -> dict[str, Any]:
    """The configuration of a service."""
    service, signature = served.service, served.signature
    skip = 1 if signature.batchable else 0
    config: dict[str, Any] = {
        "name": service.name,
        "platform": signature.platform,
        "backend": signature.platform.partition("_")[0],
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": service.request_rows_max if signature.batchable else 0,
        "input": [_tensor(spec, skip) for spec in signature.inputs],
        "output": [_tensor(spec, skip) for spec in signature.outputs],
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
        "parameters": {
            "slo_ms": {"string_value": f"{service.slo_s * 1e3:g}"},
            "slo_quantile": {"string_value": f"{service.quantile:g}"},
        },
    }
    if signature.batchable:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": 0, "preserve_ordering": False}
    return config


def _tensor(spec: TensorSpec, skip: int) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": _TYPE_OF.get(spec.dtype, f"TYPE_{spec.dtype}"),
        "dims": spec.shape[skip:],
    }
