"""Two services with opposite surges on the machine's two cores: managed, split, and left to themselves.

Each service is a real recogniser; while one gets more than a core can answer, the other gets little, and then
they change over. `steelyard`: one server, cores moved between the services, by parts where the system
enforces parts. `split`: one server, a core each. `unmanaged`: what everyone has today, two servers that know
nothing of each other, each with threads for both cores, which the kernel shares out.

Where it runs: two generators and the front ends at nice 0, unpinned; workers at nice 5; one machine.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _live import core_seconds, finish_load, start_load
from _record import write

from steelyard.demo.lines import draw_lines, find_font
from steelyard.demo.plan import BATCH_MAX, plan_surge
from steelyard.demo.recogniser import Recogniser, prepare_recogniser
from steelyard.demo.spec import CORES
from steelyard.demo.tour import measured_cells
from steelyard.testing.live import LiveServer, serve
from steelyard.workload.synth import counts_of

SERVICES = ("left", "right")
ARRANGEMENTS = ("steelyard", "split", "unmanaged")
HIGH_SHARE, LOW_SHARE = 1.15, 0.25
"""Of what one core can answer; together 1.4 of two cores, which also carry front end and generators."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=40, help="length of each run")
    parser.add_argument("--arrangements", default=",".join(ARRANGEMENTS))
    options = parser.parse_args()
    arrangements = options.arrangements.split(",")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        recogniser = prepare_recogniser(Path.home() / ".cache" / "steelyard" / "demo")
        cells = measured_cells(folder / "spec.yaml", recogniser, folder, ())
        plan = plan_surge(cells, seconds=options.seconds, seed=1)
        payload = folder / "line.npz"
        line = draw_lines(1, np.random.default_rng(0), font=find_font())[0]
        np.savez(payload, x=line.tensor[None])
        runs: list[dict[str, Any]] = []
        for seed in range(1, options.seeds + 1):
            for arrangement in (
                arrangements[seed % len(arrangements) :] + arrangements[: seed % len(arrangements)]
            ):
                counts = opposite_surges(plan.capacity_rps, options.seconds, seed)
                found = run(arrangement, recogniser, plan.slo_ms, counts, payload, folder, seed)
                runs.append(found)
                print(found, flush=True)
        table = [
            row(name, [found for found in runs if found["arrangement"] == name]) for name in arrangements
        ]
        for found in table:
            print(found)
        write(
            "two_services",
            {
                "slo_ms": plan.slo_ms,
                "capacity_rps": plan.capacity_rps,
                "seconds": options.seconds,
                "shares": [HIGH_SHARE, LOW_SHARE],
                "placement": "generators, front ends: nice 0, unpinned; workers: nice 5; one machine",
                "arrangements": table,
                "runs": runs,
            },
            seed=options.seeds,
        )


def opposite_surges(capacity_rps: float, seconds: int, seed: int) -> dict[str, list[int]]:
    """Counts a second: `left` is high in the first half, `right` in the second."""
    rng = np.random.default_rng(seed)
    rates = np.full(seconds, LOW_SHARE * capacity_rps)
    rates[: seconds // 2] = HIGH_SHARE * capacity_rps
    return {
        "left": counts_of(rates, rng).counts.tolist(),
        "right": counts_of(rates[::-1].copy(), rng).counts.tolist(),
    }


def run(
    arrangement: str,
    recogniser: Recogniser,
    slo_ms: float,
    counts: dict[str, list[int]],
    payload: Path,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """One run of both services; violations of both together."""
    with contextlib.ExitStack() as stack:
        servers: dict[str, LiveServer] = {}
        if arrangement == "unmanaged":
            for name in SERVICES:
                spec = write_spec(folder / f"{name}.yaml", recogniser, slo_ms, (name,))
                servers[name] = stack.enter_context(serve(spec, folder, "--policy", "both-cores", name=name))
        else:
            spec = write_spec(folder / "both.yaml", recogniser, slo_ms, SERVICES)
            server = stack.enter_context(serve(spec, folder, "--policy", arrangement))
            servers = dict.fromkeys(SERVICES, server)
        before = {name: servers[name].status() for name in SERVICES}
        loads = {
            name: start_load(
                servers[name],
                name,
                counts[name],
                payload,
                folder,
                slo_s=slo_ms / 1000,
                seed=seed * 10 + index,
            )
            for index, name in enumerate(SERVICES)
        }
        seconds = len(counts["left"])
        results = {name: finish_load(*loads[name], seconds_max=seconds + 60.0) for name in SERVICES}
        reserved = sum(core_seconds(before[name], servers[name].status(), name) for name in SERVICES)
    offered = sum(result["offered"] for result in results.values())
    return {
        "arrangement": arrangement,
        "seed": seed,
        "offered": offered,
        "violation_ratio": sum(result["violations"] for result in results.values()) / offered,
        "by_service": {name: result["violation_ratio"] for name, result in results.items()},
        "p99_ms": {name: result["latency_ms"]["p99"] for name, result in results.items()},
        "core_seconds": reserved,
        "void": any(result["void"] for result in results.values()),
    }


def row(arrangement: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds: median, least and most violations; median core-seconds."""
    ratios = [found["violation_ratio"] for found in runs]
    return {
        "arrangement": arrangement,
        "violations": median(ratios),
        "violations_min": min(ratios),
        "violations_max": max(ratios),
        "core_seconds": median(found["core_seconds"] for found in runs),
        "void": sum(found["void"] for found in runs),
    }


def write_spec(path: Path, recogniser: Recogniser, slo_ms: float, services: tuple[str, ...]) -> Path:
    """A spec file with one recogniser a service."""
    served = "".join(
        f"  {name}: {{slo: {{latency: {slo_ms:g}ms}}, pipeline: {{read: {{model: reader}}}}}}\n"
        for name in services
    )
    path.write_text(
        f"""\
version: 1
models:
  reader:
    variants:
      small:
        onnx: {recogniser.model}
        batch_max: {BATCH_MAX}
        cores_max: {CORES}
        example: {{x: {{shape: [3, 48, 320]}}}}
services:
{served}policies:
  split: {{name: static, replicas: 1, cores: 1, batch: 1}}
  both-cores: {{name: static, replicas: 1, cores: 2, batch: {BATCH_MAX}}}
"""
    )
    return path


if __name__ == "__main__":
    main()
