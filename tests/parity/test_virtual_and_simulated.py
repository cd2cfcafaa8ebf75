"""The live drivers on a virtual-time loop and the simulator come to the same: control plane and requests.

Both run the same machines and policies on the same arrivals, service times and cold starts. What the control
plane commanded (and when), and how each request ended (and when), must be equal, to within the rounding of
times. What happens at the very same instant is ordered by the simulator's kinds and by chance in the loop, so
times are chosen that do not coincide: decisions are put off by a few milliseconds.
"""

from collections import Counter
from typing import NamedTuple

import msgspec
import pytest

from steelyard.core.commands import (
    Command,
    DrainReplica,
    Publish,
    ResizeReplica,
    StartReplica,
    StopReplica,
)
from steelyard.core.plan import Decision, Grants
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Items, Service, Stage, Variant
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import known_policies, make_policy
from steelyard.profile.tables import StageTimes, service_times
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.account import Ends
from steelyard.sim.run import Simulation
from steelyard.sim.scenario import Failure, Physics, Scenario, SimulatedNode
from steelyard.testing.virtual_server import VirtualServer, poisson
from steelyard.workload.trace import Arrival, ArrivalTrace

SECONDS = 20
CORES = 8
LOST_S = 11.037
VARIANT = Variant("base", 0.9, 8, 4, cold_start_s=0.7317, resize_s=0.0)
SERVICES = {
    "lines": Service("ocr", 0.3, (Stage("read", (VARIANT,)),), reply_s=0.0),
    "pages": Service(
        "ocr",
        0.5,
        (
            Stage("crop", (VARIANT,)),
            # Poisson: one page in five is without lines, e^-1.5 = 0.22.
            Stage("read", (VARIANT,), ("crop",), 1.5, items_of="crop", items=Items({"": 1.5})),
            Stage("page", (VARIANT,), ("crop", "read")),
        ),
        reply_s=0.0,
    ),
}
DECLARED = {
    "crop": DeclaredLatency((11.0, 3.1, 1.3, 1.7), distribution="fixed"),
    "read": DeclaredLatency((30.0, 4.0, 2.0, 3.0), distribution="fixed"),
    "page": DeclaredLatency((2.3, 1.1, 0.7, 0.9), distribution="fixed"),
}
COMMANDS = (StartReplica, ResizeReplica, DrainReplica, StopReplica, Publish)


class Late:
    """A policy that decides a little later than it would, and takes a little longer."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.name, self.solve_s, self.reacts = policy.name, policy.solve_s + 0.0031, policy.reacts

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        return self._policy.react(snapshot)

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        decision = self._policy.decide(snapshot)
        return msgspec.structs.replace(decision, next_at_s=decision.next_at_s + 0.0173)


class Told(NamedTuple):
    """A command of the control machine, as far as drivers can differ in it."""

    at_s: float
    what: str
    replica_id: int
    cores: float


def told(sent: list[tuple[float, Command]]) -> list[Told]:
    """Commands about replicas and rules, times to the microsecond."""
    return [
        Told(
            round(at_s, 6),
            type(command).__name__,
            getattr(command, "replica_id", 0),
            sum(share.fraction for share in getattr(command, "shares", ())),
        )
        for at_s, command in sent
        if isinstance(command, COMMANDS)
    ]


def arrivals(seed: int) -> list[float]:
    """A surge to three times the rate, and back."""
    return poisson([(6.0, 25.0), (5.0, 75.0), (9.0, 20.0)], seed=seed)


Run = tuple[list[Told], list[tuple[float, float, str]]]


def times_of(service: Service) -> tuple[StageTimes, ...]:
    return tuple(StageTimes("ocr", s.name, (), {"base": DECLARED[s.name]}) for s in service.stages)


def run_live(service: Service, policy: str, seed: int) -> Run:
    def make() -> Policy:
        return Late(make_policy(policy, PolicyContext({"ocr": service}, times, future=future)))

    times = {(t.service, t.stage): service_times(t) for t in times_of(service)}
    counts = Counter(int(at_s) for at_s in arrivals(seed))
    future = {"ocr": tuple(counts[second] for second in range(SECONDS))}

    server = VirtualServer({"ocr": service}, times, make, {"ocr": arrivals(seed)}, cores=CORES)
    server.lose(1, LOST_S)
    server.run(SECONDS)
    ends = [(round(e.arrived_s, 6), round(e.ended_s, 6), type(e.end).__name__) for e in server.ended["ocr"]]
    return told(server.sent), sorted(ends)


def run_heap(service: Service, policy: str, seed: int) -> Run:
    sent: list[tuple[float, Command]] = []

    def journal(machine: str, now_s: float, event: object, commands: list[Command]) -> None:
        if machine == "control" and now_s < SECONDS:
            sent.extend((now_s, command) for command in commands)

    simulation = Simulation(
        Scenario(
            {"ocr": service},
            times_of(service),
            {"ocr": ArrivalTrace(tuple(Arrival(at_s) for at_s in arrivals(seed)), SECONDS)},
            policy,
            {},
            (SimulatedNode("local", CORES),),
            cold=True,
            physics=Physics(failures=(Failure(LOST_S, "ocr", service.stages[0].name),)),
        ),
        journal=journal,
        make=lambda context: Late(make_policy(policy, context)),
    )
    simulation.run()
    return told(sent), ends_of(simulation.accounts["ocr"].ends())


NAMES = ("", "Complete", "Complete", "Shed", "Reject", "Fail", "Discard")


def ends_of(ends: Ends) -> list[tuple[float, float, str]]:
    """(arrived, ended, command) of each request."""
    rows = zip(ends.arrived_s.tolist(), ends.ended_s.tolist(), ends.codes.tolist(), strict=True)
    return sorted((round(arrived_s, 6), round(ended_s, 6), NAMES[code]) for arrived_s, ended_s, code in rows)


@pytest.mark.long
@pytest.mark.parametrize("policy", sorted(known_policies()))
def test_same_commands_and_ends(policy: str) -> None:
    lines = SERVICES["lines"]
    live_told, live_ends = run_live(lines, policy, seed=1)
    heap_told, heap_ends = run_heap(lines, policy, seed=1)
    assert heap_told == live_told
    assert heap_ends == live_ends


@pytest.mark.long
@pytest.mark.parametrize("policy", ["static", "hpa", "themis"])
def test_a_pipeline_with_items_too(policy: str) -> None:
    """Of policies that move no core from one stage to another: the loop's replicas let go of one at once."""
    pages = SERVICES["pages"]
    live_told, live_ends = run_live(pages, policy, seed=1)
    heap_told, heap_ends = run_heap(pages, policy, seed=1)
    assert heap_told == live_told
    assert heap_ends == live_ends
    assert sum(kind == "Complete" for _, _, kind in live_ends) > len(live_ends) / 3
