"""Quantities as people write them: durations `400ms`, `6s`, `2m`; sizes `300MB`, `64GiB`.

A bare number is refused: nobody can tell whether `slo: 50` meant milliseconds or seconds.
"""

import math
import re

_DURATION_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE_BYTES = {
    "B": 1,
    **{prefix + "B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T"), start=1)},
    **{prefix + "iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), start=1)},
    "KB": 1000,
}
_QUANTITY = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-zµ]+)")


def duration_s(value: object) -> float:
    """Seconds of a written duration, > 0.

    Raises:
        ValueError: no number with a known unit, or not positive and finite; the message says what is wanted.
    """
    seconds = _quantity(value, _DURATION_S)
    if seconds is None or not 0 < seconds < math.inf:
        raise ValueError(f"want a positive duration such as 50ms, 6s or 2m, got {shown(value)}")
    return seconds


def duration_or_zero_s(value: object) -> float:
    """As `duration_s`, and `0s` is allowed."""
    return 0.0 if _quantity(value, _DURATION_S) == 0 else duration_s(value)


def size_bytes(value: object) -> int:
    """Bytes of a written size, >= 1.

    Raises:
        ValueError: no number with a known unit, or not positive and finite.
    """
    size = _quantity(value, _SIZE_BYTES)
    if size is None or not 1 <= size < math.inf:
        raise ValueError(f"want a size such as 300MB or 64GiB, got {shown(value)}")
    return round(size)


def duration_text(seconds: float) -> str:
    """The shortest way to write a duration: `50ms`, `1.5s`."""
    return f"{seconds * 1e3:.6g}ms" if seconds < 1 else f"{seconds:.6g}s"


def shown(value: object) -> str:
    """A value as it should appear in an error: short, on one line, text in quotes only where they help."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) and re.fullmatch(r"[^\s'\"]+", value) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _quantity(value: object, units: dict[str, float] | dict[str, int]) -> float | None:
    """Number times unit; None where the text is not one of either.

    Small units divide: 2550 / 1000 is the number nearest to 2.55, and 2550 * 0.001 is not.
    """
    matched = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None or matched[2] not in units:
        return None
    number, unit = float(matched[1]), units[matched[2]]
    return number * unit if unit >= 1 else number / round(1 / unit)
