"""Service times that the spec declares."""

import math
from pathlib import Path

import pytest

from steelyard.config.latency import COEFFICIENTS_SPREAD, declared_latency
from steelyard.config.load import read_spec
from steelyard.core.errors import SpecError
from steelyard.profile.types import DeclaredLatency


def declared(latency: str, folder: Path, extra: str = "", device: str = "cpu") -> DeclaredLatency | None:
    text = (
        f"models: {{m: {{variants: {{v: {{latency: {latency}{extra}}}}}}}}}\n"
        "services: {s: {slo: {latency: 1s}, pipeline: {a: {model: m}}}}\n"
    )
    loaded = read_spec(text, "spec.yaml", folder)
    variant = loaded.spec.models["m"].variants["v"]
    path = ("models", "m", "variants", "v")
    return declared_latency(variant, loaded.source, path, folder=folder, device=device)


def test_coefficients_default_to_zero_and_a_small_spread(tmp_path: Path) -> None:
    latency = declared("{alpha_ms: 10, zeta_ms: 2}", tmp_path)
    assert latency == DeclaredLatency(coefficients_ms=(10.0, 0.0, 0.0, 2.0), spread=COEFFICIENTS_SPREAD)


def test_negative_coefficients_are_taken_while_the_latency_stays_positive(tmp_path: Path) -> None:
    # l(1, 1) = 148.8 + 37.5 + 5.4 - 15.5 = 176.2 ms; l(1, 8) = 18.6 + 37.5 + 0.675 - 15.5 = 41.3 ms.
    coefficients = "{alpha_ms: 148.8, beta_ms: 37.5, gamma_ms: 5.4, zeta_ms: -15.5}"
    assert declared(coefficients, tmp_path, ", cores_max: 8, batch_max: 8") is not None


def test_the_range_is_what_decides(tmp_path: Path) -> None:
    # l(b, c) = 10 b / c - 2: 8 ms at (1, 1), but 10 / 8 - 2 = -0.75 ms at (1, 8).
    assert declared("{alpha_ms: 10, zeta_ms: -2}", tmp_path) is not None
    with pytest.raises(SpecError, match=r"l\(b=1, c=8\) = -0.75 ms"):
        declared("{alpha_ms: 10, zeta_ms: -2}", tmp_path, ", cores_max: 8")


def test_a_table_is_read_beside_the_spec_with_its_own_spread(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("batch,cores,latency_ms,p99_ms\n1,1,10,20\n2,1,18,36\n4,1,30,\n")
    latency = declared("{table: t.csv, stat: p50}", tmp_path)
    assert latency is not None
    assert latency.table == ((1, 1.0, 10.0, 20.0), (2, 1.0, 18.0, 36.0), (4, 1.0, 30.0, None))
    # p99 / p50 = 2 in both rows that have it; 2.326 is the normal's 0.99 quantile: sigma = ln 2 / 2.326.
    assert latency.spread == pytest.approx(math.log(2) / 2.326)


def test_a_table_a_device(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("batch,cores,latency_ms\n1,1,10\n")
    (tmp_path / "b.csv").write_text("batch,cores,latency_ms\n1,1,2\n")
    tables = "{cpu: {table: a.csv}, gtx1080ti: {table: b.csv}}"
    assert declared(tables, tmp_path) == DeclaredLatency(table=((1, 1.0, 10.0, None),))
    assert declared(tables, tmp_path, device="gtx1080ti") == DeclaredLatency(table=((1, 1.0, 2.0, None),))
    assert declared(tables, tmp_path, device="tpu") is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "column batch is missing"),
        ("batch,cores\n1,1\n", "column latency_ms is missing"),
        ("batch,cores,latency_ms,p90_ms\n", "unknown column p90_ms; did you mean p99_ms?"),
        ("batch,cores,latency_ms\n", "want 1 to 100000 rows, got 0"),
        ("batch,cores,latency_ms\n1,1,fast\n", r"t\.csv:2: latency_ms: want a number > 0, got fast"),
        ("batch,cores,latency_ms\n1,1,-1\n", r"t\.csv:2: latency_ms: want a number > 0, got -1"),
        ("batch,cores,latency_ms\n1,1,nan\n", r"t\.csv:2: latency_ms: want a number > 0, got nan"),
        ("batch,cores,latency_ms\n1,1\n", r"t\.csv:2: latency_ms: want a number > 0, got nothing"),
        ("batch,cores,latency_ms\n1.5,1,2\n", r"t\.csv:2: batch: want a whole number, got 1.5"),
    ],
)
def test_a_bad_table_names_file_line_and_column(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(SpecError, match=message) as raised:
        declared("{table: t.csv}", tmp_path)
    assert str(raised.value).startswith("spec.yaml:1: models.m.variants.v.latency.table: ")


def test_a_table_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not a CSV file"):
        declared("{table: t.csv}", tmp_path)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("1,1,50,60\n1,1,55,60\n", "t.csv:3: batch 1 on 1 cores is there twice"),
        ("1,1,50,40\n", r"t.csv:2: p99_ms: want at least latency_ms \(50\), got 40"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused_by_line(
    tmp_path: Path, lines: str, complaint: str
) -> None:
    (tmp_path / "t.csv").write_text("batch,cores,latency_ms,p99_ms\n" + lines)
    with pytest.raises(SpecError, match=complaint):
        declared("{table: t.csv}", tmp_path)


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("batch,cores,latency_ms\n1,1,50\n", encoding="utf-8-sig")
    latency = declared("{table: t.csv}", tmp_path)
    assert latency is not None
    assert latency.table == ((1, 1.0, 50.0, None),)
