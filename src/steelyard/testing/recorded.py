"""What a live run's journal says of it, in the words of a simulation: the same arrivals, simulated again.

Time 0 is when the first decision was answered (a live planner is a process that has to start first), without
replicas: the run is simulated from a cold start. Everything is read from the journal: arrivals as the edge
stamped them, ends, cores as the simulator charges them (growth from when it is asked for, a shrink until it
has let go), the constants of the machine that the run ran on, and how many items its requests had.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from steelyard.core.commands import Complete, Fail, Reject, ResizeReplica, RunBatch, Shed, StartReplica
from steelyard.core.events import (
    BatchCompleted,
    NodeJoined,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    RequestArrived,
    ResizeRefused,
    Solved,
)
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Items, Request, RequestId, Service, ServiceTimes
from steelyard.journal.codec import read
from steelyard.journal.records import CONTROL, Header, Record, machine_name
from steelyard.metrics.sums import CoreSeconds
from steelyard.profile.tables import StageTimes, service_times
from steelyard.sim.scenario import Physics, Scenario, SimulatedNode
from steelyard.workload.trace import Arrival, ArrivalTrace, Mark, arrival_trace


class Constants(NamedTuple):
    """What the machine of the run took for what no service time tells; medians in seconds, None if unseen.

    Attributes:
        dispatch_s: from a `RunBatch` to its start, and from its end to the news of it, averaged.
        cold_start_s: of a replica.
        resize_s: of a resize in place.
        solve_s: of a decision.
        service_ratio: time that all batches took together, over the known medians for their rows and cores.
        items: mean items a row, by the stage that takes them and the variant that made them.
    """

    dispatch_s: float
    cold_start_s: float | None
    resize_s: float | None
    solve_s: float | None
    service_ratio: float
    items: dict[str, dict[str, float]]


class RecordedRun(NamedTuple):
    """One service of one live run.

    Attributes:
        service: as it was served.
        trace: arrivals from time 0 on.
        requests: that arrived.
        violated_s: when late, shed, rejected and failed ones had arrived, ascending.
        latencies_s: of completed requests, the reply included, in the order of their ends.
        core_seconds: reserved from time 0 to the end of the trace.
        constants: of the machine.
        start_s: time 0 on the server's monotonic clock.
    """

    service: Service
    trace: ArrivalTrace
    requests: int
    violated_s: NDArray[np.float64]
    latencies_s: NDArray[np.float64]
    core_seconds: float
    constants: Constants
    start_s: float
    header: Header
    node: NodeJoined

    @property
    def violations(self) -> int:
        """Late, shed, rejected and failed requests."""
        return len(self.violated_s)

    def scenario(self, *, seed: int = 0, label: str = "", **physics: Any) -> Scenario:
        """The same service, arrivals and policy, simulated with the constants of the machine.

        Args:
            seed: of the service times.
            label: of the run.
            physics: further fields of `Physics`.
        """
        return Scenario(
            services={self.service.name: _with_constants(self.service, self.constants)},
            times=_times(self.header, self.service.name),
            traces={self.service.name: self.trace},
            policy=self.header.policy,
            options=self.header.policy_options,
            nodes=(SimulatedNode(self.node.node, len(self.node.core_ids), self.node.fractional),),
            seed=seed,
            cold=True,
            physics=Physics(dispatch_s=self.constants.dispatch_s, **physics),
            label=label,
        )


def recorded_run(journal: Path, service: str) -> RecordedRun:
    """Read a journal of a run that has ended.

    Raises:
        JournalError: it cannot be read.
        TraceError: no request has arrived.
    """
    with journal.open("rb") as lines:
        return recorded(read(lines, name=str(journal)), service)


def recorded(lines: Iterable[Header | Record], service: str) -> RecordedRun:
    """The same from what `journal.codec.read` gives."""
    header: Header | None = None
    node: NodeJoined | None = None
    start_s: float | None = None
    control: list[Record] = []
    records: list[Record] = []
    for line in lines:
        if isinstance(line, Header):
            header = line
        elif line.machine == CONTROL:
            control.append(line)
            if isinstance(line.event, NodeJoined):
                node = line.event
            elif isinstance(line.event, Solved) and start_s is None:
                start_s = line.now_s
        elif line.machine == machine_name(service):
            records.append(line)
    assert header is not None, "the journal has no header"
    assert node is not None, "no node has joined"
    assert start_s is not None, "nothing was decided"
    served = header.services[service]
    requests: dict[RequestId, Request] = {}
    for record in records:
        if isinstance(record.event, RequestArrived):
            requests[record.event.request.id] = record.event.request
    trace = arrival_trace([Arrival(r.arrived_s - start_s, _mark(r, served)) for r in requests.values()])
    violated_s, latencies_s = _ends(records, requests, served)
    return RecordedRun(
        served,
        trace,
        len(requests),
        np.sort(violated_s) - start_s,
        np.array(latencies_s),
        _core_seconds(control, service, start_s, start_s + trace.seconds),
        _constants(
            records, control, {stage.stage: service_times(stage) for stage in _times(header, service)}
        ),
        start_s,
        header,
        node,
    )


def _times(header: Header, service: str) -> tuple[StageTimes, ...]:
    return tuple(msgspec.convert(plain, StageTimes) for plain in header.service_times[service].values())


def _mark(request: Request, service: Service) -> Mark:
    """What a request is besides its time; a budget of its own only if it is not the service's."""
    budget_s = request.deadline_s - request.arrived_s
    own_s = None if abs(budget_s - service.slo_s) < 1e-6 else budget_s
    return Mark(latency_s=own_s, rows=request.rows)


def _ends(
    records: Iterable[Record], requests: dict[RequestId, Request], service: Service
) -> tuple[list[float], list[float]]:
    """When violated requests had arrived, and latencies of completed ones."""
    violated_s: list[float] = []
    latencies_s: list[float] = []
    for record in records:
        for command in record.commands:
            if isinstance(command, Complete):
                arrived_s = requests[command.request_id].arrived_s
                latencies_s.append(record.now_s - arrived_s + service.reply_s)
                if command.late:
                    violated_s.append(arrived_s)
            elif isinstance(command, Shed | Reject | Fail):
                violated_s.append(requests[command.request_id].arrived_s)
    return violated_s, latencies_s


def _core_seconds(control: Iterable[Record], service: str, from_s: float, to_s: float) -> float:
    reserved = CoreSeconds(now_s=from_s)
    paid: dict[int, float] = {}
    for record in control:
        if record.now_s > to_s:
            break
        match record.event:
            case ReplicaResized(replica_id=replica_id, cores=cores) if replica_id in paid:
                paid[replica_id] = cores
            case ResizeRefused(replica_id=replica_id, shares=shares) if replica_id in paid:
                paid[replica_id] = _cores(shares)
            case ReplicaGone(replica_id=replica_id):
                paid.pop(replica_id, None)
        for command in record.commands:
            if isinstance(command, StartReplica) and command.service == service:
                paid[command.replica_id] = _cores(command.shares)
            elif isinstance(command, ResizeReplica) and command.replica_id in paid:
                paid[command.replica_id] = max(paid[command.replica_id], _cores(command.shares))
        reserved.set(sum(paid.values()), now_s=record.now_s)
    return reserved.total(now_s=to_s)


def _constants(
    records: Iterable[Record], control: Iterable[Record], times: Mapping[str, ServiceTimes]
) -> Constants:
    sent: dict[int, tuple[float, float, str]] = {}  # by batch: when, the seconds it should take, its variant
    counted: dict[str, dict[str, list[int]]] = {}
    cores: dict[int, float] = {}
    out_s, back_s, took_s, known_s = [], [], [], []
    for record in records:
        event = record.event
        if isinstance(event, ReplicaReady | ReplicaResized):
            cores[event.replica_id] = event.cores
        elif isinstance(event, BatchCompleted) and event.batch_id in sent:
            sent_s, should_s, variant = sent.pop(event.batch_id)
            for taker, counts in event.items.items():
                counted.setdefault(taker, {}).setdefault(variant, []).extend(counts)
            out_s.append(event.started_s - sent_s)
            back_s.append(record.now_s - event.finished_s)
            took_s.append(event.finished_s - event.started_s)
            known_s.append(should_s)
        for command in record.commands:
            if isinstance(command, RunBatch):
                should_s = times[command.stage].service_time_s(
                    command.variant, 0, command.rows, cores[command.replica_id]
                )
                sent[command.batch_id] = (record.now_s, should_s, command.variant)
    events = [record.event for record in control]
    cold_starts_s = [e.cold_start_s for e in events if isinstance(e, ReplicaReady) and e.cold_start_s > 0]
    dispatch_s = (float(np.median(out_s)) + float(np.median(back_s))) / 2 if out_s else 0.0
    return Constants(
        max(0.0, dispatch_s),
        _median(cold_starts_s),
        _median([event.call_s for event in events if isinstance(event, ReplicaResized)]),
        _median([event.solve_s for event in events if isinstance(event, Solved)]),
        sum(took_s) / sum(known_s) if known_s else 1.0,
        {
            taker: {variant: float(np.mean(counts)) for variant, counts in by_variant.items()}
            for taker, by_variant in counted.items()
        },
    )


def _with_constants(service: Service, constants: Constants) -> Service:
    """Every variant with the cold start and the resize that were seen, every stage with its items."""
    seen: dict[str, float] = {}
    if constants.cold_start_s is not None:
        seen["cold_start_s"] = constants.cold_start_s
    if constants.resize_s is not None:
        seen["resize_s"] = constants.resize_s
    stages = []
    for stage in service.stages:
        variants = tuple(msgspec.structs.replace(variant, **seen) for variant in stage.variants)
        items = stage.items
        if stage.items_of and stage.name in constants.items:
            known = items or Items({"": stage.fan_out})
            items = msgspec.structs.replace(known, mean={**known.mean, **constants.items[stage.name]})
        stages.append(msgspec.structs.replace(stage, variants=variants, items=items))
    return msgspec.structs.replace(service, stages=tuple(stages))


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _cores(shares: Iterable[CoreShare]) -> float:
    return sum(share.fraction for share in shares)
