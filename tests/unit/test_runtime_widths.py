from hypothesis import given
from hypothesis import strategies as st

from steelyard.profile.types import Cell, Profile
from steelyard.runtime.base import Width, WidthRule
from steelyard.runtime.widths import (
    nearest_count,
    needs_threads,
    slices,
    thread_counts,
    width_cores,
    width_for,
    width_rules,
)


def test_fractions_of_a_core_round_up() -> None:
    assert [width_cores(cores) for cores in (0.0, 0.25, 1.0, 1.0000000001, 1.5, 2.0)] == [1, 1, 1, 1, 2, 2]


def test_without_rules_a_batch_runs_on_threads() -> None:
    assert width_for((), 2, 8) == "threads"


def test_a_rule_holds_from_its_rows_on() -> None:
    rules = (WidthRule(2, 1, "threads"), WidthRule(2, 4, "lanes"), WidthRule(2, 16, "threads"))
    found = [width_for(rules, 2, rows) for rows in (1, 3, 4, 15, 16, 99)]
    assert found == ["threads", "threads", "lanes", "lanes", "threads", "threads"]


def test_rules_of_the_nearest_core_count_apply() -> None:
    rules = (WidthRule(2, 1, "lanes"), WidthRule(6, 1, "threads"))
    assert width_for(rules, 3, 1) == "lanes"
    assert width_for(rules, 4, 1) == "lanes"  # 2 and 6 are equally near: the smaller one
    assert width_for(rules, 5, 1) == "threads"


def test_below_its_first_rule_a_core_count_uses_threads() -> None:
    assert width_for((WidthRule(2, 4, "lanes"),), 2, 2) == "threads"


def test_a_width_that_only_runs_lanes_needs_no_session() -> None:
    assert not needs_threads((WidthRule(2, 1, "lanes"),), 2)
    assert needs_threads((WidthRule(2, 4, "lanes"),), 2)  # batches below 4 rows run on threads
    assert needs_threads((WidthRule(2, 1, "lanes"),), 1)  # the lanes' own session


def test_a_wide_range_does_not_mean_a_session_a_core() -> None:
    assert thread_counts(1) == (1,)
    assert thread_counts(4) == (1, 2, 3, 4)
    assert thread_counts(10) == (1, 2, 3, 4, 6, 8, 10)
    assert thread_counts(64) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def test_the_nearest_session_is_the_largest_that_fits() -> None:
    assert nearest_count((1, 2, 4), 3) == 2
    assert nearest_count((4, 6), 2) == 4


@given(rows=st.integers(1, 500), lanes=st.integers(1, 64))
def test_slices_cover_the_rows_evenly(rows: int, lanes: int) -> None:
    parts = slices(rows, lanes)
    sizes = [part.stop - part.start for part in parts]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    assert len(parts) == min(rows, lanes)
    assert max(sizes) - min(sizes) <= 1


def cell(rows: int, cores: float, width: Width, bucket: int = 0) -> Cell:
    return Cell(bucket, rows, cores, 0.01, 0.02, 5, width)


def test_a_profile_becomes_rules_where_the_width_changes() -> None:
    cells = (
        cell(1, 1, "threads"),
        cell(1, 2, "threads"),
        cell(4, 2, "lanes"),
        cell(8, 2, "lanes"),
        cell(1, 4, "lanes"),
        cell(2, 0.5, "lanes"),  # parts of a core have no width
    )
    profile = Profile("m", "v", "hash", "machine", "runtime", cells, 0.1, 0.0001)
    assert width_rules(profile) == (
        WidthRule(2, 1, "threads"),
        WidthRule(2, 4, "lanes"),
        WidthRule(4, 1, "lanes"),
    )


def test_where_buckets_disagree_the_majority_wins_and_threads_on_a_tie() -> None:
    cells = (
        cell(4, 2, "lanes", 0),
        cell(4, 2, "threads", 1),
        cell(8, 2, "lanes", 0),
        cell(8, 2, "lanes", 1),
        cell(8, 2, "threads", 2),
    )
    profile = Profile("m", "v", "hash", "machine", "runtime", cells, 0.1, 0.0001)
    assert width_rules(profile) == (WidthRule(2, 4, "threads"), WidthRule(2, 8, "lanes"))
