"""What is done at the end of one sensing window: cores to live replicas and from them, starts, cancellations.

Every stage says what it wishes (`pace`). If all wishes fit the nodes and the services' limits, they are
granted; otherwise the cores are shared out (`shortage`), and so they are if a service that has come later
waits for its first ones. Shrinks come first, so that what they free can be granted in the same window.
"""

from collections.abc import Mapping, Sequence

from steelyard.core.plan import Grant, GrantCancel, GrantCores, Grants, GrantStart, ReplicaPlan
from steelyard.core.snapshot import ClusterSnapshot, ReplicaView, ServiceView
from steelyard.core.types import Service
from steelyard.policies.steelyard.demand import ArrivalRate, arriving_rps
from steelyard.policies.steelyard.pace import StagePace, Wish
from steelyard.policies.steelyard.shortage import Claim, share_out

EXACT = 1e-9


class ServicePace:
    """One service: its arrival rate and the pace of its stages, in its order."""

    def __init__(self, service: Service, stages: Sequence[StagePace]) -> None:
        self.service = service
        self.stages = {pace.sizing.stage.name: pace for pace in stages}
        self._rate = ArrivalRate()
        self._replicas: tuple[ReplicaView, ...] = ()
        self._live: dict[str, list[ReplicaView]] = {}
        self._starting: dict[str, list[ReplicaView]] = {}
        self._sort(())

    def wishes(self, view: ServiceView) -> list[Wish]:
        """What each stage that has live replicas asks for."""
        rate = self._rate.update(view)
        if view.replicas is not self._replicas:
            self._sort(view.replicas)
        wishes = []
        for seen in view.windows[-1].stages:
            name = seen.stage
            live, starting = self._live[name], self._starting[name]
            if not live and not starting:
                continue
            pace = self.stages[name]
            arriving = entry = rate * pace.sizing.fan_out
            after = pace.sizing.stage.after
            if after:
                upstream = [self._passed_on(source, pace.sizing.fan_out) for source in after]
                arriving = arriving_rps(entry, upstream, pace.lag_s)
            wishes.append(pace.look(seen, arriving, entry, live, starting))
        cores_min = self.service.cores_min
        if cores_min and cores_min > sum(pace.target.least for pace in self.stages.values()):
            _raise(wishes, cores_min)
        return wishes

    def _sort(self, replicas: tuple[ReplicaView, ...]) -> None:
        """By stage, the live ones and those that start: new lists, which nobody changes."""
        self._replicas = replicas
        self._live = {name: [] for name in self.stages}
        self._starting = {name: [] for name in self.stages}
        for replica in replicas:
            if replica.state == "starting":
                self._starting[replica.stage].append(replica)
            elif replica.state != "draining":
                self._live[replica.stage].append(replica)

    def _passed_on(self, source: str, fan_out: float) -> tuple[float, int, float]:
        pace = self.stages[source]
        return pace.capacity_rps, pace.queue_rows, fan_out / pace.sizing.fan_out


def _raise(wishes: list[Wish], cores_min: float) -> None:
    """Let the wishes of a service come to the cores that it has whatever arrives: the smallest grow."""
    sizes = [list(wish.cores) or [r.cores_desired for r in wish.replicas] for wish in wishes]
    places = [(index, place) for index, of_stage in enumerate(sizes) for place in range(len(of_stage))]
    while sum(map(sum, sizes)) < cores_min - EXACT:
        growing = [(sizes[i][k], i, k) for i, k in places if sizes[i][k] + EXACT < wishes[i].pace.most]
        if not growing:
            break
        size, index, place = min(growing)
        pace = wishes[index].pace
        sizes[index][place] += pace.sizing.step if size else pace.target.least
    for index, (wish, cores) in enumerate(zip(list(wishes), sizes, strict=True)):
        if any(r.cores_desired != c for r, c in zip(wish.replicas, cores, strict=True)):
            wishes[index] = wish._replace(cores=cores)
        elif wish.cores:
            wishes[index] = wish._replace(cores=[])


def react(snapshot: ClusterSnapshot, paces: Mapping[str, ServicePace]) -> Grants | None:
    """The grants of one window, or None if there are none."""
    wishes: list[tuple[ServiceView, Wish]] = []
    is_calm = True
    for view in snapshot.services:
        if view.windows:
            for wish in paces[view.service].wishes(view):
                wishes.append((view, wish))
                if wish.cores or wish.starts or wish.cancels:
                    is_calm = False
    newcomers = [view for view in snapshot.services if view.desired is None] if wishes else []
    if is_calm and not newcomers:
        return None
    free = _unpromised(snapshot)
    if newcomers:
        _keep_for(newcomers, free, snapshot, paces)
    if (newcomers or any(wish.cores for _, wish in wishes)) and not _fits(wishes, free, paces):
        wishes = _shared_out(wishes, free, paces)
    shrinks: list[Grant] = []
    growths: list[Grant] = []
    reasons: list[str] = []
    for view, wish in wishes:
        changed = [(r, c) for r, c in zip(wish.replicas, wish.cores, strict=False) if r.cores_desired != c]
        for replica, cores in changed:
            grant = GrantCores(replica.replica_id, cores)
            (shrinks if cores < replica.cores_desired else growths).append(grant)
            free[replica.node] -= cores - replica.cores_desired
        if changed:
            reasons.append(_words(view, wish))
    starts: list[Grant] = []
    for view, wish in sorted(wishes, key=lambda pair: -paces[pair[0].service].service.weight):
        starts += _starts(view, wish, free, paces[view.service].service)
    cancels = [GrantCancel(replica.replica_id) for _, wish in wishes for replica in wish.cancels]
    if starts:
        reasons.append(f"{len(starts)} more replicas start")
    if cancels:
        reasons.append(f"{len(cancels)} starting replicas are not needed any more")
    grants = (*cancels, *shrinks, *growths, *starts)
    return Grants(grants, "; ".join(reasons)) if grants else None


def _unpromised(snapshot: ClusterSnapshot) -> dict[str, float]:
    """Cores that no replica is to have, by node."""
    free = {node.name: node.cores for node in snapshot.nodes}
    for view in snapshot.services:
        for replica in view.replicas:
            is_loading = replica.state == "starting"
            free[replica.node] -= replica.cores_requested if is_loading else replica.cores_desired
    return free


def _keep_for(
    newcomers: Sequence[ServiceView],
    free: dict[str, float],
    snapshot: ClusterSnapshot,
    paces: Mapping[str, ServicePace],
) -> None:
    """Take off what services without a plan need to begin; `free` may fall below 0.

    As far as there is room for that beside the least of all who live on a node.
    """
    room = {node.name: node.cores for node in snapshot.nodes}
    for view in snapshot.services:
        if view.desired is not None:
            homes = {replica.stage: replica.node for replica in view.replicas}
            for stage, node in homes.items():
                room[node] -= paces[view.service].stages[stage].target.least
    for view in newcomers:
        left = dict(room)
        least = [pace.target.least for pace in paces[view.service].stages.values()]
        limit = paces[view.service].service.cores_max
        for cores in least:
            left[max(left, key=lambda name: left[name])] -= cores
        if min(left.values()) < -EXACT or (limit is not None and sum(least) > limit + EXACT):
            continue
        for node in room:
            free[node] -= room[node] - left[node]
        room = left


def _fits(
    wishes: Sequence[tuple[ServiceView, Wish]], free: Mapping[str, float], paces: Mapping[str, ServicePace]
) -> bool:
    """Whether all wishes fit the nodes and the services' limits."""
    left = dict(free)
    grown: dict[str, float] = {}
    for view, wish in wishes:
        for replica, cores in zip(wish.replicas, wish.cores, strict=False):
            more = cores - replica.cores_desired
            left[replica.node] -= more
            grown[view.service] = grown.get(view.service, 0.0) + more
    if min(left.values()) < -EXACT:
        return False
    for view in {id(v): v for v, _ in wishes}.values():
        limit = paces[view.service].service.cores_max
        more = grown.get(view.service, 0.0)
        if limit is not None and more > 0 and _held(view) + more > limit + EXACT:
            return False
    return True


def _shared_out(
    wishes: Sequence[tuple[ServiceView, Wish]], free: Mapping[str, float], paces: Mapping[str, ServicePace]
) -> list[tuple[ServiceView, Wish]]:
    """The wishes cut down to what there is.

    Shares go by smoothed needs, since they must not follow every window; what is left goes to the window's.
    """
    left = dict(free)
    limits: dict[str, float] = {}
    least = {view.service: paces[view.service].service.cores_min for view, _ in wishes}
    claims = []
    for view, wish in wishes:
        service = paces[view.service].service
        if view.service not in limits:
            limits[view.service] = float("inf") if service.cores_max is None else service.cores_max
            limits[view.service] -= sum(r.cores_desired for r in view.replicas if r.state == "starting")
        for replica in wish.replicas:
            left[replica.node] += replica.cores_desired
        flow, need = wish.pace.flow, wish.pace.smooth
        at_most = max(flow, need, wish.need)
        claims.append(Claim(view.service, service.weight, wish.pace, wish.replicas, flow, need, at_most))
    shares = share_out(claims, left, limits, least)
    return [(view, wish._replace(cores=cores)) for (view, wish), cores in zip(wishes, shares, strict=True)]


def _starts(view: ServiceView, wish: Wish, free: dict[str, float], service: Service) -> list[Grant]:
    """Starts on the nodes with most cores left, as far as there are any; takes them off `free`."""
    base = wish.pace.target.cores
    room = float("inf") if service.cores_max is None else service.cores_max - _held(view)
    grants: list[Grant] = []
    for _ in range(wish.starts):
        node = max(free, key=lambda name: free[name])
        if min(free[node], room) < base - EXACT:
            break
        free[node] -= base
        room -= base
        plan = ReplicaPlan(base, wish.pace.resident, node)
        grants.append(GrantStart(view.service, wish.pace.sizing.stage.name, plan))
    return grants


def _held(view: ServiceView) -> float:
    return sum(replica.cores_desired for replica in view.replicas)


def _words(view: ServiceView, wish: Wish) -> str:
    before = sum(replica.cores_desired for replica in wish.replicas)
    stage = wish.pace.sizing.stage.name
    return (
        f"{view.service}.{stage}: {wish.pace.queue_rows} wait, {wish.need:.1f} rows/s to carry: "
        f"{before:g} -> {sum(wish.cores):g} cores"
    )
