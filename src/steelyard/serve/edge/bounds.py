"""A request's own bounds: what its headers and its parameters state, as one set.

The rules of this file:
- Headers and parameters mean the same. Where a bound is stated twice, also in other words (`timeout`,
  `max_latency_ms`), the stricter one holds; two different classes are an error.
- Latency counts from when the client began, not from when its bytes came. `elapsed_ms` is what had passed by
  then: on a slow network, in a queue of the client's. It is taken off the service's objective, too: a request
  that lost half of its time on the way has half of it left here (a *dynamic* objective: Razavi et al.,
  Sponge, EuroMLSys 2024). Without it, latency counts from the arrival of the request's last byte.
- A bound asks for less than the service promises, never for more; only a class of the service may.
- What is meant as a bound is never taken for another one, nor for none: numbers are plain decimal ones, where
  Python would take 5_0 for 50, and a header `Steelyard-...` that there is not is an error.
"""

import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from steelyard.core.errors import InputError
from steelyard.serve.edge.head import Parameters
from steelyard.serve.edge.shown import shown

PREFIX = b"steelyard-"
MAX_LATENCY_MS = b"steelyard-max-latency-ms"
ELAPSED_MS = b"steelyard-elapsed-ms"
SLO_CLASS = b"steelyard-slo-class"
MIN_ACCURACY = b"steelyard-min-accuracy"
MAX_CORE_MS = b"steelyard-max-core-ms"
_HEADERS = frozenset((MAX_LATENCY_MS, ELAPSED_MS, SLO_CLASS, MIN_ACCURACY, MAX_CORE_MS))
_DECIMAL = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Bounds(NamedTuple):
    """What a request states about itself; the defaults state nothing.

    Attributes:
        latency_s: seconds from the client's beginning to its answer, > 0.
        elapsed_s: seconds of them that had passed when the request arrived.
        slo_class: a class of the service; empty for none.
        min_accuracy: of the answer, in [0, 1].
        max_core_ms: core-milliseconds to spend on it, > 0.
    """

    latency_s: float = math.inf
    elapsed_s: float = 0.0
    slo_class: str = ""
    min_accuracy: float | None = None
    max_core_ms: float | None = None


UNBOUNDED = Bounds()


class _Range(NamedTuple):
    """Numbers that a bound takes, in words and as a test that no NaN passes."""

    words: str
    holds: Callable[[float], bool]


_POSITIVE = _Range("be a number > 0", lambda value: 0 < value < math.inf)
_NOT_NEGATIVE = _Range("be a number >= 0", lambda value: 0 <= value < math.inf)
_RATIO = _Range("lie in [0, 1]", lambda value: 0 <= value <= 1)


def header_bounds(headers: Mapping[bytes, bytes]) -> Bounds:
    """What the headers state.

    Raises:
        InputError: a value is not what its header takes, or there is no such header of ours.
    """
    stated = [name for name in headers if name.startswith(PREFIX)]
    if not stated:
        return UNBOUNDED
    for name in stated:
        if name not in _HEADERS:
            raise _unknown_header(name)
    return Bounds(
        latency_s=_seconds(_of_header(headers, MAX_LATENCY_MS, _POSITIVE), math.inf),
        elapsed_s=_seconds(_of_header(headers, ELAPSED_MS, _NOT_NEGATIVE), 0.0),
        slo_class=headers.get(SLO_CLASS, b"").strip().decode("latin-1"),
        min_accuracy=_of_header(headers, MIN_ACCURACY, _RATIO),
        max_core_ms=_of_header(headers, MAX_CORE_MS, _POSITIVE),
    )


def parameter_bounds(given: Parameters) -> Bounds:
    """What the parameters of the JSON head state; a `timeout` of 0 is none, as for Triton.

    Raises:
        InputError: a value is not what its parameter takes.
    """
    if (  # one by one, as this runs for every request
        given.timeout is None
        and given.max_latency_ms is None
        and given.elapsed_ms is None
        and given.min_accuracy is None
        and given.max_core_ms is None
        and not given.slo_class
    ):
        return UNBOUNDED
    latency_s = _seconds(_of_parameter("max_latency_ms", given.max_latency_ms, _POSITIVE), math.inf)
    timeout_us = _of_parameter("timeout", given.timeout or None, _POSITIVE)
    return Bounds(
        latency_s=latency_s if timeout_us is None else min(latency_s, timeout_us / 1e6),
        elapsed_s=_seconds(_of_parameter("elapsed_ms", given.elapsed_ms, _NOT_NEGATIVE), 0.0),
        slo_class=given.slo_class or "",
        min_accuracy=_of_parameter("min_accuracy", given.min_accuracy, _RATIO),
        max_core_ms=_of_parameter("max_core_ms", given.max_core_ms, _POSITIVE),
    )


def stricter(one: Bounds, other: Bounds) -> Bounds:
    """Both at once.

    Raises:
        InputError: they name different classes.
    """
    if one is UNBOUNDED or other is UNBOUNDED:
        return other if one is UNBOUNDED else one
    if one.slo_class and other.slo_class and one.slo_class != other.slo_class:
        raise InputError(
            f"the headers say slo_class {shown(one.slo_class)}, the parameters {shown(other.slo_class)}"
        )
    accuracies = [value for value in (one.min_accuracy, other.min_accuracy) if value is not None]
    costs_ms = [value for value in (one.max_core_ms, other.max_core_ms) if value is not None]
    return Bounds(
        latency_s=min(one.latency_s, other.latency_s),
        elapsed_s=max(one.elapsed_s, other.elapsed_s),
        slo_class=one.slo_class or other.slo_class,
        min_accuracy=max(accuracies, default=None),
        max_core_ms=min(costs_ms, default=None),
    )


def _unknown_header(name: bytes) -> InputError:
    known = {header.decode(): header.decode().title() for header in sorted(_HEADERS)}
    close = get_close_matches(name.decode("latin-1"), known, n=1, cutoff=0.8)  # they all begin alike
    guess = f"did you mean {known[close[0]]}?" if close else f"known are {', '.join(known.values())}"
    return InputError(f"unknown header {shown(name.title())}; {guess}")


def _of_header(headers: Mapping[bytes, bytes], name: bytes, values: _Range) -> float | None:
    given = headers.get(name)
    if given is None:
        return None
    given = given.strip()
    value = float(given) if _DECIMAL.fullmatch(given) else math.nan
    if not values.holds(value):
        raise InputError(f"{name.decode().title()} must {values.words}, not {shown(given)}")
    return value


def _of_parameter(name: str, value: float | None, values: _Range) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)  # JSON has integers of any length, which nothing after this could carry
    except OverflowError:
        number = math.inf
    if not values.holds(number):
        raise InputError(f"parameter '{name}' must {values.words}, not {shown(str(value))[1:-1]}")
    return number


def _seconds(value_ms: float | None, otherwise_s: float) -> float:
    return otherwise_s if value_ms is None else value_ms / 1e3
