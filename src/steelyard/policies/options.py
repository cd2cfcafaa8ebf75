"""A policy's options, read once: an unknown key or a value of the wrong kind is one clear line."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from math import isfinite

from steelyard.core.errors import SpecError

_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)\s*(ms|s|m|h)")
_SECONDS_OF = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def nearest_first(word: str, known: Iterable[str]) -> list[str]:
    """The known words, those most like `word` first."""
    words = sorted(known)
    close = get_close_matches(word, words, n=3, cutoff=0.3)
    return [*close, *(w for w in words if w not in close)]


def refuse_unknown(policy: str, options: Mapping[str, object], known: Iterable[str]) -> None:
    """Raise on a key that the policy does not know.

    Raises:
        SpecError: names the key and the nearest known ones.
    """
    names = sorted(known)
    for key in options:
        if key not in names:
            choices = ", ".join(nearest_first(key, names)) or "none"
            raise SpecError(f"policy {policy}: unknown option {key!r}; it has: {choices}")


def number(
    policy: str, options: Mapping[str, object], key: str, default: float, *, least: float, most: float = 1e9
) -> float:
    """A finite number in [least, most].

    Raises:
        SpecError: it is not.
    """
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise SpecError(f"policy {policy}: option {key}: want a number, got {value!r}")
    if not least <= value <= most:
        raise SpecError(f"policy {policy}: option {key}: want {least:g} to {most:g}, got {value:g}")
    return float(value)


def integer(
    policy: str, options: Mapping[str, object], key: str, default: int, *, least: int, most: int = 10**6
) -> int:
    """A whole number in [least, most].

    Raises:
        SpecError: it is not.
    """
    value = number(policy, options, key, default, least=least, most=most)
    if value != int(value):
        raise SpecError(f"policy {policy}: option {key}: want a whole number, got {value:g}")
    return int(value)


def duration_s(
    policy: str,
    options: Mapping[str, object],
    key: str,
    default_s: float,
    *,
    least_s: float = 0.0,
    most_s: float = 1e9,
) -> float:
    """Seconds in [least_s, most_s] of a duration as the spec writes it: `400ms`, `15s`, `2m`, `24h`.

    Raises:
        SpecError: it is not.
    """
    if key not in options:
        return default_s
    value = options[key]
    matched = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None:
        raise SpecError(f"policy {policy}: option {key}: want a duration such as 15s or 2m, got {value!r}")
    seconds = float(matched[1]) * _SECONDS_OF[matched[2]]
    if not least_s <= seconds <= most_s:
        raise SpecError(f"policy {policy}: option {key}: want {least_s:g}s to {most_s:g}s, got {value}")
    return seconds
