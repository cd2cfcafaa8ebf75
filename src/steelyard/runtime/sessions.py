"""A small set of ONNX Runtime sessions of one model, one for each thread count.

ONNX Runtime fixes a session's thread count when it is made, so a replica that may grow keeps several and
chooses one for each batch. The first is built before the constructor returns; the others in a background
thread, one at a time, so that `best` never waits: until the right one exists it names the nearest. Spinning
is always off: spinning threads on narrowed affinity made a batch 2.1 times slower, and they burn quota
(docs/adr/0007).
"""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import onnxruntime as ort

from steelyard.core.errors import ModelError
from steelyard.runtime.base import VariantSpec
from steelyard.runtime.widths import nearest_count

OWN_OPTIONS = {
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
}
_CLOSE_S_MAX = 30.0


def build(spec: VariantSpec, threads: int) -> ort.InferenceSession:
    """Make one session of `threads` threads: sequential, inter-op 1, spinning off.

    Raises:
        ModelError: the file is missing or not a model, or a provider or option of the spec is not known here.
    """
    _check(spec)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = (
        3  # errors; warnings about a graph concern its author, not every worker's log
    )
    for key, value in {**spec.session_options, **OWN_OPTIONS}.items():
        options.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(spec.target, options, providers=list(spec.providers))
    except Exception as error:  # ONNX Runtime's errors have no common base below Exception
        raise ModelError(f"variant {spec.name}: {spec.target} does not load: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """ONNX Runtime's message without its prefix, its code and its line breaks."""
    return " ".join(str(error).split(" : ", 3)[-1].split())


def _check(spec: VariantSpec) -> None:
    if not Path(spec.target).is_file():
        raise ModelError(f"variant {spec.name}: no such model file: {spec.target}")
    known = ort.get_available_providers()
    for provider in spec.providers:
        if provider not in known:
            raise ModelError(
                f"variant {spec.name}: unknown provider {provider!r}; known are {', '.join(known)}"
            )
    for key, value in OWN_OPTIONS.items():
        if spec.session_options.get(key, value) != value:
            raise ModelError(
                f"variant {spec.name}: session option {key} is always {value} (see docs/adr/0007)"
            )


class Sessions:
    """Sessions of one model by thread count; `want` more of them, ask for the `best` one.

    Args:
        spec: the variant.
        threads: thread count of the session that is built at once.
        warm_up: called with each later session before it is used, in the background thread.

    Raises:
        ModelError: the first session cannot be built.
    """

    def __init__(
        self,
        spec: VariantSpec,
        threads: int,
        warm_up: Callable[[ort.InferenceSession], None] = lambda _: None,
    ) -> None:
        self._spec = spec
        self._warm_up = warm_up
        self._built = {threads: build(spec, threads)}
        self._wanted: list[int] = []
        self._lock = threading.Lock()
        self._builder: threading.Thread | None = None
        self._closed = False
        self.error: str = ""
        """Why a later session could not be built; the ones there are stay in use."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Thread counts of the sessions that are built, ascending."""
        return tuple(sorted(self._built))

    def get(self, threads: int) -> ort.InferenceSession | None:
        """The session of exactly `threads` threads, if it is built."""
        return self._built.get(threads)

    def best(self, threads: int) -> ort.InferenceSession:
        """The session of `threads` threads, or the nearest there is. Never waits."""
        return self._built.get(threads) or self._built[nearest_count(tuple(self._built), threads)]

    def want(self, counts: Iterable[int]) -> None:
        """Build these in the background, in this order, those that are missing; replaces the former wish."""
        with self._lock:
            if self._closed or self.error:
                return
            self._wanted = [count for count in counts if count not in self._built]
            if self._wanted and self._builder is None:
                self._builder = threading.Thread(target=self._build_wanted, name="sessions", daemon=True)
                self._builder.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is being built; False if that took longer than `timeout_s`."""
        builder = self._builder
        if builder is not None:
            builder.join(timeout_s)
        return self._builder is None

    def close(self) -> None:
        """Build no more, and forget every session."""
        with self._lock:
            self._closed = True
            self._wanted = []
        self.wait(_CLOSE_S_MAX)
        self._built.clear()

    def _build_wanted(self) -> None:
        while True:
            with self._lock:
                self._wanted = [count for count in self._wanted if count not in self._built]
                if not self._wanted:
                    self._builder = None
                    return
                threads = self._wanted[0]
            try:
                session = build(self._spec, threads)
                self._warm_up(session)
            except ModelError as error:  # the replica works on with the sessions it has
                with self._lock:
                    self.error, self._wanted, self._builder = str(error), [], None
                return
            self._built[threads] = session
