"""What a worker costs around its batches: cold start, dispatch, round trip; without HTTP, without decisions.

Cold start: `StartReplica` to `ReplicaReady` of a tiny ONNX model; the first waits for the zygote's imports.
Dispatch: `RunBatch` handed over to the worker's first instruction. Round trip: until `BatchCompleted` is
delivered, less the worker's own time. One request in flight; driver and worker share the machine.

    python bench/workers.py [--batches 2000] [--no-record]
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import _record
import numpy as np
import onnx
import uvloop
from onnx import TensorProto, helper

from steelyard.backend.base import Sink
from steelyard.backend.cpu import usable_core_ids
from steelyard.backend.local import LocalBackend
from steelyard.core.commands import ReleaseOutputs, StopReplica
from steelyard.core.events import BatchCompleted, ReplicaGone, ReplicaReady
from steelyard.runtime.base import VariantSpec
from steelyard.testing.backend_contract import Rig
from steelyard.worker.arena import Arena

# name -> (requests a batch, FP32 values a request)
SHAPES = {
    "one_small": (1, 64),
    "eight_small": (8, 64),
    "one_600_kB": (1, 150_528),
    "eight_600_kB": (8, 150_528),
}
STARTS = 10


def write_model(path: Path) -> None:
    """First value of each row: as little work as a model can do."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "columns"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])
    ends = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("from", 0), ("to", 1), ("axis", 1))
    ]
    node = helper.make_node("Slice", ["x", "from", "to", "axis"], ["y"])
    graph = helper.make_graph([node], "first", [x], [y], ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


async def measure(model: Path, batches: int) -> dict[str, Any]:
    """Start and stop workers, then run batches on one."""
    spec = VariantSpec("first", "onnx", str(model), batch_rows_max=8, example={"x": (64,)})

    def make(arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop) -> LocalBackend:
        return LocalBackend(usable_core_ids(), {("svc", "st"): (spec,)}, {}, arena, sink, loop=loop)

    rig = Rig(make)
    try:
        starts_s = []
        for replica_id in range(STARTS + 1):
            rig.start(replica_id, ("first",))
            starts_s.append((await rig.event(ReplicaReady, replica_id=replica_id)).cold_start_s)
            if replica_id < STARTS:
                rig.backend.stop(StopReplica(replica_id))
                await rig.event(ReplicaGone, replica_id=replica_id)
        around = {name: await around_batches(rig, STARTS, batches, *shape) for name, shape in SHAPES.items()}
    finally:
        await rig.close()
    cold = {"first": 1000 * starts_s[0], "p50": 1000 * float(np.median(starts_s[1:]))}
    return {"cold_start_ms": cold, "batches": batches, "us": around}


async def around_batches(
    rig: Rig, replica_id: int, batches: int, requests: int, values: int
) -> dict[str, Any]:
    """Microseconds, median and p99."""
    held = [rig.request(index, np.zeros((1, values), np.float32)) for index in range(requests)]
    calls, dispatches, around = [], [], []
    for batch_id in range(batches):
        sent_s = time.monotonic()
        rig.run(batch_id, replica_id, held, variant="first")
        returned_s = time.monotonic()
        done = await rig.event(BatchCompleted, batch_id=batch_id)
        ended_s = time.monotonic()
        rig.backend.release(ReleaseOutputs(replica_id, batch_id))
        calls.append(returned_s - sent_s)
        dispatches.append(done.started_s - sent_s)
        around.append(ended_s - sent_s - (done.finished_s - done.started_s))
    for request in held:
        rig.arena.free(request.tensors[0].ref)
    measured = {"call": calls, "dispatch": dispatches, "round_trip": around}
    return {
        name: {"p50": 1e6 * float(np.median(times)), "p99": 1e6 * float(np.quantile(times, 0.99))}
        for name, times in measured.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "first.onnx"
        write_model(model)
        result = uvloop.run(measure(model, options.batches))
    cold = result["cold_start_ms"]
    print(f"cold start {cold['p50']:.0f} ms (the first {cold['first']:.0f})")
    for name, measured in result["us"].items():
        texts = (f"{what} {times['p50']:.0f} ({times['p99']:.0f})" for what, times in measured.items())
        print(f"{name}: {', '.join(texts)} us, median (p99)")
    if not options.no_record:
        _record.write("workers", result)


if __name__ == "__main__":
    main()
