"""A service's statistics as Triton's JSON has them: perf_analyzer reads every key without asking.

The rules of this file: what a server of ours does not have (a response cache, memory by model) is there with
counts of 0. A request's time is queueing, service, and the rest: reading, handing over and composing, which
counts as `compute_output`. Batches are those of all stages, and lag by a sensing window.
"""

from typing import Any

from steelyard.serve.edge.answers import MODEL_VERSION
from steelyard.serve.statistics import ServiceStatistics


def statistics_json(
    name: str, found: ServiceStatistics, *, now_s: float, unix_now_s: float
) -> dict[str, Any]:
    """One entry of `model_stats`.

    Args:
        name: the service's.
        found: its sums.
        now_s: on the clock of `found`.
        unix_now_s: the same moment in seconds since 1970, which clients are told.
    """
    count = found.completed
    last_s = 0.0 if found.last_end_s is None else unix_now_s - (now_s - found.last_end_s)
    rest_s = max(0.0, found.latency_s - found.queue_s - found.service_s)
    return {
        "name": name,
        "version": MODEL_VERSION,
        "last_inference": round(last_s * 1e3),
        "inference_count": found.rows,
        "execution_count": sum(sums.batches for sums in found.batches.values()),
        "inference_stats": {
            "success": _duration(count, found.latency_s),
            "fail": _duration(found.refused, found.refused_s),
            "queue": _duration(count, found.queue_s),
            "compute_input": _duration(count, 0.0),
            "compute_infer": _duration(count, found.service_s),
            "compute_output": _duration(count, rest_s),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(sums.batches, 0.0),
                "compute_infer": _duration(sums.batches, sums.run_s),
                "compute_output": _duration(sums.batches, 0.0),
            }
            for rows, sums in sorted(found.batches.items())
        ],
        "memory_usage": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
