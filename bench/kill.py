"""A worker is killed every second under load: no request may go without an answer.

Two replicas of the recogniser serve a Poisson stream at 0.3 of what they can answer; every second one ready
worker, drawn at random, gets SIGKILL. Counted are the requests by outcome (a refusal with its reason is an
answer, a broken connection is not) and the time from each kill until two replicas are ready again.

Where it runs: generator, front end and decisions at nice 0, unpinned; workers at nice 5; one machine.
"""

import argparse
import os
import signal
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _live import finish_load, start_load
from _record import write

from steelyard.demo.lines import draw_lines, find_font
from steelyard.demo.plan import plan_surge
from steelyard.demo.recogniser import prepare_recogniser
from steelyard.demo.spec import write_spec
from steelyard.demo.tour import measured_cells
from steelyard.testing.live import LiveServer, serve, wait_until, worker_pids
from steelyard.workload.synth import counts_of

LOAD_SHARE = 0.3
SERVICE = "lines"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        spec = folder / "spec.yaml"
        recogniser = prepare_recogniser(Path.home() / ".cache" / "steelyard" / "demo")
        plan = plan_surge(measured_cells(spec, recogniser, folder, ()), seconds=60, seed=options.seed)
        write_spec(spec, recogniser.model, slo_ms=plan.slo_ms, fixed_batch=1)
        payload = folder / "line.npz"
        np.savez(payload, x=draw_lines(1, rng, font=find_font())[0].tensor[None])
        rate_rps = LOAD_SHARE * 2 * plan.capacity_rps
        counts = counts_of(np.full(options.seconds, rate_rps), rng).counts.tolist()
        with serve(spec, folder, "--policy", "fixed-2") as server:
            wait_until(lambda: len(ready(server)) == 2, "two ready replicas")
            load = start_load(
                server, SERVICE, counts, payload, folder, slo_s=plan.slo_ms / 1000, seed=options.seed
            )
            recoveries = kill_every_second(server, options.seconds, rng)
            result = finish_load(*load, seconds_max=options.seconds + 60.0)
            counters = server.status()["services"][SERVICE]["counters"]
    unanswered = sum(
        count for code, count in result["errors"].items() if code in ("connection", "timeout", "overrun")
    )
    found: dict[str, Any] = {
        "kills": len(recoveries),
        "offered": result["offered"],
        "completed": result["completed"],
        "unanswered": unanswered,
        "errors": result["errors"],
        "failed_share": (result["offered"] - result["completed"]) / result["offered"],
        "violation_ratio": result["violation_ratio"],
        "recovery_s": {"p50": median(recoveries), "max": max(recoveries)},
        "server_counters": counters,
        "slo_ms": plan.slo_ms,
        "rate_rps": rate_rps,
        "void": result["void"],
    }
    print(found)
    write("kill", found, seed=options.seed)
    if unanswered:
        raise SystemExit(f"{unanswered} requests went without an answer")


def kill_every_second(server: LiveServer, seconds: int, rng: np.random.Generator) -> list[float]:
    """Kill one worker a second; seconds until two replicas were ready again, for each kill."""
    recoveries: list[float] = []
    started_s = time.monotonic()
    for second in range(1, seconds):
        time.sleep(max(0.0, started_s + second - time.monotonic()))
        before = ready(server)
        killed_s = time.monotonic()
        os.kill(int(rng.choice(worker_pids(server))), signal.SIGKILL)
        wait_until(partial(has_recovered, server, before), "a new replica")
        recoveries.append(time.monotonic() - killed_s)
    return recoveries


def has_recovered(server: LiveServer, before: set[int]) -> bool:
    """Whether one of two replicas has been replaced."""
    now = ready(server)
    return len(now) == 2 and len(now & before) == 1


def ready(server: LiveServer) -> set[int]:
    """Ids of the replicas that take batches."""
    return {replica["id"] for replica in server.replicas(SERVICE) if replica["state"] == "ready"}


if __name__ == "__main__":
    main()
