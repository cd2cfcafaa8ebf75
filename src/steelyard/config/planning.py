"""From a checked spec to what planning and simulating need; no model is loaded, and nothing is measured.

A variant's service times are those that the spec declares (`latency:`), else those of a stored profile of
this machine; a variant with neither cannot be planned. Where the spec sets no bound, a variant's range is
that of its table or profile. Nodes are taken to enforce parts of a core, lent or capped as the spec says: so
does every machine that lets its server write control groups, and `serve` says it where one does not.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from steelyard.config.accuracies import check_floor
from steelyard.config.latency import CPU, check_positive, declared_latency
from steelyard.config.load import LoadedSpec
from steelyard.config.measured import with_accuracies
from steelyard.config.pipeline import stage_order
from steelyard.config.schema import StageSpec, VariantEntry
from steelyard.config.stages import (
    BATCH_ROWS_DEFAULT,
    CORES_DEFAULT,
    Candidate,
    assumed_latency,
    bounded_variant,
    candidates,
    check_room,
    fixed_bucket,
    latency_classes,
    linked_stages,
    profiled_variant,
    promised_service,
    variant_spec,
)
from steelyard.core.errors import ProfileError
from steelyard.core.types import Service, ServiceTimes, Variant
from steelyard.profile.tables import StageTimes, service_times
from steelyard.profile.types import Constants, DeclaredLatency, Profile
from steelyard.profiler.store import ProfileStore, default_directory
from steelyard.profiler.subject import Subject, key_of
from steelyard.runtime.base import Signature
from steelyard.sim.scenario import Physics, SimulatedNode

NODE = "local"
"""Name of the only node where the spec lists none, as `serve` calls this machine."""


class Blueprint(NamedTuple):
    """A spec as policies and the simulator take it.

    Attributes:
        services: by name; stages in topological order.
        times: one for each stage of each service.
        nodes: the cluster.
        classes: latency bound in seconds, by service and SLO class.
        physics: what the profiles know of the machine besides service times.
        prices: of an hour of a whole node, by its name, where the spec states one.
    """

    services: dict[str, Service]
    times: tuple[StageTimes, ...]
    nodes: tuple[SimulatedNode, ...]
    classes: dict[str, dict[str, float]]
    physics: Physics
    prices: dict[str, float]

    @property
    def cores(self) -> int:
        """Of all nodes together."""
        return sum(node.cores for node in self.nodes)

    def service_times(self) -> dict[tuple[str, str], ServiceTimes]:
        """What answers for each (service, stage)."""
        return {(known.service, known.stage): service_times(known) for known in self.times}


class _Known(NamedTuple):
    """A variant in its stage, what the spec says of it, and its service times' source: one of the two."""

    entry: VariantEntry
    variant: Variant
    declared: DeclaredLatency | None
    profile: Profile | None


def blueprint(loaded: LoadedSpec, *, cores_available: int, profiles: Path | None = None) -> Blueprint:
    """What a spec says of services, service times and nodes.

    Args:
        loaded: the checked spec.
        cores_available: of this machine: what `cores: auto` stands for, and part of a stored profile's key.
        profiles: folder of stored profiles; None is the user's own.

    Raises:
        SpecError: it cannot be planned; one line that names file, line and key.
        ProfileError: a stored profile cannot be used.
        ModelError: a model's file cannot be read.
    """
    nodes = _nodes(loaded, cores_available)
    sources = _Sources(loaded, profiles, cores_available, nodes)
    services: dict[str, Service] = {}
    times: list[StageTimes] = []
    constants: list[Constants] = []
    for name, spec in loaded.spec.services.items():
        order = stage_order(spec, loaded.source, ("services", name))
        known = {stage: sources.of_stage(name, stage) for stage in order}
        variants = {stage: tuple(k.variant for k in listed) for stage, listed in known.items()}
        service = promised_service(loaded, name, linked_stages(loaded, name, variants))
        profiled = [k.profile for variants in known.values() for k in variants if k.profile is not None]
        constants += [profile.constants for profile in profiled]
        replies_s = (profile.constants.reply_s for profile in profiled)
        service = with_accuracies(loaded, service, sources.directory)
        check_floor(service, loaded.source)
        services[name] = replace(service, reply_s=max((service.reply_s, *replies_s)))
        times += [_times(name, stage, spec.pipeline[stage], known[stage]) for stage in order]
    made = Blueprint(
        services=services,
        times=tuple(times),
        nodes=nodes,
        classes={name: latency_classes(loaded, name) for name in services},
        physics=_physics(constants),
        prices={
            node.name: node.price_per_hour
            for node in loaded.spec.cluster.nodes or ()
            if node.price_per_hour is not None
        },
    )
    _check_times(loaded, made)
    check_room(loaded, made.cores)
    return made


def check_objectives(loaded: LoadedSpec, made: Blueprint) -> None:
    """Every service can answer a single row within its SLO, on the most cores that it can have.

    Raises:
        SpecError: one cannot; names the least latency.
    """
    for name, service in made.services.items():
        fastest_s = least_latency_s(made, name)
        if fastest_s > service.slo_s:
            message = (
                f"want at least {fastest_s * 1e3:.4g}ms: so long takes a single row on the most cores, "
                f"got {service.slo_s * 1e3:.4g}ms"
            )
            raise loaded.source.error(("services", name, "slo", "latency"), message)


def least_latency_s(made: Blueprint, service: str) -> float:
    """`least_s` of one of the services, on the largest node."""
    known = {stage: times for (of, stage), times in made.service_times().items() if of == service}
    return least_s(made.services[service], known, max(node.cores for node in made.nodes))


def least_s(service: Service, times: Mapping[str, ServiceTimes], cores_max: int) -> float:
    """Median seconds of one row alone along the longest path, each stage at its fastest, and of the reply.

    Args:
        service: its pipeline and variants.
        times: by stage.
        cores_max: most cores that a replica can have.
    """
    ends_s: dict[str, float] = {}
    for stage in service.stages:
        fastest_s = min(
            times[stage.name].service_time_s(variant.name, 0, 1, float(cores))
            for variant in stage.variants
            for cores in range(1, min(variant.cores_max, cores_max) + 1)
        )
        ends_s[stage.name] = fastest_s + max((ends_s[name] for name in stage.after), default=0.0)
    return max(ends_s.values()) + service.reply_s


class _Sources:
    """Finds every variant's service times and range: in the spec, else in the store."""

    def __init__(
        self, loaded: LoadedSpec, profiles: Path | None, cores: int, nodes: Sequence[SimulatedNode]
    ) -> None:
        self._loaded = loaded
        self.directory = profiles or default_directory()
        self._store = ProfileStore(self.directory)
        self._cores = cores
        self._cores_max = min(max(node.cores for node in nodes), CORES_DEFAULT)
        self._devices = {CPU, *(device for node in nodes for device in node.devices)}

    def of_stage(self, service: str, stage_name: str) -> list[_Known]:
        stage = self._loaded.spec.services[service].pipeline[stage_name]
        listed = candidates(self._loaded, service, stage_name, stage)
        # As `signatures.shape_buckets` has them: the variants share their buckets.
        buckets = {name: (b.dim, b.sizes) for c in listed for name, b in c.entry.buckets.items()}
        model = stage.model or stage_name
        assumed = assumed_latency(self._loaded.spec.services[service], stage_name)
        known = [k for c in listed for k in self._declared(c) or [self._profiled(c, model, buckets, assumed)]]
        usable = [k for k in known if k.variant.device in self._devices]
        if not usable:
            message = f"{known[0].variant.device} is a device that no node has: give cluster.nodes devices"
            raise self._loaded.source.error((*listed[0].path, "latency"), message)
        return usable

    def _declared(self, candidate: Candidate) -> list[_Known]:
        """A variant that declares its latency, once for each device for which it does."""
        latency = candidate.entry.latency
        devices = (CPU,) if latency is None or latency.devices is None else tuple(latency.devices)
        return [known for device in devices if (known := self._declared_on(candidate, device)) is not None]

    def _declared_on(self, candidate: Candidate, device: str) -> _Known | None:
        path, _, entry = candidate
        source = self._loaded.source
        latency = declared_latency(entry, source, path, folder=self._loaded.folder, device=device)
        if latency is None:
            return None
        rows_max, cores_max = BATCH_ROWS_DEFAULT, self._cores_max
        if latency.table:
            rows_max = max(rows for rows, *_ in latency.table)
            cores_max = ceil(max(cores for _, cores, *_ in latency.table))
        rows_max, cores_max = entry.batch_max or rows_max, entry.cores_max or cores_max
        if latency.coefficients_ms is not None:
            at = (*path, "latency", *(() if device == CPU else (device,)))
            check_positive(latency.coefficients_ms, source, at, rows_max=rows_max, cores_max=cores_max)
        variant = bounded_variant(candidate, batch_rows_max=rows_max, cores_max=cores_max, device=device)
        return _Known(candidate.entry, variant, latency, None)

    def _profiled(
        self,
        candidate: Candidate,
        model: str,
        buckets: dict[str, tuple[int, tuple[int, ...]]],
        assumed: DeclaredLatency | None,
    ) -> _Known:
        path, name, entry = candidate
        assert entry.kind, "the schema wants a runtime or a latency"
        spec = variant_spec(self._loaded, candidate, cores_max=self._cores_max)
        # A profile's key is made of files and settings: what the model takes is not asked.
        unasked = Signature((), (), batchable=True)
        subject = Subject(model, spec, unasked, entry.batch_max or BATCH_ROWS_DEFAULT, buckets)
        key = key_of(subject, cores=self._cores)
        profile = self._store.load(*key, model=model, variant=name)
        if (profile is None or not profile.cells) and assumed is not None:
            rows_max = entry.batch_max or BATCH_ROWS_DEFAULT
            variant = bounded_variant(candidate, batch_rows_max=rows_max, cores_max=spec.cores_max)
            return _Known(entry, variant, assumed, None)
        if profile is None or not profile.cells:
            message = (
                f"no profile of it on this machine in {self._store.directory}: "
                f"run `steelyard profile {self._loaded.source.label}`, or give latency:"
            )
            raise self._loaded.source.error(path, message)
        # Glue is timed on whatever batches come; a model up to its largest one.
        rows_max = BATCH_ROWS_DEFAULT if assumed is not None else max(cell.rows for cell in profile.cells)
        variant = bounded_variant(
            candidate, batch_rows_max=entry.batch_max or rows_max, cores_max=spec.cores_max
        )
        return _Known(entry, profiled_variant(variant, entry, profile), None, profile)


def _nodes(loaded: LoadedSpec, cores_available: int) -> tuple[SimulatedNode, ...]:
    cluster = loaded.spec.cluster
    lends = cluster.fractions == "lent"
    if cluster.nodes is None:
        return (SimulatedNode(NODE, cluster.cores or cores_available, fractional=True, lends=lends),)
    return tuple(
        SimulatedNode(node.name, node.cores, True, dict(node.devices), node.memory or 0, lends)
        for node in cluster.nodes
    )


def _times(service: str, stage: str, spec: StageSpec, known: list[_Known]) -> StageTimes:
    return StageTimes(
        service,
        stage,
        profiles=tuple(k.profile for k in known if k.profile is not None),
        declared={k.variant.name: k.declared for k in known if k.declared is not None},
        bucket=fixed_bucket(spec, [k.entry for k in known]),
    )


def _physics(constants: list[Constants]) -> Physics:
    """The dearest of what the profiles measured; nothing where all is declared."""
    if not constants:
        return Physics()
    return Physics(
        dispatch_s=max(c.dispatch_s for c in constants),
        corun_ratio=max(1.0, *(c.corun_ratio for c in constants)),
        starting_ratio=max(1.0, *(c.starting_ratio for c in constants)),
    )


def _check_times(loaded: LoadedSpec, made: Blueprint) -> None:
    """Every stage's times can be asked: a table may contradict itself."""
    for known in made.times:
        try:
            service_times(known)
        except ProfileError as error:
            raise loaded.source.error(
                ("services", known.service, "pipeline", known.stage), str(error)
            ) from None
