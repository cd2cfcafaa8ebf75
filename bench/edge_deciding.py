"""The live server without the link to a worker: front end, decision and accounting, and nothing else.

`steelyard serve` runs as it always does, with its intake, service driver, machines, metrics, control and
logs; only its backend is another. That one completes each batch in the loop's next turn, with an answer that
is always there, so no doorbell, no arena of a worker's and no worker is paid for.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from edge_models import OUTPUTS, write_spec

from steelyard.backend.memory import MemoryBackend
from steelyard.core.commands import ReleaseOutputs, RunBatch
from steelyard.core.events import BatchCompleted
from steelyard.core.types import Request, Tensor, TensorRef
from steelyard.serve import server
from steelyard.testing.live import serve
from steelyard.worker.arena import Arena
from steelyard.worker.messages import Feed

ANSWER_BYTES_MAX = 1 << 16


class AtOnceBackend(MemoryBackend):
    """Every batch ends in the loop's next turn and answers the same row of zeros."""

    def __init__(
        self, core_ids: Sequence[int], *given: Any, loop: asyncio.AbstractEventLoop, **options: Any
    ) -> None:
        """Take what `LocalBackend` takes; most of it is about workers."""
        del options
        *_, sink = given
        super().__init__(
            core_ids, sink, loop=loop, service_time_s=lambda _batch, _cores: 0.0, cold_start_s=0.0
        )
        self._answers = Arena("answers", ANSWER_BYTES_MAX)
        answer = np.zeros((1, OUTPUTS), np.float32)
        ref = self._answers.alloc(answer.nbytes)
        assert ref is not None
        self._answers.view(ref)[:] = answer.tobytes()
        self._outputs = (Tensor("y", "FP32", answer.shape, ref),)

    def run(
        self, command: RunBatch, requests: Sequence[Request], feeds: Sequence[Feed] | None = None
    ) -> None:
        """Done as soon as the loop comes to it."""
        del requests, feeds
        self._loop.call_soon(self._complete, command, time.monotonic())

    def release(self, command: ReleaseOutputs) -> None:
        """The answer stays."""

    def read(self, ref: TensorRef) -> memoryview:
        """Of the one answer."""
        return self._answers.view(ref)

    async def close(self) -> None:
        """End every replica."""
        await super().close()
        self._answers.close()

    def _complete(self, command: RunBatch, started_s: float) -> None:
        now_s = time.monotonic()
        self._sink(BatchCompleted(command.batch_id, command.replica_id, started_s, now_s, self._outputs, {}))


def install() -> None:
    """Let it stand in for the backend of this process's server; to be called before that starts."""
    vars(server)["LocalBackend"] = AtOnceBackend


@contextmanager
def deciding(floats: Mapping[str, int], core: int) -> Iterator[tuple[int, int]]:
    """A server on one core, with a service by each name whose tensor has so many floats; its pid and port."""
    here = str(Path(__file__).parent)
    prelude = f"import sys; sys.path.append({here!r}); import edge_deciding; edge_deciding.install(); "
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        spec = write_spec(folder, floats)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # the server inherits it
        with serve(spec, folder, name="deciding", prelude=prelude) as live:
            os.sched_setaffinity(0, before)
            yield live.process.pid, int(live.url.rpartition(":")[2])
