"""`steelyard profile --labels`: how often each choice of variants is right, on labelled examples.

Every choice is measured as a whole: products of stages' accuracies are contradicted by measurement. Examples
go through the service as requests do (`bare`), so that batches, items and wires are those of the server.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from statistics import median

from steelyard.cli.bare import BareService
from steelyard.cli.examples import Example, read_examples
from steelyard.cli.progress import progress_bar
from steelyard.cli.scores import Metric, Outputs, metric_named
from steelyard.config.load import LoadedSpec
from steelyard.config.measured import content_hash, wiring_hash
from steelyard.config.source import nearest
from steelyard.config.stages import candidates
from steelyard.core.errors import InputError, ModelError, SpecError
from steelyard.core.types import Variant
from steelyard.profile.types import Cell, Profile
from steelyard.profiler.accuracies import Accuracy, AccuracyStore, Measurement, wilson_95
from steelyard.profiler.store import ProfileStore
from steelyard.profiler.subject import Subject, key_of
from steelyard.serve.base import DeployedService, Deployment

CHOICES_MAX = 64
TIMED = 50
"""Examples with which glue is timed."""
SCORED_TOGETHER = 256
"""Examples whose outputs are held and scored at a time."""


def measure_accuracies(
    loaded: LoadedSpec,
    deployment: Deployment,
    labels: Path,
    *,
    service: str | None,
    metric: str,
    output: str | None,
    directory: Path,
    core_ids: Sequence[int],
) -> list[Accuracy]:
    """Measure every choice of variants of a service, and store what is found.

    Args:
        loaded: the spec as it was read.
        deployment: what it resolves to on this machine.
        labels: the examples' file.
        service: whose; None: the only one.
        metric: see `scores.metric_named`.
        output: see there.
        directory: of the profiles.
        core_ids: cores to run on.

    Raises:
        InputError: the examples, the metric or the service's name are wrong.
        ModelError: a model fails.
        ProfileError: the store cannot be read or written.
    """
    name = _service_named(service, tuple(deployment.services))
    deployed = deployment.services[name]
    choices = list(_choices(deployed))
    score = metric_named(metric, output)
    store = AccuracyStore(directory)
    store.load()  # a store that cannot be read is told before anything is measured
    examples = read_examples(labels, deployed.served.signature)
    found: list[Accuracy] = []
    with progress_bar() as on_progress:
        for index, chosen in enumerate(choices):
            label = ", ".join(
                f"{stage} {variant}" for stage, variant in _models(loaded, name, chosen).items()
            )

            def step(done: int, index: int = index, label: str = label) -> None:
                on_progress(index * len(examples) + done, len(choices) * len(examples), label)

            scores = asyncio.run(_scores(deployed, chosen, examples, score, core_ids, step))
            if index == 0:
                _save_glue(
                    deployed,
                    asyncio.run(_glue_times(deployed, chosen, examples, core_ids)),
                    directory,
                    core_ids,
                )
            mean = sum(scores, 0.0) / len(scores)
            low, high = wilson_95(mean, len(scores))
            models = _models(loaded, name, chosen)
            accuracy = Accuracy(name, models, mean, low, high, len(scores), metric)
            store.save([Measurement(wiring_hash(loaded, name), _contents(loaded, name, chosen), accuracy)])
            found.append(accuracy)
    return found


async def _scores(
    deployed: DeployedService,
    chosen: Mapping[str, str],
    examples: Sequence[Example],
    metric: Metric,
    core_ids: Sequence[int],
    step: Callable[[int], None],
) -> list[float]:
    bare = BareService(deployed, chosen, core_ids)
    scores: list[float] = []
    try:
        await bare.start()
        for start in range(0, len(examples), SCORED_TOGETHER):
            some = examples[start : start + SCORED_TOGETHER]
            outputs = await asyncio.gather(
                *(_answer(bare, start + index, example) for index, example in enumerate(some))
            )
            scores += metric(outputs, [example.label for example in some])
            step(start + len(some))
    finally:
        await bare.close()
    return scores


async def _glue_times(
    deployed: DeployedService,
    chosen: Mapping[str, str],
    examples: Sequence[Example],
    core_ids: Sequence[int],
) -> list[tuple[str, int, float]]:
    """(stage, rows, seconds) of batches of glue that cannot be measured by itself.

    Examples go one after the other, so that nothing else runs beside what is timed.
    """
    if not any(stage.assumed for stage in deployed.stages.values()):
        return []
    bare = BareService(deployed, chosen, core_ids)
    try:
        await bare.start()
        await bare.answer(examples[0].inputs)  # the first one warms up
        bare.batches.clear()
        for example in examples[:TIMED]:
            await bare.answer(example.inputs)
    finally:
        await bare.close()
    return [batch for batch in bare.batches if deployed.stages[batch[0]].assumed]


def _save_glue(
    deployed: DeployedService,
    batches: Sequence[tuple[str, int, float]],
    directory: Path,
    core_ids: Sequence[int],
) -> None:
    """Store what the glue's batches took as its profile, on one core; what is between is interpolated."""
    for name in dict.fromkeys(stage for stage, _, _ in batches):
        stage = deployed.stages[name]
        (spec,) = stage.specs
        times_s: dict[int, list[float]] = {}
        for of_stage, rows, service_s in batches:
            if of_stage == name:
                times_s.setdefault(rows, []).append(service_s)
        cells = tuple(
            Cell(0, rows, 1.0, median(found), max(found), len(found))
            for rows, found in sorted(times_s.items())
        )
        subject = Subject(stage.model, spec, stage.signature, spec.batch_rows_max or 1, stage.buckets)
        key = key_of(subject, cores=len(core_ids))
        known = Variant(spec.name)
        ProfileStore(directory).save(
            Profile(
                stage.model,
                spec.name,
                **key._asdict(),
                cells=cells,
                cold_start_s=known.cold_start_s,
                resize_s=known.resize_s,
                quick=True,
            )
        )


async def _answer(bare: BareService, index: int, example: Example) -> Outputs:
    try:
        return await bare.answer(example.inputs)
    except ModelError as error:
        raise ModelError(f"example {index}: {error}") from error


def _choices(deployed: DeployedService) -> Iterator[dict[str, str]]:
    """Every combination of one variant a stage."""
    stages = {stage: [spec.name for spec in known.specs] for stage, known in deployed.stages.items()}
    if prod(map(len, stages.values())) > CHOICES_MAX:
        count = prod(map(len, stages.values()))
        name = deployed.served.service.name
        raise SpecError(f"service {name} has {count} choices of variants; want at most {CHOICES_MAX}")
    for chosen in product(*stages.values()):
        yield dict(zip(stages, chosen, strict=True))


def _models(loaded: LoadedSpec, service: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """The choice without Python glue, which has none."""
    pipeline = loaded.spec.services[service].pipeline
    models = {stage: variant for stage, variant in chosen.items() if pipeline[stage].model is not None}
    return models or dict(chosen)


def _contents(loaded: LoadedSpec, service: str, chosen: Mapping[str, str]) -> dict[str, str]:
    pipeline = loaded.spec.services[service].pipeline
    return {
        stage: content_hash(loaded, candidate, pipeline[stage].model or stage)
        for stage, variant in chosen.items()
        for candidate in candidates(loaded, service, stage, pipeline[stage])
        if candidate.name == variant
    }


def _service_named(name: str | None, known: tuple[str, ...]) -> str:
    if name is None and len(known) == 1:
        return known[0]
    if name is None:
        raise InputError(f"--service: there are several: want one of {', '.join(known)}")
    if name not in known:
        raise InputError(f"--service: unknown service {name}{nearest(name, known)}")
    return name
