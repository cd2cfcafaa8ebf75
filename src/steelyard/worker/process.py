"""A worker: one process that hosts one replica, runs one batch at a time and owns the arena of its outputs.

Forked from the zygote, it takes orders from its doorbell only, in the order they come; a change of cores
therefore takes effect between two batches. The terminal's signals are ignored: the server drains first. It
dies with its parent, and stops when the doorbell's other end goes.
"""

import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from steelyard.core.errors import InputError, ModelError, SteelyardError
from steelyard.core.types import Tensor, TensorRef
from steelyard.runtime import registry
from steelyard.runtime.base import Runtime, VariantSpec
from steelyard.runtime.example import example_inputs
from steelyard.worker import items, tensors, threads
from steelyard.worker import messages as m
from steelyard.worker.arena import Arena, ArenaReader, StaleRefError
from steelyard.worker.doorbell import Doorbell, PeerLostError

WARM_UP_S = 0.25  # what batch sizes between the smallest and the largest may cost a cold start
WARM_UP_RATIO = (
    1.5  # a first run this much slower than the second says that first runs are worth having before
)


def main(sock: socket.socket, front_fd: int) -> int:
    """Serve one replica until it is stopped; the exit status. Ready or not, the first message is the spec.

    Args:
        sock: the doorbell's socket.
        front_fd: file descriptor of the front end's arena; taken over.
    """
    doorbell: Doorbell[m.ToWorker] = Doorbell(sock, m.ToWorker)
    try:
        received, fds = doorbell.receive()
        spec = received[0]
        assert isinstance(spec, m.WorkerSpec)
        try:
            worker = _start(spec, doorbell, ArenaReader(spec.front_arena, front_fd))
        except (Exception, SystemExit) as error:  # user classes may raise anything while they load
            doorbell.send(m.StartFailed(one_line(error)))
            return 1
        worker.serve(received[1:], fds)
        worker.close()
    except PeerLostError:
        return 0  # the server has gone or given up on this replica
    return 0


class Worker:
    """The loop of one worker, its resident variants, and the outputs it holds until they are released."""

    def __init__(
        self,
        spec: m.WorkerSpec,
        doorbell: Doorbell[m.ToWorker],
        front: ArenaReader,
        arena: Arena,
        niceness: threads.Niceness,
    ) -> None:
        self._spec = spec
        self._specs = {variant.name: variant for variant in spec.specs}
        self._doorbell = doorbell
        self._arena = arena
        self._arenas = {front.name: front}  # of others, to read
        self._cores = spec.cores
        self._resident: dict[str, Runtime] = {}
        self._outputs: dict[int, tuple[Tensor, ...]] = {}
        self._gatherer = tensors.Gatherer()
        self._niceness = niceness
        self._loading = threading.Lock()  # one load at a time: the batches need the cores

    def load(self, name: str) -> None:
        """Load one variant and warm it up; it is resident from then on.

        Raises:
            ModelError: it is unknown or does not load.
        """
        if name not in self._specs:
            raise ModelError(f"unknown variant {name!r}; known are {', '.join(self._specs)}")
        runtime = registry.make(self._specs[name], self._cores)
        runtime.set_widths(self._spec.widths.get(name, ()))
        runtime.set_cores(self._cores)
        _warm_up(runtime, self._specs[name])
        self._resident[name] = runtime
        runtime.set_cores(self._cores)  # they may have changed since, if this is the loading thread

    def serve(self, received: Sequence[m.ToWorker] = (), fds: Sequence[int] = ()) -> None:
        """Take orders until `Stop`, first those received already, with the descriptors that came along.

        Raises:
            PeerLostError: the server has gone.
        """
        while True:
            for message in received:
                if not self.handle(message, fds):
                    return
            received, fds = self._doorbell.receive()

    def close(self) -> None:
        """Let every variant clean up behind itself; the server waits for it, but not long."""
        for runtime in self._resident.values():
            try:
                runtime.close()
            except (Exception, SystemExit) as error:
                _complain(f"a variant did not close: {one_line(error)}")

    def handle(self, message: m.ToWorker, fds: Sequence[int] = ()) -> bool:
        """Carry out one order; False for `Stop`. `fds` are those of the arenas that a `Lend` names."""
        match message:
            case m.Run():
                if message.read:
                    self._free(message.read)
                self._doorbell.send(self._run(message))
            case m.Lend(arenas=names):
                self._arenas |= {name: ArenaReader(name, fd) for name, fd in zip(names, fds, strict=True)}
            case m.Forget(arena=name):
                self._arenas.pop(name).close()
            case m.Free(read=read):
                self._free(read)
            case m.SetCores(cores=cores):
                self._cores = cores
                for runtime in tuple(self._resident.values()):
                    runtime.set_cores(cores)
            case m.Load(variant=variant):
                threading.Thread(target=self._load, args=(variant,), name="load", daemon=True).start()
            case m.Unload(variant=variant):
                self._unload(variant)
            case m.Stop():
                return False
            case m.WorkerSpec():
                raise AssertionError("a worker has one spec")
        return True

    def _run(self, run: m.Run) -> m.Done | m.Failed:
        started_s = time.monotonic()
        runtime = self._resident.get(run.variant)
        try:
            if runtime is None:
                raise ModelError(f"variant {run.variant} is not resident; {', '.join(self._resident)} are")
            inputs = self._gatherer.gather(run.feeds, self._view)
            outputs = runtime.run(inputs, run.rows)
            made = items.settle(outputs, run.rows, runtime.signature, self._spec.takers)
            stored = tensors.store(made.outputs, runtime.signature, self._arena)
        except (
            BaseException
        ) as error:  # whatever a model raises fails its batch; signals do not reach a worker
            return m.Failed(run.batch_id, one_line(error), isinstance(error, InputError))
        self._outputs[run.batch_id] = stored
        return m.Done(run.batch_id, started_s, time.monotonic(), stored, made.items)

    def _free(self, batch_ids: Sequence[int]) -> None:
        for batch_id in batch_ids:
            tensors.free(self._outputs.pop(batch_id, ()), self._arena)

    def _view(self, ref: TensorRef) -> memoryview:
        arena = self._arenas.get(ref.arena)
        if arena is None:
            raise StaleRefError(f"{ref} lies in an arena this worker does not know")
        return arena.view(ref)

    def _load(self, variant: str) -> None:
        """In a thread of its own, at the niceness of a start, so that batches go on meanwhile."""
        self._niceness.start_this_thread()
        answer: m.Loaded | m.Unloaded = m.Loaded(variant)
        try:
            with self._loading:
                if variant not in self._resident:
                    self.load(variant)
        except (Exception, SystemExit) as error:
            answer = m.Unloaded(variant, one_line(error))
        self._niceness.run()
        try:
            self._doorbell.send(answer)
        except PeerLostError:
            return  # the request thread notices as well, and ends the process

    def _unload(self, variant: str) -> None:
        runtime = self._resident.pop(variant, None)
        reason = ""
        if runtime is not None:
            try:
                runtime.close()
            except (Exception, SystemExit) as error:
                reason = one_line(error)
        self._doorbell.send(m.Unloaded(variant, reason))


def one_line(error: BaseException) -> str:
    """An error's text on one line; with its type's name unless it is one of ours, whose text says it all."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SteelyardError) and text else f"{type(error).__name__}: {text}"


def _start(spec: m.WorkerSpec, doorbell: Doorbell[m.ToWorker], front: ArenaReader) -> Worker:
    """Take the place given, load what is to be resident and say so.

    Raises:
        ModelError: a variant does not load.
        OSError: the cores or the cgroup may not be used.
    """
    if spec.cgroup_procs:
        Path(spec.cgroup_procs).write_text("0")  # "0": whoever writes it; later threads follow
    threads.set_affinity(os.getpid(), spec.core_ids)
    threads.name_process(f"{spec.arena}/{spec.resident[0]}" if spec.resident else spec.arena)
    niceness = threads.Niceness()
    niceness.start()
    sys.path[:] = spec.sys_path
    arena = Arena(spec.arena, spec.arena_bytes_max)
    worker = Worker(spec, doorbell, front, arena, niceness)
    for name in spec.resident:
        worker.load(name)
    # What is loaded stays: collections would only walk it again and again, and un-share the zygote's pages.
    gc.collect()
    gc.freeze()
    niceness.run()
    doorbell.send(m.Ready(), fds=(arena.fd,))
    return worker


def _warm_up(runtime: Runtime, spec: VariantSpec) -> None:
    """Run a single row twice; then, if the first run was the slower one, the larger batches while time lasts.

    The first run of a shape plans its memory and may be several times slower; of some models it is not, and
    then batches of other sizes have nothing to gain but a later start. A model that refuses zeros, or whose
    shapes are not known, is not warmed up: that is no reason not to serve it.
    """
    if not runtime.signature.inputs:
        return
    rows_max = (spec.batch_rows_max or 1) if runtime.signature.batchable else 1
    until_s = time.monotonic() + WARM_UP_S
    try:
        first_s, second_s = (_timed_run(runtime, spec, rows) for rows in (1, 1))
        if first_s < WARM_UP_RATIO * second_s:
            return
        between = (1 << power for power in reversed(range(1, rows_max.bit_length())))
        for rows in dict.fromkeys((rows_max, *between)):
            if rows < rows_max and time.monotonic() > until_s:
                return
            _timed_run(runtime, spec, rows)
    except (InputError, ModelError) as error:
        _complain(f"not warmed up: {one_line(error)}")


def _timed_run(runtime: Runtime, spec: VariantSpec, rows: int) -> float:
    started_s = time.monotonic()
    runtime.run(example_inputs(spec, runtime.signature, rows), rows)
    return time.monotonic() - started_s


def _complain(text: str) -> None:
    print(f"steelyard: worker {os.getpid()}: {text}", file=sys.stderr, flush=True)  # noqa: T201
