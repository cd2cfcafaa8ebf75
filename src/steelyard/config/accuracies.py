"""Accuracies of whole pipelines, as the spec states them: listed, or in a file of measured ones.

The file is what `steelyard profile --labels FILE --json OUT` writes; of its `accuracies` those of the service
count.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import msgspec

from steelyard.config.schema import Spec
from steelyard.config.source import Path as SpecPath
from steelyard.config.source import Source, nearest
from steelyard.core.accuracy import Accuracies
from steelyard.core.types import PathAccuracy, Service, Variant

FILE_BYTES_MAX = 16 << 20

ROUNDING = 1e-9
"""Of a product of accuracies."""


class _Measured(msgspec.Struct):
    service: str
    variants: dict[str, str]
    accuracy: float


class _File(msgspec.Struct):
    accuracies: list[_Measured]


def stated_paths(spec: Spec, service: str, source: Source, folder: Path) -> list[PathAccuracy]:
    """What a spec says of the accuracy of a service's combinations, by the names of the spec's variants.

    Args:
        spec: its references are known to be right.
        service: its name.
        source: for errors.
        folder: what the file's path is relative to.

    Raises:
        SpecError: the file cannot be read; a stage or variant is unknown; one choice is there twice.
    """
    given = spec.services[service].path_accuracies
    at: SpecPath = ("services", service, "path_accuracies")
    found: list[PathAccuracy] = []
    if given.file is not None:
        for measured in _read(folder / given.file, service, source, (*at, "file")):
            _check_choice(spec, service, measured.variants, source, (*at, "file"))
            found.append(PathAccuracy(measured.variants, measured.accuracy))
        return found
    for index, listed in enumerate(given.listed):
        chosen = dict(listed.variants)
        _check_choice(spec, service, chosen, source, (*at, index))
        if any(chosen == known.variants for known in found):
            raise source.error((*at, index), "an accuracy of these variants is there twice")
        found.append(PathAccuracy(chosen, listed.accuracy))
    return found


def check_floor(service: Service, source: Source) -> None:
    """Some choice of variants may reach the least accuracy that the service is to have, as far as is known.

    Raises:
        SpecError: none does.
    """
    floor = service.objective.accuracy_floor if service.objective is not None else None
    known = Accuracies(service)
    if floor is None or not known.is_known:
        return
    most = 1.0
    for stage in service.stages:
        if any(variant.accuracy is None for variant in stage.variants) and len(stage.variants) > 1:
            return
        most *= max(known.of_variant(stage.name, variant.name) for variant in stage.variants)
    most = known.most({}, most)
    if floor > most + ROUNDING:
        at = ("services", service.name, "objective", "accuracy_floor")
        could_be = math.floor(most * 1e4 + ROUNDING) / 1e4
        raise source.error(
            at, f"no choice of variants is so accurate: want at most {could_be:g}, got {floor:g}"
        )


def on_devices(
    stated: Sequence[PathAccuracy], variants: Mapping[str, Sequence[Variant]]
) -> tuple[PathAccuracy, ...]:
    """Accuracies by the names of the variants that there are: a choice is as accurate on every device."""
    return tuple(
        PathAccuracy(named, accuracy) for chosen, accuracy in stated for named in _named(chosen, variants)
    )


def _named(chosen: Mapping[str, str], variants: Mapping[str, Sequence[Variant]]) -> Iterator[dict[str, str]]:
    names = [
        [each.name for each in variants[stage] if each.name.partition("@")[0] == variant]
        for stage, variant in chosen.items()
    ]
    for named in product(*names):
        yield dict(zip(chosen, named, strict=True))


def _read(file: Path, service: str, source: Source, at: SpecPath) -> list[_Measured]:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise source.error(at, f"{file}: larger than {FILE_BYTES_MAX >> 20} MiB")
        read = msgspec.json.decode(file.read_bytes(), type=_File)
    except OSError as error:
        raise source.error(at, f"cannot read {file}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        message = f"{file}: not what `steelyard profile --labels --json` writes: {error}"
        raise source.error(at, message) from None
    found = [measured for measured in read.accuracies if measured.service == service]
    if not found:
        names = tuple(dict.fromkeys(measured.service for measured in read.accuracies))
        raise source.error(at, f"{file}: nothing of service {service}{nearest(service, names)}")
    for measured in found:
        if not 0 <= measured.accuracy <= 1:
            raise source.error(at, f"{file}: accuracy {measured.accuracy:g} is not in [0, 1]")
    return found


def _check_choice(spec: Spec, service: str, chosen: Mapping[str, str], source: Source, at: SpecPath) -> None:
    """Stages and variants exist."""
    pipeline = spec.services[service].pipeline
    for stage, variant in chosen.items():
        where = at if at[-1] == "file" else (*at, "variants", stage)
        if stage not in pipeline:
            raise source.error(where, f"unknown stage {stage}{nearest(stage, tuple(pipeline))}")
        model = pipeline[stage].model
        known = (stage,) if model is None else tuple(spec.models[model].variants)
        if variant not in known:
            raise source.error(where, f"unknown variant {variant} of {stage}{nearest(variant, known)}")
