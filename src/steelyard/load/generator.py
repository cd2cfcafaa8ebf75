"""An open-loop load generator: every request leaves at its intended time, whatever became of those before it.

The rule of this file: nothing is silently skipped. A request that would exceed the bound on requests in
flight is not sent but counted as `overrun`, and so is a violation. Connections are as many as requests in
flight, so none waits for a connection out of sight of the lateness measurement.

Run it in a process of its own (`run`), away from the server it measures. The loop sleeps in `select`, whose
timeout has microseconds; `epoll`, asyncio's usual choice, has milliseconds, which alone would be half of what
makes a run void.
"""

import asyncio
import gc
import io
import math
import os
import selectors
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from steelyard.client.wire import LENGTH_HEADER, Body, base_url, model_path
from steelyard.core.errors import InputError, how_to_install
from steelyard.core.types import Frozen
from steelyard.load.result import CONNECTION, OK, OVERRUN, TIMEOUT, LoadResult, Outcomes, Seconds, summarise

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

IN_FLIGHT_LIMIT = 900
"""`select` takes file descriptors below 1024; the rest is for files, pipes and the interpreter."""

_START_DELAY_S = 0.05
_LARGE_BODY_BYTES = 1 << 20


class LoadSettings(Frozen, frozen=True):
    """How a run behaves.

    Attributes:
        slo_s: latency bound from the intended arrival; None counts nothing as late.
        max_latency_s: sent with each request as `Steelyard-Max-Latency-Ms`; None sends nothing.
        in_flight_max: requests sent and not answered, in [1, `IN_FLIGHT_LIMIT`]; beyond it, overrun.
        timeout_s: a request without an answer for so long is given up.
        seed: chooses the payload of each request.
    """

    slo_s: float | None = None
    max_latency_s: float | None = None
    in_flight_max: int = 512
    timeout_s: float = 30.0
    seed: int = 0


class Answer(NamedTuple):
    """A completed request: the index of its payload, and what came back."""

    payload: int
    content: bytes
    json_length: int | None


OnAnswer = Callable[[Answer], None]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop that wakes when it should, within microseconds on an idle core."""

    def precise_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with _promptly_scheduled(), asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(main)


@contextmanager
def _promptly_scheduled() -> Iterator[None]:
    """Wake this thread before ordinary ones where the system allows it (root, CAP_SYS_NICE, RLIMIT_RTPRIO).

    Beside busy workers on every core an ordinary thread, even at a lower niceness, waits for the end of their
    time slices of some milliseconds: measured 4 to 11 ms at p99, against 0.8 ms with this.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:  # not allowed: the lateness that is reported says what it costs
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


async def run_load(
    url: str,
    model: str,
    arrivals_s: Seconds,
    bodies: Sequence[Body],
    *,
    seconds: float,
    budgets_s: Seconds | None = None,
    settings: LoadSettings = LoadSettings(),  # noqa: B008 -- a frozen value
    on_answer: OnAnswer | None = None,
) -> LoadResult:
    """Send one request at each of `arrivals_s` (ascending, within `seconds`) and wait for every answer.

    `budgets_s`, shape of `arrivals_s`, holds each request's own latency bound, nan where it has none; the
    smallest of it, the SLO and `max_latency_s` counts. `on_answer` is called for each completed request, on
    the loop: keep it short.

    Raises:
        InputError: no body to send, a bound out of range, or aiohttp is not installed.
    """
    if not bodies:
        raise InputError("nothing to send: give at least one input")
    if not 1 <= settings.in_flight_max <= IN_FLIGHT_LIMIT:
        raise InputError(f"requests in flight: want 1 to {IN_FLIGHT_LIMIT}, got {settings.in_flight_max}")
    wanted_s = np.full(len(arrivals_s), settings.max_latency_s or np.nan)
    if budgets_s is not None:
        wanted_s = np.fmin(wanted_s, budgets_s)
    bound_s = np.fmin(wanted_s, settings.slo_s or np.nan)
    outcomes = Outcomes(arrivals_s, np.where(np.isnan(bound_s), np.inf, bound_s))
    async with _session(settings) as session:
        shooter = _Shooter(session, infer_url(url, model), bodies, outcomes, wanted_s, settings)
        shooter.on_answer = on_answer
        gc.collect()
        gc.freeze()  # what exists now lives until the end: a full collection would only make requests late
        try:
            await _pace(arrivals_s, shooter)
        finally:
            gc.unfreeze()
    return summarise(outcomes, seconds=seconds, slo_s=settings.slo_s)


async def fetch_input_names(url: str, model: str) -> list[str]:
    """Names of a model's inputs, from its metadata.

    Raises:
        InputError: nobody answers at `url`, or it does not know the model.
    """
    import aiohttp

    address = f"{base_url(url)}{model_path(model)}"
    try:
        async with _session(LoadSettings()) as session, session.get(address) as response:
            metadata = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise InputError(f"{address}: no usable answer: {error}") from None
    if response.status != OK:
        told = metadata.get("error", "") if isinstance(metadata, dict) else ""
        raise InputError(f"{address}: {response.status} {told}".rstrip())
    return [tensor["name"] for tensor in metadata["inputs"]]


def infer_url(url: str, model: str) -> str:
    """Where a model takes requests."""
    return f"{base_url(url)}{model_path(model)}/infer"


async def _pace(arrivals_s: Seconds, shooter: "_Shooter") -> None:
    """Start each request at its time; return when the last one has ended."""
    loop = asyncio.get_running_loop()
    start_s = loop.time() + _START_DELAY_S
    async with asyncio.TaskGroup() as group:
        for index, at_s in enumerate(arrivals_s.tolist()):
            # Behind schedule, yield all the same: answers must be read while a burst is sent.
            await asyncio.sleep(max(start_s + at_s - loop.time(), 0))
            if shooter.claim(index):
                group.create_task(shooter.fire(index, start_s + at_s))


class _Shooter:
    """Sends requests over one pool of connections and writes down what became of each."""

    def __init__(
        self,
        session: "aiohttp.ClientSession",
        url: str,
        bodies: Sequence[Body],
        outcomes: Outcomes,
        wanted_s: Seconds,
        settings: LoadSettings,
    ) -> None:
        self.on_answer: OnAnswer | None = None
        self._session = session
        self._url = url
        self._bodies = bodies
        self._wanted_ms = (wanted_s * 1e3).tolist()
        self._choice = np.random.default_rng(settings.seed).integers(len(bodies), size=len(outcomes.at_s))
        self._outcomes = outcomes
        self._in_flight = 0
        self._in_flight_max = settings.in_flight_max

    def claim(self, index: int) -> bool:
        """Take a place among the requests in flight; without one the request ends as an overrun."""
        if self._in_flight == self._in_flight_max:
            self._outcomes.status[index] = OVERRUN
            return False
        self._in_flight += 1
        return True

    async def fire(self, index: int, due_s: float) -> None:
        """Send one request and write down how it ended."""
        import aiohttp

        clock = asyncio.get_running_loop().time
        outcomes, payload = self._outcomes, int(self._choice[index])
        body = self._bodies[payload]
        # aiohttp writes a large body in pieces only if it comes from a file.
        data = body.content if len(body.content) < _LARGE_BODY_BYTES else io.BytesIO(body.content)
        headers = dict(body.headers)
        if not math.isnan(self._wanted_ms[index]):
            headers["Steelyard-Max-Latency-Ms"] = f"{self._wanted_ms[index]:g}"
        outcomes.lateness_s[index] = clock() - due_s
        try:
            async with self._session.post(self._url, data=data, headers=headers) as response:
                content = await response.read()
            outcomes.latency_s[index] = clock() - due_s
            outcomes.status[index] = response.status
        except TimeoutError:
            outcomes.status[index] = TIMEOUT
            return
        except (aiohttp.ClientError, OSError):
            outcomes.status[index] = CONNECTION
            return
        finally:
            self._in_flight -= 1
        if response.status == OK and self.on_answer is not None:
            length = response.headers.get(LENGTH_HEADER)
            self.on_answer(Answer(payload, content, int(length) if length and length.isdigit() else None))


def _session(settings: LoadSettings) -> "aiohttp.ClientSession":
    try:
        import aiohttp
    except ImportError:
        raise InputError(f"the load generator needs aiohttp: {how_to_install('load')}") from None
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.in_flight_max),
        timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
        trust_env=False,
    )
