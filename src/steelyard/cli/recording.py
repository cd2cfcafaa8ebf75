"""What each stage of a pipeline is given when examples go through it: to profile the stage with.

Examples go one after the other through the service as requests do (`bare`), with its most accurate variants;
what a batch is about to take is gathered here, too, the way its worker does it, and its first rows are kept.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.backend.local import LocalBackend
from steelyard.cli.bare import BareService
from steelyard.cli.examples import Example
from steelyard.cli.output import say
from steelyard.core.commands import RunBatch
from steelyard.core.errors import InputError, ModelError
from steelyard.core.types import Request, Service, TensorRef
from steelyard.profiler.recorded import Recorded, Recorder
from steelyard.serve.base import DeployedService
from steelyard.worker.arena import StaleRefError
from steelyard.worker.messages import Feed
from steelyard.worker.tensors import Gatherer, own_feeds

SENT_MAX = 32
"""Examples that are sent; fewer if every stage has been given enough before."""


async def recorded_inputs(
    deployed: DeployedService,
    chosen: Mapping[str, str],
    examples: Sequence[Example],
    core_ids: Sequence[int],
    *,
    source: str,
) -> dict[str, Recorded]:
    """Rows that each stage was given, by stage; a stage that none of the examples reaches is left out.

    Args:
        deployed: the service.
        chosen: the variant of each stage.
        examples: requests' inputs.
        core_ids: cores to run on.
        source: what the examples are called in profiles.

    Raises:
        ModelError: a stage failed, or its worker ended.
    """
    recorder = Recorder()
    batchable = {stage: known.signature.batchable for stage, known in deployed.stages.items()}
    overheard = partial(_Overheard, recorder=recorder, batchable=batchable)
    bare = BareService(deployed, chosen, core_ids, make_backend=overheard)
    sent = examples[:SENT_MAX]
    name = deployed.served.service.name
    say(f"sending {len(sent)} examples through {name}, to see what its stages are given", err=True)
    try:
        await bare.start()
        for index, example in enumerate(sent):
            try:
                await bare.answer(example.inputs)
            except ModelError as error:
                raise ModelError(f"example {index}: {error}") from error
            if all(recorder.is_full(stage) for stage in deployed.stages):
                break
    finally:
        await bare.close()
    return recorder.recorded(source)


def most_accurate(service: Service) -> dict[str, str]:
    """Of each stage the variant that is thought best: by the best measured path, else one by one."""
    best = {
        stage.name: max(stage.variants, key=lambda variant: variant.accuracy or 0.0).name
        for stage in service.stages
    }
    path = max(service.path_accuracies, key=lambda known: known.accuracy, default=None)
    return {**best, **(path.variants if path else {})}


def source_of(file: Path) -> str:
    """`examples 1f2e3d4c5b6a`: the file of examples by its content.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return f"examples {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None


class _Overheard(LocalBackend):
    """Keeps what each batch takes before it runs."""

    def __init__(
        self, *arguments: Any, recorder: Recorder, batchable: Mapping[str, bool], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._recorder = recorder
        self._batchable = batchable

    def run(
        self, command: RunBatch, requests: Sequence[Request], feeds: Sequence[Feed] | None = None
    ) -> None:
        """Keep its inputs, and run the batch."""
        taken = own_feeds(command.slices, requests) if feeds is None else feeds
        with suppress(InputError, StaleRefError):  # the worker finds it, too, and fails the batch
            inputs = Gatherer().gather(taken, self._anywhere)
            self._recorder.take(command.stage, inputs, command.rows, batchable=self._batchable[command.stage])
        super().run(command, requests, feeds)

    def _anywhere(self, ref: TensorRef) -> memoryview:
        return self._arena.view(ref) if ref.arena == self._arena.name else self.read(ref)
