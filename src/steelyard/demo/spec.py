"""The demo's spec file: one recogniser, one service, and fixed allocations to compare with."""

from pathlib import Path

import yaml

from steelyard.demo.lines import HEIGHT, WIDTH
from steelyard.demo.plan import BATCH_MAX

SERVICE, STAGE, MODEL, VARIANT = "lines", "read", "reader", "small"
CORES = 2


def write_spec(path: Path, model: Path, *, slo_ms: float, fixed_batch: int) -> None:
    """Write the spec; policies `fixed-1` and `fixed-2` hold one and two replicas of one core each.

    Replicas of one core are the strongest fixed allocation for this model: measured, two cores a replica
    answer fewer lines a second than two replicas of one (docs/demo.md).
    """
    fixed = {
        f"fixed-{cores}": {
            "name": "static",
            "stages": {
                f"{SERVICE}.{STAGE}": [
                    {"variant": VARIANT, "replicas": cores, "cores": 1, "batch": fixed_batch}
                ]
            },
        }
        for cores in range(1, CORES + 1)
    }
    spec = {
        "version": 1,
        "cluster": {"backend": "local", "cores": CORES},
        "models": {
            MODEL: {
                "variants": {
                    VARIANT: {
                        "onnx": str(model),
                        "batch_max": BATCH_MAX,
                        "cores_max": CORES,
                        "example": {"x": {"shape": [3, HEIGHT, WIDTH]}},
                    }
                }
            }
        },
        "services": {SERVICE: {"slo": {"latency": f"{slo_ms:g}ms"}, "pipeline": {STAGE: {"model": MODEL}}}},
        "policies": fixed,
        "policy": "steelyard",
    }
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
