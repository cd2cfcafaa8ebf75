"""What whole runs come to, byte for byte: for changes that are to change nothing, and for compiled builds."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from steelyard.core.commands import Command
from steelyard.core.events import Event
from steelyard.core.types import Service, Stage, Variant
from steelyard.journal.codec import encode
from steelyard.journal.records import Record
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Failure, Physics, Scenario, SimulatedNode, SlowDown
from steelyard.workload.trace import count_trace

Golden = Callable[[str, str], None]
VARIANT = Variant("base", 0.9, 8, 4, 0.5, 0.05)
PIPELINE = Service("ocr", 0.4, (Stage("find", (VARIANT,)), Stage("read", (VARIANT,), ("find",), 2)))
LATENCY = DeclaredLatency((0.0, 4.0, 0.0, 12.0))  # (12 + 4 rows) ms, whatever the cores
TROUBLES = Physics(
    dispatch_s=0.002,
    sensing_lag_s=0.03,
    corun_ratio=1.3,
    starting_ratio=1.1,
    failures=(Failure(2.0, "ocr", "read"),),
    slow_downs=(SlowDown(3.0, 4.0, 1.7),),
)
POLICIES: dict[str, dict[str, Any]] = {"static": {"replicas": 3}, "hpa": {}, "themis": {}}


def scenario(policy: str) -> Scenario:
    return Scenario(
        {"ocr": PIPELINE},
        tuple(StageTimes("ocr", stage.name, (), {"base": LATENCY}) for stage in PIPELINE.stages),
        {"ocr": count_trace([20, 30, 60, 90, 40, 0, 5, 20])},
        policy,
        POLICIES[policy],
        (SimulatedNode("local", 12),),
        seed=7,
        physics=TROUBLES,
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_is_what_it_was(policy: str, golden: Golden) -> None:
    records, digest = 0, sha256()

    def journal(machine: str, now_s: float, event: Event, commands: list[Command]) -> None:
        nonlocal records
        digest.update(encode(Record(machine, records, now_s, event, tuple(commands))))
        records += 1

    run = simulate(scenario(policy), journal=journal)
    (summary,), (series,) = run.summaries, run.series
    timeless = msgspec.structs.replace(summary, plan_ms={}, wall_s=0.0, requests_per_wall_s=0.0)
    series = msgspec.structs.replace(series, summary=timeless)
    text = msgspec.json.format(msgspec.json.encode((series, run.flows)), indent=1).decode()
    golden(f"run_{policy}.json", f"{text}\n")
    golden(f"run_{policy}_journal.txt", f"{records} records, SHA-256 {digest.hexdigest()}\n")
