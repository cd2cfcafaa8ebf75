"""In-place resize under closed-loop load: what the call costs, what it loses, when it takes effect.

One worker serves an MLP with a batch always in flight; the cores go from one to two and back, 200 times,
each time in the middle of a batch. Reported: failed batches and refused resizes (none wanted), the call's
time, and the service times of the batch in flight and of the ones after it: if the first one after the resize
is as fast as the later ones, the effect is there at the next batch boundary.

    python bench/resize.py [--resizes 200] [--rows 64] [--width threads|lanes] [--no-record]

Driver and worker share the machine: with two cores the driver's few percent lie on one of the worker's.
"""

import argparse
import asyncio
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import _record
import numpy as np
import onnx
import uvloop
from onnx import TensorProto, helper, numpy_helper

from steelyard.backend.base import Sink
from steelyard.backend.cpu import usable_core_ids
from steelyard.backend.local import LocalBackend
from steelyard.core.commands import ReleaseOutputs, ResizeReplica
from steelyard.core.events import BatchCompleted, BatchFailed, ReplicaReady, ReplicaResized, ResizeRefused
from steelyard.core.snapshot import CoreShare
from steelyard.runtime.base import VariantSpec, WidthRule
from steelyard.testing.backend_contract import Rig
from steelyard.worker.arena import Arena

SEED = 11
FEATURES, LAYERS = 1024, 6
FOLLOWING = 4  # batches after each resize, the one in flight not counted


def write_model(path: Path, rng: np.random.Generator) -> None:
    """x [-1, FEATURES] -> y [-1, FEATURES]; 12 MFLOP a row, 24 MB of weights."""
    names = ["x", *(f"h{index}" for index in range(1, LAYERS)), "y"]
    shape = (FEATURES, FEATURES)
    weights, nodes = [], []
    for index, (source, target) in enumerate(pairwise(names)):
        weight = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(FEATURES))
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [source, f"w{index}"], [f"m{index}"]))
        nodes.append(helper.make_node("Relu", [f"m{index}"], [target]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", FEATURES]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


async def measure(
    model: Path, resizes: int, rows: int, width: Any, rng: np.random.Generator
) -> dict[str, Any]:
    """Resize `resizes` times under load."""
    core_ids = usable_core_ids()[:2]
    if len(core_ids) < 2:
        raise SystemExit("needs two cores")
    spec = VariantSpec("mlp", "onnx", str(model), batch_rows_max=rows, cores_max=2)
    rules = (WidthRule(2, 1, width),)

    def make(arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop) -> LocalBackend:
        stages = {("svc", "st"): (spec,)}
        return LocalBackend(core_ids, stages, {("svc", "st", "mlp"): rules}, arena, sink, loop=loop)

    rig = Rig(make)
    rig.start(1, ("mlp",))
    request = rig.request(1, rng.standard_normal((rows, FEATURES), np.float32))
    service_s: dict[tuple[int, int], list[float]] = defaultdict(list)
    calls_s: list[float] = []
    failed = refused = batch_id = 0

    async def finish() -> float:
        nonlocal failed
        done = await rig.event(BatchCompleted | BatchFailed)  # type: ignore[arg-type]
        if isinstance(done, BatchFailed):
            failed += 1
            return float("nan")
        rig.backend.release(ReleaseOutputs(1, done.batch_id))
        return float(done.finished_s - done.started_s)

    try:
        await rig.event(ReplicaReady, replica_id=1)
        for index in range(-10, resizes):  # the first ten warm both widths up
            cores = 1 + index % 2
            for following in range(FOLLOWING + 1):
                batch_id += 1
                rig.run(batch_id, 1, [request], variant="mlp")
                if following == 0:
                    await asyncio.sleep(0.002)  # into the batch
                    shares = tuple(CoreShare(core_id, 1.0) for core_id in core_ids[:cores])
                    rig.backend.resize(ResizeReplica(1, shares))
                    resized = await rig.event(ReplicaResized | ResizeRefused)  # type: ignore[arg-type]
                elapsed_s = await finish()
                if index >= 0:
                    service_s[cores, following].append(elapsed_s)
            if index >= 0:
                refused += isinstance(resized, ResizeRefused)
                calls_s.append(getattr(resized, "call_s", float("nan")))
    finally:
        await rig.close()
    return summary(service_s, calls_s, failed, refused, batch_id)


def summary(
    service_s: dict[tuple[int, int], list[float]],
    calls_s: list[float],
    failed: int,
    refused: int,
    batches: int,
) -> dict[str, Any]:
    """Medians in milliseconds, and the first batch after a resize against the later ones."""
    p50 = {key: 1000 * float(np.median(values)) for key, values in service_s.items()}
    later = {
        cores: 1000 * float(np.median([s for f in range(2, FOLLOWING + 1) for s in service_s[cores, f]]))
        for cores in (1, 2)
    }
    return {
        "batches": batches,
        "resizes": len(calls_s),
        "failed": failed,
        "refused": refused,
        "call_ms": {
            "p50": 1000 * float(np.median(calls_s)),
            "p99": 1000 * float(np.quantile(calls_s, 0.99)),
            "max": 1000 * max(calls_s),
        },
        "service_ms_p50": {
            f"to_{cores}": {
                "in_flight": p50[cores, 0],
                "first": p50[cores, 1],
                "later": later[cores],
                "first_over_later": p50[cores, 1] / later[cores],
            }
            for cores in (1, 2)
        },
        "speedup": later[1] / later[2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resizes", type=int, default=200)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--width", choices=("threads", "lanes"), default="threads")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "mlp.onnx"
        write_model(model, rng)
        result = uvloop.run(measure(model, options.resizes, options.rows, options.width, rng))
    result = {"rows": options.rows, "width": options.width, **result}
    call, to = result["call_ms"], result["service_ms_p50"]
    print(f"{result['resizes']} resizes, {result['batches']} batches, {result['failed']} failed")
    print(f"call {call['p50']:.3f} ms median, {call['p99']:.3f} p99, {call['max']:.3f} max")
    for cores in (1, 2):
        print(
            f"to {cores}: in flight {to[f'to_{cores}']['in_flight']:.2f} ms, first after "
            f"{to[f'to_{cores}']['first']:.2f}, later {to[f'to_{cores}']['later']:.2f}"
        )
    if not options.no_record:
        _record.write(f"resize_{options.width}", result, seed=SEED)
    ok = result["failed"] == result["refused"] == 0 and call["p50"] < 1.0
    raise SystemExit(0 if ok else 1)


if __name__ == "__main__":
    main()
