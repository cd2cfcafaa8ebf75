"""From a checked spec to a deployment: files found, models asked what they take, bounds possible.

This is the last place where a mistake in the spec can be told before anything is started. Models are loaded
in a process of their own (`runtime.inspect`), all of them at once.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from steelyard.config.latency import declared_latency
from steelyard.config.load import LoadedSpec
from steelyard.config.pipeline import tensor_of
from steelyard.config.policy import chosen_policy, policy_problem
from steelyard.config.schema import ServiceSpec, Spec, StageSpec, VariantEntry
from steelyard.config.signatures import Member, Members, agreed, client_signature, shape_buckets
from steelyard.config.source import Path as SpecPath
from steelyard.config.source import nearest
from steelyard.core.errors import SpecError
from steelyard.core.types import Service, Stage, Variant
from steelyard.profile.types import DeclaredLatency
from steelyard.runtime.base import Signature, VariantSpec
from steelyard.runtime.inspect import inspect
from steelyard.runtime.registry import names as runtime_names
from steelyard.serve.base import DeployedService, DeployedStage, Deployment, ServedService

BATCH_ROWS_DEFAULT = 16
"""Rows of a batch where neither spec nor model sets a bound: the profile shows what is worth it below."""
CORES_DEFAULT = 8
"""Most cores of a replica where the spec sets no bound: a session for each width costs memory."""
CORES_MIN_ALONE, CORES_MIN_SHARED = 1.0, 0.25
"""Least cores of a service where the spec sets no bound: several services can leave theirs to each other."""


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
    _check_minima(loaded, cores or cores_available)
    services = {name: _service(loaded, name, members[name]) for name in spec.services}
    chosen = chosen_policy(spec, policy)
    problem = policy_problem(chosen, spec, {name: made.served.service for name, made in services.items()})
    if problem:
        raise SpecError(f"--policy: {problem}") if policy else source.error(("policy",), problem)
    return Deployment(
        services=services, policy=chosen.name, policy_options=chosen.options, cores=cores, source=source.label
    )


def notices(spec: Spec) -> tuple[str, ...]:
    """Lines about keys that are read and checked, but which `serve` does not act on yet."""
    keys = []
    for name, service in spec.services.items():
        keys += [f"{name}.objective"] if service.objective else []
        keys += [
            f"{name}.classes.{key}.weight" for key, found in service.classes.items() if found.weight != 1
        ]
    return tuple(f"services.{key} is checked, but serve does not apply it yet" for key in keys)


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


def _check_minima(loaded: LoadedSpec, cores: int) -> None:
    """What the services must have at least fits on the machine."""
    total = 0.0
    for name, service in loaded.spec.services.items():
        total += service.cores.min or 0.0
        if total > cores:
            message = f"want at most {cores} cores for all services together, got {total:g}"
            raise loaded.source.error(("services", name, "cores", "min"), message)


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
    variants = {name: _variants(loaded, name, *stage) for name, stage in stages.items()}
    specs: dict[SpecPath, VariantSpec] = {}
    for found in variants.values():
        for path, variant_name, entry in found:
            specs[path] = _variant_spec(loaded, path, variant_name, entry, cores_max)
    answers = dict(zip(specs, ask(list(specs.values())), strict=True))
    members: dict[str, Members] = {}
    for name, found in variants.items():
        members[name] = []
        for path, _, entry in found:
            answer = answers[path]
            if isinstance(answer, str):
                raise loaded.source.error(path, answer)
            spec = _bounded(loaded, path, specs[path], answer)
            members[name].append(Member(path, entry, spec, answer))
    return members


def _variants(
    loaded: LoadedSpec, service: str, stage_name: str, stage: StageSpec
) -> list[tuple[SpecPath, str, VariantEntry]]:
    """A stage's variants: its model's, or for Python glue the one that it is."""
    if stage.model is None:
        path: SpecPath = ("services", service, "pipeline", stage_name, "python")
        return [(path, stage_name, VariantEntry(python=stage.python))]
    model = loaded.spec.models[stage.model]
    return [
        (("models", stage.model, "variants", name), name, entry) for name, entry in model.variants.items()
    ]


def _variant_spec(
    loaded: LoadedSpec, path: SpecPath, name: str, entry: VariantEntry, cores_max: int
) -> VariantSpec:
    """What the worker needs; relative files made absolute."""
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
        cores_max=entry.cores_max or cores_max,
        providers=entry.providers,
        session_options=entry.session_options,
        example={tensor: example.shape for tensor, example in entry.example.items()},
        options=_options(entry),
    )


def _target(loaded: LoadedSpec, path: SpecPath, entry: VariantEntry) -> str:
    if entry.kind == "onnx":
        file = loaded.folder / (entry.onnx or entry.target)
        if not file.is_file():
            raise loaded.source.error((*path, "onnx" if entry.onnx else "target"), f"no such file: {file}")
        return str(file.resolve())
    target = entry.python or entry.target
    file_name, colon, attribute = target.rpartition(":")
    if entry.kind == "python" and not (colon and file_name and attribute):
        where = (*path, "python") if entry.python and path[-1] != "python" else path
        raise loaded.source.error(where, f"want module:Class or file.py:Class, got {target or 'nothing'}")
    if not file_name.endswith(".py"):
        return target
    file = loaded.folder / file_name
    if not file.is_file():
        raise loaded.source.error(
            (*path, "python") if path[-1] != "python" else path, f"no such file: {file}"
        )
    return f"{Path(file).resolve()}:{attribute}"


def _options(entry: VariantEntry) -> dict[str, Any]:
    """The runtime's options; a `sleep` variant without any sleeps what its `latency` declares."""
    latency = entry.latency
    if entry.kind != "sleep" or entry.options or latency is None or latency.coefficients_ms is None:
        return dict(entry.options)
    alpha, beta, gamma, zeta = latency.coefficients_ms
    return {"alpha_ms": alpha, "beta_ms": beta, "gamma_ms": gamma, "zeta_ms": zeta}


def _bounded(loaded: LoadedSpec, path: SpecPath, spec: VariantSpec, signature: Signature) -> VariantSpec:
    """The variant with its batch bound decided: 1 where the model's leading axis is fixed."""
    if not signature.batchable and (spec.batch_rows_max or 1) > 1:
        message = f"want 1: the model has no dynamic leading axis, got {spec.batch_rows_max}"
        raise loaded.source.error((*path, "batch_max"), message)
    rows_max = (spec.batch_rows_max or BATCH_ROWS_DEFAULT) if signature.batchable else 1
    return replace(spec, batch_rows_max=rows_max)


def _service(loaded: LoadedSpec, name: str, members: Members) -> DeployedService:
    service = loaded.spec.services[name]
    cores_min = CORES_MIN_ALONE if len(loaded.spec.services) == 1 else CORES_MIN_SHARED
    stage_name, stage = next(iter(service.pipeline.items()))
    signature = agreed(members, loaded.source)
    promised = Service(
        name=name,
        slo_s=service.slo.latency,
        quantile=service.slo.quantile,
        stages=(Stage(stage_name, tuple(_variant(entry, spec) for _, entry, spec, _ in members)),),
        request_rows_max=service.limits.request_rows,
        queue_rows_max=service.limits.queue_rows,
        retries_max=service.limits.retries,
        cores_min=service.cores.min or min(cores_min, service.cores.max or cores_min),
        cores_max=service.cores.max,
        weight=service.weight,
    )
    served = ServedService(
        service=promised,
        signature=client_signature(service, signature, loaded.source, ("services", name)),
        buckets=shape_buckets(members, signature, loaded.source),
        classes={name: known.latency for name, known in service.classes.items()},
    )
    deployed = DeployedStage(
        model=stage.model or stage_name,
        specs=tuple(spec for _, _, spec, _ in members),
        signature=signature,
        declared=_declared(loaded, members),
    )
    return DeployedService(served=served, stages={stage_name: deployed})


def _variant(entry: VariantEntry, spec: VariantSpec) -> Variant:
    known = Variant(
        name=spec.name,
        accuracy=entry.accuracy,
        batch_rows_max=spec.batch_rows_max or 1,
        cores_max=spec.cores_max,
    )
    return known if entry.cold_start is None else replace(known, cold_start_s=entry.cold_start)


def _declared(loaded: LoadedSpec, members: Members) -> dict[str, DeclaredLatency]:
    declared: dict[str, DeclaredLatency] = {}
    for path, entry, spec, _ in members:
        latency = declared_latency(entry, loaded.source, path, folder=loaded.folder)
        if latency is not None:
            declared[spec.name] = latency
    return declared
