"""What a client does, without a socket and without a clock: calls as generators.

Each call yields what to do next, a `Send` or a `Pause`, and is sent the reply, or thrown what the network
did (`TimeoutError`, `OSError`). `Client` and `AsyncClient` do what is yielded, one under threads and one
under asyncio, and decide nothing; tests run the same calls on time of their own.

The rule of this file: a call's time begins when it is made. Each attempt tells the server how much of it is
left, so that the server drops what nobody waits for, and nothing is sent, or sent again, after its end. A
bound on latency only ends the sending: an answer that is late all the same is an answer, and says so.
"""

import math
import random
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any, NamedTuple, TypeVar

from steelyard.client.answers import Answer, ModelMetadata, read_metadata, to_answer
from steelyard.client.errors import (
    AnswerError,
    ClientError,
    DeadlineExceededError,
    InvalidInputError,
    UnavailableError,
    json_value,
    refusal_error,
)
from steelyard.client.http import OK, UNAVAILABLE, Reply, Send
from steelyard.client.regions import SHARED_BYTES_MIN, Region, RegionPool, needed_bytes
from steelyard.client.retries import Retries, RetryBudget
from steelyard.client.wire import Pieces, Place, infer_pieces, model_path, tensor_bytes
from steelyard.core.errors import InputError
from steelyard.runtime.base import Array

T = TypeVar("T")

CLOSE_S_MAX = 1.0


class Pause(NamedTuple):
    """Wait so long."""

    seconds: float


Steps = Generator[Send | Pause, Reply, T]


class Bounds(NamedTuple):
    """What a request asks for; None asks for nothing."""

    max_latency_ms: float | None = None
    min_accuracy: float | None = None
    max_core_ms: float | None = None
    slo_class: str | None = None


class Ends(NamedTuple):
    """When a call ends, on the client's clock: `due_s` is what it asks for, `give_up_s` how long it waits."""

    due_s: float
    give_up_s: float


class Session:
    """The calls of one client.

    Args:
        clock: seconds; the drivers' deadlines are on it.
        timeout_s: of a call that states none; None waits for ever.
        retries: how calls are retried.
        rng: for jitter.
        shared_memory: send inputs through shared memory where that is cheaper.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        timeout_s: float | None,
        retries: Retries,
        rng: random.Random,
        shared_memory: bool,
    ) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._budget = RetryBudget(retries, rng)
        self._regions = RegionPool() if shared_memory else None

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        bounds: Bounds,
        *,
        timeout_s: float | None = None,
        outputs: Collection[str] = (),
        request_id: str = "",
    ) -> Steps[Answer]:
        """One inference; see `Client.infer`."""
        ends = self._ends(timeout_s, bounds.max_latency_ms)
        path = f"{model_path(model)}/infer"
        region = None
        try:
            region, places = yield from self._share(inputs, ends.give_up_s)
            try:
                asked = _pieces(inputs, outputs, request_id, places)
                reply, attempts = yield from self._attempts(path, asked, bounds, ends, region)
            except InvalidInputError:
                if region is None:
                    raise
                # Perhaps it is the region that the server does not take, as after a restart: send it all.
                region.unanswered += 1  # not used again
                asked = _pieces(inputs, outputs, request_id, None)
                reply, attempts = yield from self._attempts(path, asked, bounds, ends, None)
            return to_answer(reply, attempts)
        finally:
            if region and self._regions:
                self._regions.give_back(region)

    def metadata(self, model: str) -> Steps[ModelMetadata]:
        """A model's inputs and outputs."""
        reply = yield from self._page(model_path(model))
        return read_metadata(json_value(reply))

    def statistics(self, model: str | None) -> Steps[list[dict[str, Any]]]:
        """The server's statistics, of one model or of each."""
        reply = yield from self._page(f"{model_path(model)}/stats" if model else "/v2/models/stats")
        found = json_value(reply)
        if not isinstance(found, dict) or not isinstance(found.get("model_stats"), list):
            raise AnswerError("the answer has no model_stats", status=reply.status)
        return list(found["model_stats"])

    def is_ready(self, model: str | None) -> Steps[bool]:
        """Whether a model, or the server with all of them, takes requests; not, where nobody answers."""
        path = f"{model_path(model)}/ready" if model else "/v2/health/ready"
        try:
            yield from self._page(path)
        except UnavailableError:
            return False
        return True

    def close(self) -> Steps[None]:
        """Take back the regions; a server that is gone has forgotten them."""
        if self._regions is None:
            return
        self._regions.close()
        try:
            yield from self._unregister(self._clock() + CLOSE_S_MAX)
        except OSError:
            return

    def _ends(self, timeout_s: float | None, max_latency_ms: float | None) -> Ends:
        waited_s = self._timeout_s if timeout_s is None else timeout_s
        for name, value in (("timeout_s", waited_s), ("max_latency_ms", max_latency_ms)):
            if value is not None and not value > 0:
                raise InvalidInputError(f"{name}: want a number > 0, got {value}")
        now_s = self._clock()
        give_up_s = now_s + (math.inf if waited_s is None else waited_s)
        return Ends(min(give_up_s, now_s + (max_latency_ms or math.inf) / 1e3), give_up_s)

    def _page(self, path: str) -> Steps[Reply]:
        """Fetch a page, once."""
        try:
            reply = yield Send("GET", path, {}, (), self._ends(None, None).give_up_s)
        except TimeoutError:
            raise DeadlineExceededError(f"{path}: no answer in time") from None
        except OSError as error:
            raise UnavailableError(f"{path}: {error}") from error
        if reply.status != OK:
            raise refusal_error(reply)
        return reply

    def _attempts(
        self, path: str, asked: Pieces, bounds: Bounds, ends: Ends, region: Region | None
    ) -> Steps[tuple[Reply, int]]:
        """Send until it is answered or there is no use; the answer, and how many attempts it took."""
        self._budget.begin()
        attempts = 0
        while True:
            left_s = ends.due_s - self._clock()
            if left_s <= 0:
                raise DeadlineExceededError(f"{path}: the call's time was over after {attempts} attempts")
            attempts += 1
            failure: ClientError
            if region:
                region.unanswered += 1
            try:
                headers = {**asked.headers, **_bound_headers(bounds, left_s)}
                reply = yield Send("POST", path, headers, asked.parts, ends.give_up_s)
            except TimeoutError:
                raise DeadlineExceededError(f"{path}: no answer in time") from None
            except InputError as error:
                raise InvalidInputError(str(error)) from error
            except OSError as error:
                failure = UnavailableError(f"{path}: {error}")
            else:
                if region:
                    region.unanswered -= 1
                if reply.status == OK:
                    return reply, attempts
                failure = refusal_error(reply)
            wait_s = self._budget.wait_s(failure, attempts, ends.due_s - self._clock())
            if wait_s is None:
                raise failure
            yield Pause(wait_s)

    def _share(
        self, inputs: Mapping[str, Array], give_up_s: float
    ) -> Steps[tuple[Region | None, dict[str, Place] | None]]:
        """A registered region that holds the inputs, and where; none if they had better be sent."""
        if self._regions is None:
            return None, None
        tensors = _checked(lambda: {name: tensor_bytes(array) for name, array in inputs.items()})
        byte_size = needed_bytes(tensors)
        region = self._regions.take(byte_size) if byte_size >= SHARED_BYTES_MIN else None
        if region is None:
            return None, None
        try:
            if not region.is_registered and not (yield from self._register(region, give_up_s)):
                self._regions.give_back(region)
                return None, None
            return region, region.store(tensors)
        except BaseException:
            self._regions.give_back(region)
            raise

    def _register(self, region: Region, give_up_s: float) -> Steps[bool]:
        """Whether the server has room for the region."""
        asked = b'{"key":"/%s","byte_size":%d}' % (region.name.encode(), region.byte_size)
        try:
            yield from self._unregister(give_up_s)
            reply = yield _region_request(region.name, "register", asked, give_up_s)
        except TimeoutError:
            raise DeadlineExceededError("shared memory was not registered in time") from None
        except OSError as error:
            raise UnavailableError(f"shared memory cannot be registered: {error}") from error
        if reply.status == UNAVAILABLE:
            return False
        if reply.status != OK:
            raise refusal_error(reply)
        region.is_registered = True
        region.hide()
        return True

    def _unregister(self, give_up_s: float) -> Steps[None]:
        for name in self._regions.retired() if self._regions else ():
            yield _region_request(name, "unregister", b"{}", give_up_s)


def _pieces(
    inputs: Mapping[str, Array],
    outputs: Collection[str],
    request_id: str,
    places: Mapping[str, Place] | None,
) -> Pieces:
    return _checked(lambda: infer_pieces(inputs, client_id=request_id, outputs=outputs, places=places))


def _checked(call: Callable[[], T]) -> T:
    """Do what refuses arrays that the protocol cannot carry, as an error of this package."""
    try:
        return call()
    except InputError as error:
        raise InvalidInputError(str(error)) from error


def _bound_headers(bounds: Bounds, left_s: float) -> dict[str, str]:
    """The bounds as headers, so that the body is the same in every attempt; latency is what is left of it."""
    headers: dict[str, str] = {}
    if math.isfinite(left_s):
        headers["Steelyard-Max-Latency-Ms"] = f"{left_s * 1e3:.6g}"
    if bounds.min_accuracy is not None:
        headers["Steelyard-Min-Accuracy"] = _decimal("min_accuracy", bounds.min_accuracy)
    if bounds.max_core_ms is not None:
        headers["Steelyard-Max-Core-Ms"] = _decimal("max_core_ms", bounds.max_core_ms)
    if bounds.slo_class:
        headers["Steelyard-Slo-Class"] = bounds.slo_class
    return headers


def _decimal(name: str, value: float) -> str:
    """A number in words of the wire, also one of numpy's."""
    try:
        return f"{float(value):.15g}"
    except (TypeError, ValueError):
        raise InvalidInputError(f"{name}: want a number, got {value!r}") from None


def _region_request(name: str, verb: str, body: bytes, give_up_s: float) -> Send:
    path = f"/v2/systemsharedmemory/region/{name}/{verb}"
    return Send("POST", path, {"Content-Type": "application/json"}, [body], give_up_s)
