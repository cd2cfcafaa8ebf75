"""From a checked spec to a deployment: files found, models asked what they take, bounds possible.

This is the last place where a mistake in the spec can be told before anything is started. Models are loaded
in a process of their own (`runtime.inspect`), all of them at once.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from steelyard.config.client import client_outputs, client_signature, request_buckets
from steelyard.config.latency import declared_latency
from steelyard.config.load import LoadedSpec
from steelyard.config.pipeline import stage_order, tensor_of
from steelyard.config.policy import asked_policy
from steelyard.config.schema import ServiceSpec
from steelyard.config.signatures import Member, Members, agreed, shape_buckets
from steelyard.config.source import Path as SpecPath
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
    promised_service,
    variant_spec,
)
from steelyard.config.wiring import Answerer, Wires
from steelyard.core.types import Input, Stage
from steelyard.profile.types import DeclaredLatency
from steelyard.runtime.base import Signature, VariantSpec
from steelyard.runtime.inspect import inspect
from steelyard.serve.base import DeployedService, DeployedStage, Deployment, ServedService

Ask = Callable[[Sequence[VariantSpec]], list[Signature | str]]
ITEMS_GUESS = 1.0
"""Items a row that are planned where the spec does not say how many there are."""


def resolve(
    loaded: LoadedSpec,
    *,
    cores_available: int,
    cores: int | None = None,
    policy: str | None = None,
    ask: Ask = inspect,
    known_only: bool = False,
) -> Deployment:
    """Make a deployment of a spec.

    Args:
        loaded: the checked spec.
        cores_available: cores this process may use; bounds beyond them are errors.
        cores: overrides the spec's `cluster.cores`.
        policy: overrides the spec's `policy`: a policy's or a configuration's name.
        ask: says what models take and give, or why they do not load.
        known_only: leave services out of whose inputs nothing is known: Python glue by itself.

    Raises:
        SpecError: one line that names file, line and key.
    """
    spec, source = loaded.spec, loaded.source
    _check_cluster(loaded, cores_available)
    cores = cores or spec.cluster.cores
    members = _members(loaded, ask, cores_max=min(cores or cores_available, CORES_DEFAULT))
    check_room(loaded, cores or cores_available)
    services = {
        name: _service(loaded, name, members[name])
        for name in spec.services
        if not known_only or _is_known(spec.services[name], members[name])
    }
    chosen = asked_policy(loaded, policy, {name: made.served.service for name, made in services.items()})
    return Deployment(
        services=services,
        policy=chosen.name,
        policy_options=chosen.options,
        cores=cores,
        lends=spec.cluster.fractions == "lent",
        source=source.label,
    )


def _is_known(service: ServiceSpec, members: Mapping[str, Members]) -> bool:
    return bool(service.inputs) or any(m.signature.inputs for found in members.values() for m in found)


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


def _members(loaded: LoadedSpec, ask: Ask, *, cores_max: int) -> dict[str, dict[str, Members]]:
    """By service and stage, the variants with what their models say, every model loaded once."""
    found = {
        (name, stage_name): candidates(loaded, name, stage_name, service.pipeline[stage_name])
        for name, service in loaded.spec.services.items()
        for stage_name in stage_order(service, loaded.source, ("services", name))
    }
    specs: dict[SpecPath, VariantSpec] = {
        candidate.path: variant_spec(loaded, candidate, cores_max=cores_max)
        for listed in found.values()
        for candidate in listed
    }
    answers = dict(zip(specs, ask(list(specs.values())), strict=True))
    members: dict[str, dict[str, Members]] = {}
    for (name, stage_name), listed in found.items():
        of_stage = members.setdefault(name, {}).setdefault(stage_name, [])
        for path, _, entry in listed:
            answer = answers[path]
            if isinstance(answer, str):
                raise loaded.source.error(path, answer)
            spec = _bounded(loaded, path, specs[path], answer)
            of_stage.append(Member(path, entry, spec, answer))
    return members


def _bounded(loaded: LoadedSpec, path: SpecPath, spec: VariantSpec, signature: Signature) -> VariantSpec:
    """The variant with its batch bound decided: 1 where the model's leading axis is fixed."""
    if not signature.batchable and (spec.batch_rows_max or 1) > 1:
        message = f"want 1: the model has no dynamic leading axis, got {spec.batch_rows_max}"
        raise loaded.source.error((*path, "batch_max"), message)
    rows_max = (spec.batch_rows_max or BATCH_ROWS_DEFAULT) if signature.batchable else 1
    return replace(spec, batch_rows_max=rows_max)


def _service(loaded: LoadedSpec, name: str, members: Mapping[str, Members]) -> DeployedService:
    service, source, path = loaded.spec.services[name], loaded.source, ("services", name)
    signatures = {stage: agreed(found, source) for stage, found in members.items()}
    answerers = {
        stage: Answerer(found[0].spec.kind, signatures[stage], tuple(each.signature for each in found))
        for stage, found in members.items()
    }
    wires = Wires(service, answerers, source, path)
    for stage in members:
        wires.check_taken(stage)
    _check_makers(loaded, name, members)
    inputs = {stage: wires.inputs(stage) for stage in members}
    buckets = {stage: shape_buckets(found, signatures[stage], source) for stage, found in members.items()}
    outputs = client_outputs(service, wires, source, path)
    stages = _stages(loaded, name, members, inputs)
    answers = tuple(stage for stage in members if stage in {each for each, _ in outputs.values()})
    served = ServedService(
        service=replace(
            promised_service(loaded, name, stages), answers=() if answers == (stages[-1].name,) else answers
        ),
        signature=client_signature(service, wires, inputs, outputs, source, path),
        buckets=request_buckets(inputs, buckets, source, path),
        classes=latency_classes(loaded, name),
    )
    deployed = {
        stage: DeployedStage(
            model=service.pipeline[stage].model or stage,
            specs=tuple(spec for _, _, spec, _ in found),
            signature=signatures[stage],
            declared=_declared(loaded, found),
            assumed=_assumed(loaded, name, stage, found),
            buckets=buckets[stage],
            bucket=fixed_bucket(service.pipeline[stage], [member.entry for member in found]),
        )
        for stage, found in members.items()
    }
    return DeployedService(served=served, stages=deployed, outputs=outputs)


def _check_makers(loaded: LoadedSpec, name: str, members: Mapping[str, Members]) -> None:
    """Whoever makes items can tell them apart by row.

    Raises:
        SpecError: a count without items, or items of a model that runs several rows a batch.
    """
    pipeline = loaded.spec.services[name].pipeline
    for stage, spec in pipeline.items():
        at = ("services", name, "pipeline", stage)
        if spec.fan_out is not None and spec.each is None:
            message = "goes with each: without, nobody knows what the rows are"
            raise loaded.source.error((*at, "fan_out"), message)
        if spec.each is None:
            continue
        maker = tensor_of(spec.each)[0]
        if any(m.spec.kind == "onnx" and m.signature.batchable for m in members[maker]):
            message = (
                f"{pipeline[maker].model} runs several rows a batch, so nobody can tell whose items are "
                "whose: want a model of one row, or a Python stage"
            )
            raise loaded.source.error((*at, "each"), message)


def _stages(
    loaded: LoadedSpec, name: str, members: Mapping[str, Members], inputs: Mapping[str, tuple[Input, ...]]
) -> list[Stage]:
    """The core's stages; of a single one that takes the request as it is, no input is named."""
    variants = {
        stage: tuple(
            bounded_variant(
                Candidate(at, spec.name, entry),
                batch_rows_max=spec.batch_rows_max or 1,
                cores_max=spec.cores_max,
            )
            for at, entry, spec, _ in found
        )
        for stage, found in members.items()
    }
    stages = linked_stages(loaded, name, variants, inputs=inputs, guess=ITEMS_GUESS)
    is_plain = all(wire == Input(wire.name, "", wire.name) for wire in stages[0].inputs)
    return [replace(stages[0], inputs=())] if len(stages) == 1 and is_plain else stages


def _declared(loaded: LoadedSpec, members: Members) -> dict[str, DeclaredLatency]:
    declared: dict[str, DeclaredLatency] = {}
    for path, entry, spec, _ in members:
        latency = declared_latency(entry, loaded.source, path, folder=loaded.folder)
        if latency is not None:
            declared[spec.name] = latency
    return declared


def _assumed(loaded: LoadedSpec, name: str, stage: str, members: Members) -> dict[str, DeclaredLatency]:
    """Of glue for which no inputs can be made to measure it with."""
    latency = assumed_latency(loaded.spec.services[name], stage)
    unknown = [member.spec.name for member in members if not member.signature.inputs]
    return {} if latency is None else dict.fromkeys(unknown, latency)
