"""The pure parts of the comparison with other servers: the search, the lines, the rows, the tree's cores."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers.search import Search
from peers.stalls import Stalls
from peers.store import Key, Store
from peers.summary import best_settings, rows
from peers.tree import parse_cores
from peers_page import peers


def run_to_the_end(search: Search, capacity_rps: float) -> int:
    """A server whose p99 is 10 ms / (1 - load), so 50 ms at 0.8 of its capacity; how many runs it took."""
    runs = 0
    while (rate := search.next_rate()) is not None:
        search.record(rate, 0.01 / (1 - rate / capacity_rps) if rate < capacity_rps else math.inf)
        runs += 1
    return runs


def test_the_search_begins_below_saturation_and_brackets_the_objective() -> None:
    search = Search(100.0, [0.05], runs_max=12)
    assert search.next_rate() == 75.0
    search.record(75.0, 0.04)
    assert search.next_rate() == pytest.approx(93.75)  # 1.25 up
    search.record(93.75, 0.16)
    assert search.next_rate() == pytest.approx(93.75)  # a failure must repeat itself
    search.record(93.75, 0.2)
    assert search.next_rate() == pytest.approx(math.sqrt(75 * 93.75))


@given(capacity=st.floats(5.0, 5000.0), guess=st.floats(0.3, 1.5))
def test_the_rate_found_is_within_tolerance_of_the_true_one(capacity: float, guess: float) -> None:
    search = Search(capacity * guess, [0.05], runs_max=30)
    run_to_the_end(search, capacity)
    passes, fails = search.bracket(0.05)
    assert passes is not None
    assert fails is not None
    assert passes <= 0.8 * capacity * (1 + 1e-9) <= fails * (1 + 1e-9)
    assert fails <= 1.04 * passes * (1 + 1e-9)


def test_objectives_share_their_runs() -> None:
    """Runs at 75 with a p99 of 40 ms pass 50 and 100 ms and fail 25 ms."""
    search = Search(100.0, [0.025, 0.05, 0.1], runs_max=12)
    search.record(75.0, 0.04)
    search.record(75.0, 0.04)
    assert search.bracket(0.025) == (None, 75.0)
    assert search.bracket(0.05) == search.bracket(0.1) == (75.0, None)


def test_an_objective_out_of_reach_ends_the_search() -> None:
    search = Search(100.0, [0.05], runs_max=50)
    # 0.75 * 0.6 ** n falls below 0.02 after 8 steps, each of two runs.
    assert run_to_the_end_at(search, 0.06) < 20
    assert search.bracket(0.05)[0] is None


def run_to_the_end_at(search: Search, p99_s: float) -> int:
    runs = 0
    while (rate := search.next_rate()) is not None:
        search.record(rate, p99_s)
        runs += 1
    return runs


def test_the_number_of_runs_is_bounded() -> None:
    search = Search(1.0, [0.05], runs_max=4)
    assert run_to_the_end_at(search, 0.01) == 4


def test_where_runs_contradict_each_other_the_failure_counts() -> None:
    search = Search(100.0, [0.05], runs_max=12)
    for rate, p99_s in ((60.0, 0.04), (70.0, 0.06), (70.0, 0.06), (80.0, 0.04)):
        search.record(rate, p99_s)
    assert search.bracket(0.05) == (60.0, 70.0)


def test_a_single_failure_is_no_failure() -> None:
    """Noise can only lengthen a latency: 70 fails once and passes once, so it passes."""
    search = Search(100.0, [0.05], runs_max=12)
    for rate, p99_s in ((60.0, 0.04), (70.0, 0.06)):
        search.record(rate, p99_s)
    assert search.bracket(0.05) == (60.0, None)
    assert search.next_rate() == 70.0
    search.record(70.0, 0.03)
    assert search.bracket(0.05) == (70.0, None)
    assert search.next_rate() == pytest.approx(70 * 1.25**2)


def test_a_failure_below_a_rate_that_passes_is_not_asked_again() -> None:
    search = Search(100.0, [0.05], runs_max=12)
    for rate, p99_s in ((75.0, 0.04), (70.0, 0.06)):
        search.record(rate, p99_s)
    assert search.next_rate() == pytest.approx(75 * 1.25**2)


def key(setting: int = 0, *, phase: str = "tune", number: int = 0, code: str = "1.0") -> Key:
    return Key(code, "peer", "small", 50.0, phase, number, setting)


def found(rate: float | None) -> dict[str, object]:
    half = {"p50_ms": 1.0, "p99_ms": 9.0, "cpu_us": 100.0, "void": False}
    if rate is None:
        return {"rate_rps": None, "p99_ms": 80.0, "at_rps": 2.0}
    return {
        "rate_rps": rate,
        "p99_ms": 49.0,
        "refused": 0,
        "counted": 0.9,
        "cpu_us": 1e6 / rate,
        "half": half,
    }


def add(store: Store, key: Key, rate: float | None) -> None:
    store.add(key, found=found(rate), setting={"batch": 8}, saturation={"rps": 200.0}, pss_mb=100.0, runs=[])


def test_lines_are_found_again_and_errors_are_tried_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl", "quick", ["1.0"])
    add(store, key(), 100.0)
    store.add(key(1), error="not ready")
    again = Store(tmp_path / "runs.jsonl", "quick", ["1.0"])
    assert again.missing([key(), key(1), key(2)]) == [key(1), key(2)]
    assert [each for each, _ in again.failed()] == [key(1)]


@pytest.mark.parametrize(("scope", "codes"), [("full", ["1.0"]), ("quick", ["1.1"])])
def test_lines_of_another_form_or_version_do_not_count(tmp_path: Path, scope: str, codes: list[str]) -> None:
    add(Store(tmp_path / "runs.jsonl", "quick", ["1.0"]), key(), 100.0)
    assert not list(Store(tmp_path / "runs.jsonl", scope, codes).found())


def test_a_setting_is_chosen_when_tuned_and_judged_in_later_rounds(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl", "full", ["1.0"])
    add(store, key(0), 100.0)
    add(store, key(1), 120.0)
    assert best_settings(store, "peer", "small", [50.0]) == {50.0: 1}
    for number, rate in ((1, 90.0), (2, None), (3, 110.0)):
        add(store, key(1, phase="round", number=number), rate)
    (row,) = rows(store, ["peer"], ["small"], [50.0])
    # Rates 90, none (0) and 110: the median is 90; CPU of the two that reached it, (11111 + 9091) / 2.
    assert (row["rate_rps"], row["rounds"], row["phase"]) == (90.0, 3, "round")
    assert row["cpu_us"] == pytest.approx(10101.0, abs=0.1)


def test_an_objective_that_no_round_reached_says_how_slow_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl", "quick", ["1.0"])
    add(store, key(), None)
    (row,) = rows(store, ["peer"], ["small"], [50.0])
    assert (row["rate_rps"], row["slow_p99_ms"], row["slow_at_rps"]) == (None, 80.0, 2.0)


def test_lists_of_cores_are_read_as_the_kernel_writes_them() -> None:
    assert parse_cores("0\n") == {0}
    assert parse_cores("0-2,5") == {0, 1, 2, 5}


def test_a_rate_that_is_known_is_tried_first() -> None:
    search = Search(100.0, [0.05], runs_max=12, first_rps={0.05: 33.0})
    assert search.next_rate() == 33.0


def write_stall(file: Path, end_s: float, length_s: float) -> None:
    with file.open("ab") as entries:
        entries.write(struct.pack("dd", end_s, length_s))


def test_a_stall_spoils_its_slices_and_the_one_after_it(tmp_path: Path) -> None:
    """Slices of 0.25 s from 100.0 on: from 100.45 to 100.55 is in slices 1 and 2, and spoils 3 too."""
    file = tmp_path / "core"
    write_stall(file, 99.9, 0.1)  # before the run began: not read
    stalls = Stalls([file], 100.0)
    write_stall(file, 100.55, 0.1)
    assert not stalls.spoils(100.3)  # not looked at yet
    stalls.look()
    due_s = np.array([100.1, 100.3, 100.6, 100.99, 101.0])
    assert stalls.counted(due_s).tolist() == [True, False, False, False, True]
    assert [stalls.spoils(at_s) for at_s in due_s] == [False, True, True, True, False]


def test_without_watchers_everything_counts() -> None:
    stalls = Stalls([], 0.0)
    stalls.look()
    assert stalls.counted(np.array([0.0, 1.0])).all()


def test_the_ratio_is_to_the_best_of_the_others_whatever_our_build() -> None:
    """300 and 400 a second of ours against 100 of the only other: 3.00 and 4.00, 37.5 and 50 % of 800."""
    more = {
        "model": "gemm",
        "slo_ms": 50.0,
        "phase": "tune",
        "cpu_us": 9.0,
        "half_p99_ms": None,
        "refused": 0,
    }
    more |= {"counted": 1.0, "pss_mb": 1.0}
    rates = {"steelyard": 300.0, "steelyard, compiled": 400.0, "peer": 100.0}
    found = {"is_compiled": True, "rows": 8, "rows_per_s": 1e3, "share": 0.9}
    found |= {"worker_busy": 0.95, "front_end_busy": 0.3, "generator_busy": 0.6}
    record = {
        "server_core": 0, "client_core": 1, "window_s": 2.5, "failed": [], "slos_ms": [50.0],
        "servers": {name: {"code": f"{name} 1.0", "wires": ["HTTP"], "said": "tuned"} for name in rates},
        "rows": [{"server": name, "rate_rps": rate, **more} for name, rate in rates.items()],
        "yardsticks": [{"model": "gemm", "one_rps": 99.0, "best_rps": 800.0, "batch": 9, "apart": [found]}],
    }  # fmt: skip
    text = peers(record)
    assert [line.split("|")[4].strip() for line in text.splitlines() if "| 50 |" in line] == [
        "3.00",
        "4.00",
        "–",
    ]
    assert "| 38% / 50% |" in text
    assert "| compiled | 8 | 1,000 | 90% | 95% | 30% | 60% |" in text
