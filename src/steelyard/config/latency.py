"""Service times declared in the spec: coefficients checked over their range, tables read from CSV."""

import csv
import math
from pathlib import Path

from steelyard.config.schema import BATCH_MAX, VariantEntry
from steelyard.config.source import Path as SpecPath
from steelyard.config.source import Source, nearest
from steelyard.config.units import shown
from steelyard.profile.types import DeclaredLatency

CPU = "cpu"
COEFFICIENTS_SPREAD = 0.05
TABLE_ROWS_MAX = 100_000
_COLUMNS = ("batch", "cores", "latency_ms", "p99_ms")
_Row = tuple[int, float, float, float | None]


def declared_latency(
    variant: VariantEntry, source: Source, path: SpecPath, *, folder: Path, device: str = CPU
) -> DeclaredLatency | None:
    """A variant's declared service times on `device`; None if it declares none for it.

    Args:
        variant: the spec's entry.
        source: for errors.
        path: the variant's path in the spec.
        folder: what a table's path is relative to.
        device: whose times, where they are given by device; the CPU's where they are not.

    Raises:
        SpecError: l(b, c) <= 0 somewhere in the variant's range, or the table cannot be read.
    """
    latency = variant.latency
    at: SpecPath = (*path, "latency")
    if latency is not None and latency.devices is not None:
        latency, at = latency.devices.get(device), (*at, device)
    elif device != CPU:
        return None
    if latency is None:
        return None
    coefficients = latency.coefficients_ms
    if coefficients is not None:
        rows_max, cores_max = variant.batch_max or 1, variant.cores_max or 1
        check_positive(coefficients, source, at, rows_max=rows_max, cores_max=cores_max)
        spread = COEFFICIENTS_SPREAD if latency.spread is None else latency.spread
        return DeclaredLatency(
            coefficients_ms=coefficients, stat=latency.stat, spread=spread, distribution=latency.distribution
        )
    assert latency.table is not None, "the schema wants one of the two"
    rows = _read_table(folder / latency.table, source, (*at, "table"))
    spread = _measured_spread(rows) if latency.spread is None else latency.spread
    return DeclaredLatency(table=rows, stat=latency.stat, spread=spread, distribution=latency.distribution)


def check_positive(
    coefficients: tuple[float, float, float, float],
    source: Source,
    at: SpecPath,
    *,
    rows_max: int,
    cores_max: int,
) -> None:
    """Linear in b, and monotone in c for each b: the least value lies in a corner of the range.

    Raises:
        SpecError: l(b, c) <= 0, or infinite, for some b <= rows_max and c <= cores_max.
    """
    alpha, beta, gamma, zeta = coefficients
    for batch in (1, rows_max):
        for cores in (1, cores_max):
            latency_ms = alpha * batch / cores + beta * batch + gamma / cores + zeta
            if not 0 < latency_ms < math.inf:
                raise source.error(
                    at, f"l(b={batch}, c={cores}) = {latency_ms:g} ms, want more than 0 in the whole range"
                )


def _read_table(file: Path, source: Source, at: SpecPath) -> tuple[_Row, ...]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            for column in reader.fieldnames or ():
                if column not in _COLUMNS:
                    raise source.error(
                        at, f"{file}: unknown column {shown(column)}{nearest(column, _COLUMNS)}"
                    )
            for column in _COLUMNS[:3]:
                if column not in (reader.fieldnames or ()):
                    raise source.error(
                        at, f"{file}: column {column} is missing (want {', '.join(_COLUMNS[:3])}[, p99_ms])"
                    )
            rows: dict[tuple[int, float], _Row] = {}
            for cells in reader:
                row = _row(cells, reader.line_num, file, source, at)
                if row[:2] in rows:
                    where = f"{file}:{reader.line_num}"
                    raise source.error(at, f"{where}: batch {row[0]} on {row[1]:g} cores is there twice")
                rows[row[:2]] = row
    except OSError as error:
        raise source.error(at, f"cannot read {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise source.error(at, f"{file}: not a CSV file: {error}") from None
    if not 1 <= len(rows) <= TABLE_ROWS_MAX:
        raise source.error(at, f"{file}: want 1 to {TABLE_ROWS_MAX} rows, got {len(rows)}")
    return tuple(rows.values())


def _row(cells: dict[str, str | None], line: int, file: Path, source: Source, at: SpecPath) -> _Row:
    def number(column: str) -> float:
        text = cells.get(column) or ""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise source.error(at, f"{file}:{line}: {column}: want a number > 0, got {shown(text or None)}")
        return value

    batch = number("batch")
    if batch != int(batch):
        raise source.error(at, f"{file}:{line}: batch: want a whole number, got {batch:g}")
    if batch > BATCH_MAX:
        raise source.error(at, f"{file}:{line}: batch: want at most {BATCH_MAX}, got {batch:g}")
    cores, latency_ms = number("cores"), number("latency_ms")
    p99_ms = number("p99_ms") if cells.get("p99_ms") else None
    if p99_ms is not None and p99_ms < latency_ms:
        raise source.error(
            at, f"{file}:{line}: p99_ms: want at least latency_ms ({latency_ms:g}), got {p99_ms:g}"
        )
    return int(batch), cores, latency_ms, p99_ms


def _measured_spread(rows: tuple[_Row, ...]) -> float:
    """Sigma of a log-normal whose 0.99 quantile is p99/p50: ln(ratio) / 2.326; the median over the rows."""
    sigmas = sorted(math.log(p99 / p50) / 2.326 for _, _, p50, p99 in rows if p99 is not None)
    return sigmas[len(sigmas) // 2] if sigmas else COEFFICIENTS_SPREAD
