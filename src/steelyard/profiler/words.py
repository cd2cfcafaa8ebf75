"""A profile in words and as rows: what was measured, how well the fit does, where it has to speak."""

from collections.abc import Sequence
from typing import Any

from steelyard.profile.times import ProfileTable
from steelyard.profile.types import RANDOM, Profile


def coverage(profile: Profile, *, batch_rows_max: int, cores_max: int) -> str:
    """One line: the measured range, the fit's quality, and what part of the allowed range lies beyond.

    Raises:
        ProfileError: the profile has no cells, or contradicts itself.
    """
    surface = ProfileTable([profile]).surface(profile.variant, 0)
    rows = [cell.rows for cell in profile.cells]
    cores = [cell.cores for cell in profile.cells]
    fit = surface.fit
    line = (
        f"{profile.variant}: {len(profile.cells)} points, {_range(rows, 'row')} on {_range(cores, 'core')}; "
        f"the fit errs by {fit.error_ratio_mean:.0%}, up to x{max(1.0, fit.residual_ratio):.2f}"
    )
    beyond = []
    if batch_rows_max > max(rows):
        beyond.append(f"more than {_many(max(rows), 'row')}")
    if cores_max > max(cores):
        beyond.append(f"more than {_many(max(cores), 'core')}")
    line += f"; measured on {profile.inputs} inputs" if profile.inputs == RANDOM else f"; on {profile.inputs}"
    if profile.quick:
        line += "; quick form, the points between are interpolated"
    return line + (f"; extrapolated for {' and '.join(beyond)}" if beyond else "")


def table_rows(profile: Profile) -> list[dict[str, Any]]:
    """A row a cell, as `steelyard profile --json` prints them; milliseconds where the key says so."""
    return [
        {
            "model": profile.model,
            "variant": profile.variant,
            "bucket": cell.bucket,
            "batch": cell.rows,
            "cores": cell.cores,
            "latency_ms": {"p50": cell.p50_s * 1000, "p99": cell.p99_s * 1000},
            "runs": cell.runs,
            "width": cell.width,
            "cold_start_s": profile.cold_start_s,
            "resize_ms": profile.resize_s * 1000,
            "inputs": profile.inputs,
        }
        for cell in profile.cells
    ]


def _range(values: Sequence[float], unit: str) -> str:
    low, high = min(values), max(values)
    return _many(high, unit) if low == high else f"{low:g} to {_many(high, unit)}"


def _many(value: float, unit: str) -> str:
    return f"{value:g} {unit}{'' if value == 1 else 's'}"
