"""`steelyard profile --labels`: how often each choice of variants is right, on labelled examples.

Every choice is measured as a whole: products of stages' accuracies are contradicted by measurement. Examples
go through the service as requests do (`bare`), so that batches, items and wires are those of the server.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path

from msgspec.structs import replace

from steelyard.cli.bare import BareService
from steelyard.cli.examples import Example, is_nan, read_examples
from steelyard.cli.measure import measure
from steelyard.cli.output import say
from steelyard.cli.progress import progress_bar
from steelyard.cli.recording import recorded_inputs, source_of
from steelyard.cli.scores import Metric, Outputs, metric_named
from steelyard.config.load import LoadedSpec
from steelyard.config.measured import content_hash, wiring_hash
from steelyard.config.source import nearest
from steelyard.config.stages import candidates
from steelyard.core.errors import InputError, ModelError, SpecError
from steelyard.profiler.accuracies import Accuracy, AccuracyStore, Measurement, wilson_95
from steelyard.serve.base import DeployedService, Deployment

CHOICES_MAX = 64
EXAMPLES_MIN = 30
"""With fewer, a 95 % interval is a third of the scale wide: a warning."""
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
    name = service_named(service, tuple(deployment.services))
    deployed = deployment.services[name]
    choices = list(_choices(deployed))
    score = metric_named(metric, output)
    store = AccuracyStore(directory)
    store.load()  # a store that cannot be read is told before anything is measured
    examples = read_examples(labels, deployed.served.signature)
    if len(examples) < EXAMPLES_MIN:
        few = f"{len(examples)} example{'' if len(examples) == 1 else 's'}"
        say(f"--labels: {labels}: {few} say little: want {EXAMPLES_MIN} at least, better 1,000", err=True)
    found: list[Accuracy] = []
    with progress_bar() as on_progress:
        for index, chosen in enumerate(choices):
            label = ", ".join(
                f"{stage} {variant}" for stage, variant in _models(loaded, name, chosen).items()
            )

            def step(done: int, index: int = index, label: str = label) -> None:
                on_progress(index * len(examples) + done, len(choices) * len(examples), label)

            scores = asyncio.run(_scores(deployed, chosen, examples, score, core_ids, step))
            mean = sum(scores, 0.0) / len(scores)
            low, high = wilson_95(mean, len(scores))
            models = _models(loaded, name, chosen)
            accuracy = Accuracy(name, models, mean, low, high, len(scores), metric)
            store.save([Measurement(wiring_hash(loaded, name), _contents(loaded, name, chosen), accuracy)])
            found.append(accuracy)
    best = max(range(len(found)), key=lambda index: found[index].accuracy)
    _measure_glue(deployment, name, choices[best], examples, labels, directory, core_ids)
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
    is_blank = True
    try:
        await bare.start()
        for start in range(0, len(examples), SCORED_TOGETHER):
            some = examples[start : start + SCORED_TOGETHER]
            outputs = await asyncio.gather(
                *(_answer(bare, start + index, example) for index, example in enumerate(some))
            )
            scores += metric(outputs, [example.label for example in some])
            is_blank = is_blank and all(is_nan(value) for each in outputs for value in each.values())
            step(start + len(some))
    finally:
        await bare.close()
    if is_blank:
        chain = ", ".join(f"{stage} {variant}" for stage, variant in chosen.items())
        raise ModelError(f"every answer of {chain} is NaN: nothing to score")
    return scores


def _measure_glue(
    deployment: Deployment,
    service: str,
    chosen: Mapping[str, str],
    examples: Sequence[Example],
    labels: Path,
    directory: Path,
    core_ids: Sequence[int],
) -> None:
    """Measure the glue that cannot be measured by itself, on what the examples become on their way to it."""
    deployed = deployment.services[service]
    glue = {name: stage for name, stage in deployed.stages.items() if stage.assumed}
    if not glue:
        return
    source = source_of(labels)
    recorded = asyncio.run(recorded_inputs(deployed, chosen, examples, core_ids, source=source))
    of_glue = {(service, stage): recorded[stage] for stage in glue if stage in recorded}
    only = replace(deployment, services={service: replace(deployed, stages=glue)})
    measure(only, directory, core_ids=core_ids, form="quick", recorded=of_glue)


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


def service_named(name: str | None, known: tuple[str, ...]) -> str:
    """The service that `--service` names; None: the only one.

    Raises:
        InputError: there is none of that name, or there are several.
    """
    if name is None and len(known) == 1:
        return known[0]
    if name is None:
        raise InputError(f"--service: there are several: want one of {', '.join(known)}")
    if name not in known:
        raise InputError(f"--service: unknown service {name}{nearest(name, known)}")
    return name
