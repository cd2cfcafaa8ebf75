"""Accuracies that were measured with `steelyard profile --labels`, where the spec declares none.

For a service of one stage they are its variants' accuracies; for a pipeline they are those of whole paths, by
choice of variants. What was measured is found by content: by the models' files and settings, as profiles are,
and by how the stages are wired. So a model that has changed has no accuracy until it is measured again.
"""

import hashlib
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import msgspec
from msgspec.structs import replace

from steelyard.config.load import LoadedSpec
from steelyard.config.pipeline import stage_order
from steelyard.config.stages import Candidate, candidates, variant_spec
from steelyard.core.errors import ModelError, SpecError
from steelyard.core.types import PathAccuracy, Service, Stage
from steelyard.profiler.accuracies import AccuracyStore, Measurement
from steelyard.profiler.subject import Subject, model_hash
from steelyard.runtime.base import Signature

UNASKED = Signature((), (), batchable=True)
"""A model's content is known without asking it what it takes."""


def wiring_hash(loaded: LoadedSpec, service: str) -> str:
    """SHA-256 of how a service's stages depend on each other and what they answer; models are left out."""
    spec = loaded.spec.services[service]
    wired = {
        "pipeline": {
            name: stage.model_dump(include={"inputs", "each", "when", "after"})
            for name, stage in spec.pipeline.items()
        },
        "outputs": spec.outputs,
    }
    return hashlib.sha256(msgspec.json.encode(wired, order="deterministic")).hexdigest()


def content_hash(loaded: LoadedSpec, candidate: Candidate, model: str) -> str:
    """What a variant consists of, as its profile's key has it.

    Raises:
        SpecError: it cannot be run.
        ModelError: a file cannot be read.
    """
    spec = variant_spec(loaded, candidate, cores_max=1)
    buckets = {name: (found.dim, found.sizes) for name, found in candidate.entry.buckets.items()}
    return model_hash(Subject(model, spec, UNASKED, 1, buckets))


def with_accuracies(loaded: LoadedSpec, service: Service, directory: Path) -> Service:
    """The service with what was measured of it; unchanged where the spec declares accuracies.

    Args:
        loaded: the checked spec.
        service: as the spec has it.
        directory: of the profiles.

    Raises:
        ProfileError: what was measured cannot be read.
    """
    wiring = wiring_hash(loaded, service.name)
    known = [measured for measured in AccuracyStore(directory).load() if measured.wiring == wiring]
    if not known or service.path_accuracies:
        return service
    names = _names_by_content(loaded, service)
    if len(service.stages) == 1:
        return replace(service, stages=(_with_variants(service.stages[0], known, names),))
    paths: dict[tuple[str, ...], PathAccuracy] = {}
    for measured in known:
        stages = [stage for stage in measured.contents if stage in measured.accuracy.variants]
        if any(not names.get(stage, {}).get(found) for stage, found in measured.contents.items()):
            continue  # of a model that is not there any more
        for chosen in product(*(names[stage][measured.contents[stage]] for stage in stages)):
            variants = dict(zip(stages, chosen, strict=True))
            paths[chosen] = PathAccuracy(variants, measured.accuracy.accuracy)
    return replace(service, path_accuracies=tuple(paths.values()))


def _names_by_content(loaded: LoadedSpec, service: Service) -> dict[str, dict[str, list[str]]]:
    """By stage and content, the names of the variants that there are; what has no files has no content."""
    spec = loaded.spec.services[service.name]
    names: dict[str, dict[str, list[str]]] = {}
    for stage_name in stage_order(spec, loaded.source, ("services", service.name)):
        stage = spec.pipeline[stage_name]
        known = next(found.variants for found in service.stages if found.name == stage_name)
        for candidate in candidates(loaded, service.name, stage_name, stage):
            try:
                content = content_hash(loaded, candidate, stage.model or stage_name)
            except (SpecError, ModelError):
                continue
            on_devices = [v.name for v in known if v.name.partition("@")[0] == candidate.name]
            names.setdefault(stage_name, {}).setdefault(content, []).extend(on_devices)
    return names


def _with_variants(
    stage: Stage, known: list[Measurement], names: Mapping[str, Mapping[str, list[str]]]
) -> Stage:
    """The stage's variants with their measured accuracy, but for those of which the spec declares one."""
    found = {
        name: measured.accuracy.accuracy
        for measured in known
        for name in names.get(stage.name, {}).get(measured.contents.get(stage.name, ""), ())
    }
    return replace(
        stage,
        variants=tuple(
            replace(variant, accuracy=found.get(variant.name)) if variant.accuracy is None else variant
            for variant in stage.variants
        ),
    )
