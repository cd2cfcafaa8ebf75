"""From a checked spec to a deployment: files found, models asked what they take, bounds possible.

This is the last place where a mistake in the spec can be told before anything is started. Models are loaded
in a process of their own (`runtime.inspect`), all of them at once.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from steelyard.config.latency import declared_latency
from steelyard.config.load import LoadedSpec
from steelyard.config.pipeline import tensor_of
from steelyard.config.policy import asked_policy
from steelyard.config.schema import ServiceSpec, StageSpec
from steelyard.config.signatures import Member, Members, agreed, client_signature, shape_buckets
from steelyard.config.source import Path as SpecPath
from steelyard.config.stages import (
    BATCH_ROWS_DEFAULT,
    CORES_DEFAULT,
    Candidate,
    bounded_variant,
    candidates,
    check_minima,
    latency_classes,
    promised_service,
    variant_spec,
)
from steelyard.core.types import Stage
from steelyard.profile.types import DeclaredLatency
from steelyard.runtime.base import Signature, VariantSpec
from steelyard.runtime.inspect import inspect
from steelyard.serve.base import DeployedService, DeployedStage, Deployment, ServedService

Ask = Callable[[Sequence[VariantSpec]], list[Signature | str]]


def resolve(
    loaded: LoadedSpec,
    *,
    cores_available: int,
    cores: int | None = None,
    policy: str | None = None,
    ask: Ask = inspect,
) -> Deployment:
    """Make a deployment of a spec.

    Args:
        loaded: the checked spec.
        cores_available: cores this process may use; bounds beyond them are errors.
        cores: overrides the spec's `cluster.cores`.
        policy: overrides the spec's `policy`: a policy's or a configuration's name.
        ask: says what models take and give, or why they do not load.

    Raises:
        SpecError: one line that names file, line and key.
    """
    spec, source = loaded.spec, loaded.source
    _check_cluster(loaded, cores_available)
    cores = cores or spec.cluster.cores
    entries = {name: _only_stage(loaded, name, service) for name, service in spec.services.items()}
    members = _members(loaded, entries, ask, cores_max=min(cores or cores_available, CORES_DEFAULT))
    check_minima(loaded, cores or cores_available)
    services = {name: _service(loaded, name, members[name]) for name in spec.services}
    chosen = asked_policy(loaded, policy, {name: made.served.service for name, made in services.items()})
    return Deployment(
        services=services, policy=chosen.name, policy_options=chosen.options, cores=cores, source=source.label
    )


def _check_cluster(loaded: LoadedSpec, cores_available: int) -> None:
    cluster, source = loaded.spec.cluster, loaded.source
    if cluster.backend != "local":
        raise source.error(("cluster", "backend"), f"serve runs on local so far, not on {cluster.backend}")
    if cluster.nodes is not None:
        raise source.error(
            ("cluster", "nodes"), "serve runs on this machine's cores; nodes are for planning so far"
        )
    if cluster.cores is not None and cluster.cores > cores_available:
        message = f"want at most the {cores_available} cores this process may use, got {cluster.cores}"
        raise source.error(("cluster", "cores"), message)


def _only_stage(loaded: LoadedSpec, name: str, service: ServiceSpec) -> tuple[str, StageSpec]:
    """The single stage of a service that can be served today."""
    path: SpecPath = ("services", name, "pipeline")
    if len(service.pipeline) > 1:
        message = f"serve runs pipelines of one stage so far, this one has {len(service.pipeline)}"
        raise loaded.source.error(path, message)
    stage_name, stage = next(iter(service.pipeline.items()))
    for key in ("each", "when", "after", "fan_out"):
        if getattr(stage, key):
            raise loaded.source.error((*path, stage_name, key), "needs a pipeline of more than one stage")
    for tensor, reference in stage.inputs.items():
        if tensor_of(reference)[1] != tensor:
            message = f"want request.{tensor}: serve does not rename tensors so far, got {reference}"
            raise loaded.source.error((*path, stage_name, "inputs", tensor), message)
    for tensor, reference in service.outputs.items():
        if tensor_of(reference) != (stage_name, tensor):
            message = f"want {stage_name}.{tensor}: serve does not rename tensors so far, got {reference}"
            raise loaded.source.error(("services", name, "outputs", tensor), message)
    return stage_name, stage


def _members(
    loaded: LoadedSpec, stages: Mapping[str, tuple[str, StageSpec]], ask: Ask, *, cores_max: int
) -> dict[str, Members]:
    """Each service's variants with what their models say, every model loaded once."""
    found = {name: candidates(loaded, name, *stage) for name, stage in stages.items()}
    specs: dict[SpecPath, VariantSpec] = {
        candidate.path: variant_spec(loaded, candidate, cores_max=cores_max)
        for listed in found.values()
        for candidate in listed
    }
    answers = dict(zip(specs, ask(list(specs.values())), strict=True))
    members: dict[str, Members] = {name: [] for name in found}
    for name, listed in found.items():
        for path, _, entry in listed:
            answer = answers[path]
            if isinstance(answer, str):
                raise loaded.source.error(path, answer)
            spec = _bounded(loaded, path, specs[path], answer)
            members[name].append(Member(path, entry, spec, answer))
    return members


def _bounded(loaded: LoadedSpec, path: SpecPath, spec: VariantSpec, signature: Signature) -> VariantSpec:
    """The variant with its batch bound decided: 1 where the model's leading axis is fixed."""
    if not signature.batchable and (spec.batch_rows_max or 1) > 1:
        message = f"want 1: the model has no dynamic leading axis, got {spec.batch_rows_max}"
        raise loaded.source.error((*path, "batch_max"), message)
    rows_max = (spec.batch_rows_max or BATCH_ROWS_DEFAULT) if signature.batchable else 1
    return replace(spec, batch_rows_max=rows_max)


def _service(loaded: LoadedSpec, name: str, members: Members) -> DeployedService:
    service = loaded.spec.services[name]
    stage_name, stage = next(iter(service.pipeline.items()))
    signature = agreed(members, loaded.source)
    variants = (
        bounded_variant(
            Candidate(path, spec.name, entry),
            batch_rows_max=spec.batch_rows_max or 1,
            cores_max=spec.cores_max,
        )
        for path, entry, spec, _ in members
    )
    served = ServedService(
        service=promised_service(loaded, name, [Stage(stage_name, tuple(variants))]),
        signature=client_signature(service, signature, loaded.source, ("services", name)),
        buckets=shape_buckets(members, signature, loaded.source),
        classes=latency_classes(loaded, name),
    )
    deployed = DeployedStage(
        model=stage.model or stage_name,
        specs=tuple(spec for _, _, spec, _ in members),
        signature=signature,
        declared=_declared(loaded, members),
    )
    return DeployedService(served=served, stages={stage_name: deployed})


def _declared(loaded: LoadedSpec, members: Members) -> dict[str, DeclaredLatency]:
    declared: dict[str, DeclaredLatency] = {}
    for path, entry, spec, _ in members:
        latency = declared_latency(entry, loaded.source, path, folder=loaded.folder)
        if latency is not None:
            declared[spec.name] = latency
    return declared
