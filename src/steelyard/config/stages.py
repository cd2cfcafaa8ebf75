"""What serving and planning both read off a spec: variants, their bounds, what a service promises."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from steelyard.config.accuracies import on_devices, stated_paths
from steelyard.config.items import planned_rows, taken_items
from steelyard.config.latency import CPU
from steelyard.config.load import LoadedSpec
from steelyard.config.pipeline import REQUEST, tensor_of, upstream
from steelyard.config.schema import ObjectiveSpec, ServiceSpec, StageSpec, VariantEntry
from steelyard.config.source import Path as SpecPath
from steelyard.config.source import nearest
from steelyard.core.types import Input, Objective, Service, SloClass, Stage, Variant
from steelyard.policies.steelyard.policy import FRACTION
from steelyard.profile.types import DeclaredLatency, Profile
from steelyard.runtime.base import VariantSpec
from steelyard.runtime.registry import names as runtime_names

BATCH_ROWS_DEFAULT = 16
"""Rows of a batch where neither spec nor model sets a bound: the profile shows what is worth it below."""
CORES_DEFAULT = 8
"""Most cores of a replica where the spec sets no bound: a session for each width costs memory."""
GLUE_MS = 5.0
"""A row in a stage of Python glue that states no latency and has no signature to make inputs from."""
CORES_MIN_ALONE, CORES_MIN_SHARED = 1.0, 0.25
"""Least cores of a service where the spec sets no bound: several services can leave theirs to each other."""


class Candidate(NamedTuple):
    """A variant that can answer a stage: its path in the spec, its name, and what the spec says of it."""

    path: SpecPath
    name: str
    entry: VariantEntry


def candidates(loaded: LoadedSpec, service: str, stage_name: str, stage: StageSpec) -> list[Candidate]:
    """A stage's variants: its model's, or for Python glue the one that it is."""
    if stage.model is None:
        entry = stage.entry
        if any(other.model is not None for other in loaded.spec.services[service].pipeline.values()):
            entry = entry.model_copy(update={"accuracy": 1.0})  # it is as exact as what it is given
        return [Candidate(("services", service, "pipeline", stage_name), stage_name, entry)]
    model = loaded.spec.models[stage.model]
    return [
        Candidate(("models", stage.model, "variants", name), name, entry)
        for name, entry in model.variants.items()
    ]


def assumed_latency(service: ServiceSpec, stage: str) -> DeclaredLatency | None:
    """Of glue between models, whose times nobody states or can measure: what is planned until it has run."""
    if service.pipeline[stage].model is not None or len(service.pipeline) == 1:
        return None
    return DeclaredLatency(coefficients_ms=(0.0, GLUE_MS, 0.0, 0.0))


def fixed_bucket(stage: StageSpec, entries: Sequence[VariantEntry]) -> int | None:
    """The shape bucket of a stage whose inputs are not the request's: its largest, to be on the safe side.

    None where the sizes of requests decide, or there are no buckets.
    """
    for entry in entries:
        for name, buckets in entry.buckets.items():
            implied = REQUEST if not (stage.inputs or stage.each or stage.after) else ""
            source = tensor_of(stage.inputs[name])[0] if name in stage.inputs else implied
            if source != REQUEST:
                return len(buckets.sizes) - 1
    return None


def variant_spec(loaded: LoadedSpec, candidate: Candidate, *, cores_max: int) -> VariantSpec:
    """What a worker needs to make a variant; relative files made absolute.

    Args:
        loaded: the checked spec.
        candidate: the variant.
        cores_max: most cores of a replica where the spec does not say; Python glue has one then.

    Raises:
        SpecError: it cannot be run at all, its runtime is not known, or a file is missing.
    """
    path, name, entry = candidate
    known = runtime_names()
    if not entry.kind:
        message = "declares only its latency: it can be planned, not served; give onnx, python or runtime"
        raise loaded.source.error(path, message)
    if entry.kind not in known:
        raise loaded.source.error(
            (*path, "runtime"), f"unknown runtime {entry.kind}{nearest(entry.kind, known)}"
        )
    return VariantSpec(
        name=name,
        kind=entry.kind,
        target=_target(loaded, path, entry),
        batch_rows_max=entry.batch_max,
        cores_max=entry.cores_max or (1 if path[0] == "services" else cores_max),
        providers=entry.providers,
        session_options=entry.session_options,
        example={tensor: example.shape for tensor, example in entry.example.items()},
        options=_options(entry),
    )


def bounded_variant(
    candidate: Candidate, *, batch_rows_max: int, cores_max: int, device: str = CPU
) -> Variant:
    """A variant as machines and policies know it, with the spec's times where it states them.

    On another device than the CPU it is a variant of its own, which bears the device's name behind an `@`.
    """
    entry = candidate.entry
    known = Variant(
        name=candidate.name if device == CPU else f"{candidate.name}@{device}",
        accuracy=entry.accuracy,
        batch_rows_max=batch_rows_max,
        cores_max=cores_max,
        load_s=entry.load,
        memory_bytes=entry.memory or 0,
        device=device,
    )
    if entry.cold_start is not None:
        known = replace(known, cold_start_s=entry.cold_start)
    return known if entry.resize is None else replace(known, resize_s=entry.resize)


def profiled_variant(variant: Variant, entry: VariantEntry, profile: Profile) -> Variant:
    """The variant with measured times of starts and resizes, except where the spec's entry states them."""
    if entry.cold_start is None:
        variant = replace(variant, cold_start_s=profile.cold_start_s)
    if entry.resize is None:
        variant = replace(variant, resize_s=profile.resize_s)
    return variant


def linked_stages(
    loaded: LoadedSpec,
    name: str,
    variants: Mapping[str, tuple[Variant, ...]],
    *,
    inputs: Mapping[str, tuple[Input, ...]] | None = None,
    guess: float | None = None,
) -> list[Stage]:
    """A service's stages as machines know them.

    Args:
        loaded: the checked spec.
        name: the service's.
        variants: of each stage, in topological order.
        inputs: where each stage's come from; None where no tensor moves.
        guess: as `planned_rows` takes it.

    Raises:
        SpecError: it is not known how many rows a stage is given.
    """
    service = loaded.spec.services[name]
    names = {stage: tuple(variant.name for variant in listed) for stage, listed in variants.items()}
    rows = planned_rows(service, names, loaded.source, ("services", name), guess=guess)
    made = []
    for stage, listed in variants.items():
        taken = taken_items(service, stage)
        made.append(
            Stage(
                name=stage,
                variants=listed,
                after=_before(service, stage),
                fan_out=rows[stage].fan_out,
                items_of=taken.of if taken else "",
                each=taken.each if taken else "",
                when=taken.when if taken else None,
                items=rows[stage].items,
                inputs=inputs[stage] if inputs else (),
            )
        )
    return made


def _before(service: ServiceSpec, name: str) -> tuple[str, ...]:
    """The stages that one comes after; one that joins items needs their counts, too, from who made them."""
    before = upstream(service.pipeline[name])
    if taken_items(service, name) is None:
        makers = [taken.of for taken in (taken_items(service, each) for each in before) if taken]
        before = list(dict.fromkeys([*before, *makers]))
    return tuple(before)


def promised_service(loaded: LoadedSpec, name: str, stages: Sequence[Stage]) -> Service:
    """What the spec promises for a service of these stages, which are in topological order."""
    service = loaded.spec.services[name]
    cores_min = CORES_MIN_ALONE if len(loaded.spec.services) == 1 else CORES_MIN_SHARED
    return Service(
        name=name,
        slo_s=service.slo.latency,
        quantile=service.slo.quantile,
        stages=tuple(stages),
        request_rows_max=service.limits.request_rows,
        queue_rows_max=service.limits.queue_rows,
        retries_max=service.limits.retries,
        cores_min=service.cores.min or min(cores_min, service.cores.max or cores_min),
        cores_max=service.cores.max,
        weight=service.weight,
        path_accuracies=on_devices(
            stated_paths(loaded.spec, name, loaded.source, loaded.folder),
            {stage.name: stage.variants for stage in stages},
        ),
        objective=_objective(service.objective),
        classes={name: SloClass(known.latency, known.weight) for name, known in service.classes.items()},
    )


def _objective(spec: ObjectiveSpec | None) -> Objective | None:
    if spec is None:
        return None
    given = spec.weights
    weights = None if given is None else (given.accuracy, given.cores, given.switch)
    return Objective(spec.accuracy_floor, spec.cost_max_cores, weights)


def latency_classes(loaded: LoadedSpec, service: str) -> dict[str, float]:
    """Latency bound in seconds by SLO class."""
    return {name: known.latency for name, known in loaded.spec.services[service].classes.items()}


def check_room(loaded: LoadedSpec, cores: int) -> None:
    """What the services must have at least fits on so many cores, and each stage can have a replica.

    A replica has no less than `FRACTION` of a core.

    Raises:
        SpecError: it does not, or one cannot.
    """
    services, source = loaded.spec.services, loaded.source
    total = 0.0
    for name, service in services.items():
        total += service.cores.min or 0.0
        if total > cores:
            message = f"want at most {cores} cores for all services together, got {total:g}"
            raise source.error(("services", name, "cores", "min"), message)
    least = FRACTION * sum(len(service.pipeline) for service in services.values())
    if least > cores:
        key = "cores" if loaded.spec.cluster.nodes is None else "nodes"
        message = f"want at least {least:g} cores, {FRACTION:g} for each stage of all services, got {cores}"
        raise source.error(("cluster", key), message)
    for name, service in services.items():
        least = FRACTION * len(service.pipeline)
        if service.cores.max is not None and service.cores.max < least:
            message = f"want at least {least:g}, {FRACTION:g} of a core for each stage"
            at = ("services", name, "cores", "max")
            raise source.error(at, f"{message}, got {service.cores.max:g}")


def _target(loaded: LoadedSpec, path: SpecPath, entry: VariantEntry) -> str:
    if entry.kind == "onnx":
        file = loaded.folder / (entry.onnx or entry.target)
        if not file.is_file():
            raise loaded.source.error((*path, "onnx" if entry.onnx else "target"), f"no such file: {file}")
        return str(file.resolve())
    target = entry.python or entry.target
    file_name, colon, attribute = target.rpartition(":")
    if entry.kind == "python" and not (colon and file_name and attribute):
        where = (*path, "python") if entry.python else path
        raise loaded.source.error(where, f"want module:Class or file.py:Class, got {target or 'nothing'}")
    if not file_name.endswith(".py"):
        return target
    file = loaded.folder / file_name
    if not file.is_file():
        raise loaded.source.error((*path, "python" if entry.python else "target"), f"no such file: {file}")
    return f"{Path(file).resolve()}:{attribute}"


def _options(entry: VariantEntry) -> dict[str, Any]:
    """The runtime's options; a `sleep` variant without any sleeps what its `latency` declares."""
    latency = entry.latency
    if entry.kind != "sleep" or entry.options or latency is None or latency.coefficients_ms is None:
        return dict(entry.options)
    alpha, beta, gamma, zeta = latency.coefficients_ms
    return {"alpha_ms": alpha, "beta_ms": beta, "gamma_ms": gamma, "zeta_ms": zeta}
