import pytest
from msgspec.structs import replace

from steelyard.profile.types import Cell, Profile
from steelyard.profiler.grid import Setting, blocks, cores_grid, rows_grid
from steelyard.profiler.measure import cells
from steelyard.profiler.profile import merged
from steelyard.profiler.words import coverage, table_rows


def test_rows_double_and_both_ends_are_in() -> None:
    assert rows_grid(1, "full") == (1,)
    assert rows_grid(12, "full") == (1, 2, 4, 8, 12)
    assert rows_grid(16, "full") == (1, 2, 4, 8, 16)
    assert rows_grid(16, "quick") == (1, 16, 4)  # the ends first: time may run out
    assert rows_grid(3, "quick") == (1, 3)
    assert rows_grid(1, "quick") == (1,)


def test_cores_are_those_with_sessions() -> None:
    assert cores_grid(1, "full") == (1,)
    assert cores_grid(8, "full") == (1, 2, 3, 4, 6, 8)
    assert cores_grid(8, "quick") == (1, 8)


def test_a_block_is_every_way_to_run_the_same_rows() -> None:
    found = blocks(1, (1, 4), (1, 2), with_lanes=True)
    assert found[1] == (
        Setting(0, 4, 1, "threads"),
        Setting(0, 4, 2, "threads"),
        Setting(0, 4, 2, "lanes"),
    )
    assert len(found) == 2


def test_what_is_known_is_not_measured_again() -> None:
    known = [Cell(0, 1, 1, 0.1, 0.1, 9), Cell(0, 1, 2, 0.1, 0.1, 9), Cell(0, 4, 1.0, 0.1, 0.1, 9)]
    found = blocks(1, (1, 4), (1, 2), with_lanes=False, known=known)
    assert found == [(Setting(0, 4, 2, "threads"),)]


def test_a_cell_is_that_of_the_faster_width() -> None:
    threads, lanes = Setting(0, 4, 2, "threads"), Setting(0, 4, 2, "lanes")
    (cell,) = cells({threads: [[0.010], [0.010, 0.010]], lanes: [[0.008] * 20, [0.008] * 20]})
    assert cell == Cell(0, 4, 2, 0.008, 0.008, 40, "lanes", 2)


def test_a_point_with_few_runs_shares_the_tail_of_its_block() -> None:
    few, many = Setting(0, 4, 1, "threads"), Setting(0, 4, 2, "threads")
    # 103 ratios to the medians: 101 ones and 2 threes. Their 0.99 quantile lies at 0.99 x 102 = 100.98,
    # between the last one (index 100) and the first three: 1 + 0.98 x 2 = 2.96.
    found = cells({few: [[0.020], [0.020]], many: [[0.010] * 99 + [0.030, 0.030]]})
    assert [round(cell.p50_s, 6) for cell in found] == [0.020, 0.010]
    assert found[0].p99_s == pytest.approx(0.020 * 2.96)
    assert found[1].p99_s == 0.030


def test_lanes_that_gain_only_noise_are_not_chosen() -> None:
    threads, lanes = Setting(0, 4, 2, "threads"), Setting(0, 4, 2, "lanes")
    (cell,) = cells({lanes: [[0.0098]], threads: [[0.010]]})
    assert cell.width == "threads"


def test_found_cells_replace_known_ones() -> None:
    known = (Cell(0, 4, 1, 0.4, 0.4, 2), Cell(0, 1, 1, 0.1, 0.1, 2))
    found = [Cell(0, 4, 1.0, 0.5, 0.5, 30)]
    assert merged(known, found) == (known[1], found[0])


PROFILE = Profile(
    "m",
    "v",
    "hash",
    "machine",
    "runtime",
    (Cell(0, 1, 1, 0.012, 0.020, 9, "threads", 5), Cell(0, 4, 1, 0.042, 0.050, 9, "threads", 5)),
    0.13,
    0.0001,
)


def test_coverage_says_where_it_extrapolates() -> None:
    assert coverage(PROFILE, batch_rows_max=4, cores_max=1) == (
        "v: 2 points, 1 to 4 rows on 1 core; the fit errs by 0%, up to x1.00; measured on random inputs"
    )
    line = coverage(PROFILE, batch_rows_max=16, cores_max=2)
    assert line.endswith("; extrapolated for more than 4 rows and more than 1 core")
    real = replace(PROFILE, inputs="examples 1f2e3d4c5b6a")
    assert coverage(real, batch_rows_max=4, cores_max=1).endswith("; on examples 1f2e3d4c5b6a")


def test_rows_of_the_json_output_have_the_keys_of_the_contract() -> None:
    row = table_rows(PROFILE)[1]
    contract = {"model", "variant", "batch", "cores", "latency_ms", "cold_start_s", "resize_ms", "inputs"}
    assert contract <= set(row)
    assert (row["batch"], row["cores"], row["latency_ms"], row["resize_ms"]) == (
        4,
        1,
        {"p50": 42.0, "p99": 50.0},
        0.1,
    )
