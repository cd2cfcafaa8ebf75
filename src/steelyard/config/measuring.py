"""The part of a spec that can be measured here: for `profile`, of a spec that may not be meant for serving.

Profiles are of variants, whatever pipeline they stand in and whatever cluster they are planned for. So every
stage becomes a service of its own, on this machine; variants that only declare their latency are left out.
"""

from steelyard.config.load import LoadedSpec
from steelyard.config.schema import (
    ClusterSpec,
    CoresSpec,
    ModelSpec,
    PathAccuraciesSpec,
    PolicySpec,
    ServiceSpec,
    StageSpec,
)


def measurable(loaded: LoadedSpec, *, cores_available: int) -> LoadedSpec:
    """The spec with services that `resolve` takes; it has none if there is nothing to measure.

    Args:
        loaded: the checked spec.
        cores_available: cores this process may use; a larger cluster is cut to them.
    """
    spec = loaded.spec
    models = {name: loadable for name, model in spec.models.items() if (loadable := _loadable(model))}
    services: dict[str, ServiceSpec] = {}
    for name, service in spec.services.items():
        stages = {
            stage_name: stage
            for stage_name, stage in service.pipeline.items()
            if stage.model is None or stage.model in models
        }
        if len(service.pipeline) == len(stages) == 1:
            update = {"cores": CoresSpec(), "path_accuracies": PathAccuraciesSpec()}
            services[name] = service.model_copy(update=update)
            continue
        for stage_name, stage in stages.items():
            alone = {
                stage_name: StageSpec(**stage.model_dump(include={"model", "python"}, exclude_none=True))
            }
            services[f"{name}.{stage_name}"] = ServiceSpec(slo=service.slo, pipeline=alone)
    changed = {
        "cluster": ClusterSpec(cores=min(spec.cluster.cores or cores_available, cores_available)),
        "models": models,
        "services": services,
        "policies": {},
        "policy": PolicySpec(name="static"),
    }
    return LoadedSpec(spec.model_copy(update=changed), loaded.source, loaded.folder, loaded.text)


def runnable(loaded: LoadedSpec, *, cores_available: int) -> LoadedSpec:
    """The spec with its services whole, on this machine, however many cores they are promised.

    Args:
        loaded: the checked spec.
        cores_available: cores this process may use.
    """
    services = {
        name: service.model_copy(update={"cores": CoresSpec()})
        for name, service in loaded.spec.services.items()
    }
    changed = {
        "cluster": ClusterSpec(cores=cores_available),
        "services": services,
        "policies": {},
        "policy": PolicySpec(name="static"),
    }
    return LoadedSpec(loaded.spec.model_copy(update=changed), loaded.source, loaded.folder, loaded.text)


def _loadable(model: ModelSpec) -> ModelSpec | None:
    variants = {name: entry for name, entry in model.variants.items() if entry.kind}
    return ModelSpec.model_construct(variants=variants) if variants else None
