"""InfAdapter's program on a table small enough to check by hand, and against enumeration."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import SpecError
from steelyard.core.plan import Infeasible
from steelyard.plan.infadapter import (
    Candidate,
    Mix,
    MixProblem,
    best_single,
    evaluated,
    fitted,
    front,
    solve,
)
from steelyard.plan.infadapter_brute import best_accuracy, best_value

FAST = Candidate("fast", 0.7, (10.0, 20.0, 30.0, 40.0, 50.0, 60.0), load_s=4.0)
EXACT = Candidate("exact", 0.8, (5.0, 10.0, 15.0, 20.0, 25.0, 30.0), load_s=8.0)


def problem(rate: float, cores_max: int = 6, **fields: object) -> MixProblem:
    return MixProblem((FAST, EXACT), rate, cores_max, **fields)  # type: ignore[arg-type]


def shape(mix: Mix | Infeasible) -> dict[str, int]:
    assert isinstance(mix, Mix)
    return {portion.variant: portion.cores for portion in mix.portions}


def test_the_most_accurate_variant_is_filled_first() -> None:
    # 30 a second on 6 cores of `exact`: 0.8 - 0.05 x 6/6 - 0.001 x 8/8 = 0.749.
    # 3 of `fast`: 0.7 - 0.025 - 0.0005 = 0.6745; 2 + 2: 10 at 0.8, 20 at 0.7, 0.7333 - 0.0333 - 0.001.
    mix = solve(problem(30.0))
    assert shape(mix) == {"exact": 6}
    assert isinstance(mix, Mix)
    assert mix.value == pytest.approx(0.749)
    # 40 a second: `exact` 4 carries 20 and `fast` 2 the other 20, half each: 0.75.
    mix = solve(problem(40.0))
    assert shape(mix) == {"exact": 4, "fast": 2}
    assert isinstance(mix, Mix)
    assert [portion.share for portion in mix.portions] == pytest.approx([0.5, 0.5])
    assert mix.accuracy == pytest.approx(0.75)
    assert (mix.cores, mix.load_s, mix.switches) == (6, 8.0, 2)


def test_what_cores_cost_decides_between_few_and_accurate() -> None:
    # alpha 1: 2 cores of `fast` carry 20 at 0.7 - 1/3; 4 of `exact` at 0.8 - 2/3.
    assert shape(solve(problem(20.0, cost_weight=1.0))) == {"fast": 2}
    assert shape(solve(problem(20.0, cost_weight=0.05))) == {"exact": 4}


def test_loading_counts_by_the_slowest_that_changes() -> None:
    # `fast` runs on 2 and carries 20. `exact` on 4 gains 0.1 and loses 0.05 x 2/6 = 0.0167 in cores: worth it
    # unless loading for 8 of 8 s costs more than 0.0833.
    running = MixProblem((FAST.__class__("fast", 0.7, FAST.rps, 4.0, 2), EXACT), 20.0, 6, load_weight=0.08)
    assert shape(solve(running)) == {"exact": 4}
    reluctant = MixProblem(running.candidates, 20.0, 6, load_weight=0.09)
    mix = solve(reluctant)
    assert shape(mix) == {"fast": 2}
    assert isinstance(mix, Mix)
    assert (mix.load_s, mix.switches) == (0.0, 0)


def test_a_used_variant_has_at_least_two_cores() -> None:
    assert shape(solve(problem(1.0, cost_weight=1.0))) == {"exact": 2}
    assert shape(solve(problem(1.0, cost_weight=1.0, cores_min=1))) == {"exact": 1}


def test_nothing_to_serve_keeps_the_variant_that_is_worth_its_cores() -> None:
    # 0.8 - 0.05 x 2/6 against 0.7 - 0.05 x 2/6
    assert shape(solve(problem(0.0))) == {"exact": 2}


def test_too_much_load_names_the_cores_that_would_do() -> None:
    # `fast` carries 10 a core: 100 a second need 10 cores.
    found = solve(problem(100.0))
    assert isinstance(found, Infeasible)
    assert found.nearest_cores == pytest.approx(10.0)
    assert isinstance(best_single(problem(100.0)), Infeasible)


def test_the_front_rises_in_cores_and_accuracy() -> None:
    # 20 a second: fast 2 (0.7), exact 2 + fast 2 (10 at 0.8, 10 at 0.7), then exact 4 (0.8) on as many.
    assert [(mix.cores, round(mix.accuracy, 6)) for mix in front(problem(20.0))] == [(2, 0.7), (4, 0.8)]
    # 30: fast 3 (0.7); exact 2 + fast 2 (0.7333); exact 3 + fast 2 (0.75); exact 6 (0.8).
    assert [(mix.cores, round(mix.accuracy, 4)) for mix in front(problem(30.0))] == [
        (3, 0.7),
        (4, 0.7333),
        (5, 0.75),
        (6, 0.8),
    ]


def test_the_best_single_variant_is_what_a_mix_improves_on() -> None:
    # 40 a second: `exact` carries 30 at most, so `fast` on 4 alone; the mix has 0.75 on 6.
    assert shape(best_single(problem(40.0))) == {"fast": 4}


def test_given_cores_are_reckoned_as_they_are() -> None:
    mix = evaluated(problem(30.0), (2, 2))
    assert mix.accuracy == pytest.approx((10 * 0.8 + 20 * 0.7) / 30)
    # 0 cores of `fast`: 10 of 30 are answered at 0.8, the others not at all
    assert evaluated(problem(30.0), (0, 2)).accuracy == pytest.approx(0.8 / 3)


def test_the_released_line_is_cut_to_whole_numbers_and_a_fifth_less() -> None:
    # 24 n - 6.5 exactly: the intercept is cut to -6; 0.8 (24 x 2 - 6) = 33.6, so 33.
    rps = [24.0 * n - 6.5 for n in range(1, 17)]
    assert fitted(rps)[1] == 33.0
    # An intercept above 0 counts as 0: 0.8 x 10 n.
    assert fitted([10.0 * n + 0.9 for n in range(1, 17)])[:2] == (8.0, 16.0)
    assert fitted([10.0]) == (8.0,)


@pytest.mark.parametrize(
    ("candidates", "rate", "cores"),
    [((), 1.0, 2), ((FAST, FAST), 1.0, 2), ((FAST,), -1.0, 2), ((FAST,), 1.0, 0)],
)
def test_bad_problems_are_refused(candidates: tuple[Candidate, ...], rate: float, cores: int) -> None:
    with pytest.raises(SpecError):
        solve(MixProblem(candidates, rate, cores))


@st.composite
def problems(draw: st.DrawFn) -> MixProblem:
    """Tables that rise, fall and stand still: measured ones do."""
    cores = draw(st.integers(2, 5))
    candidates = tuple(
        Candidate(
            f"v{index}",
            draw(st.sampled_from((0.5, 0.6, 0.7, 0.71, 0.8))),
            tuple(float(draw(st.integers(0, 40))) for _ in range(cores)),
            draw(st.sampled_from((0.0, 1.0, 3.0))),
            draw(st.integers(0, cores)),
        )
        for index in range(draw(st.integers(1, 3)))
    )
    weights = draw(st.sampled_from(((0.05, 0.001), (0.5, 0.2), (0.0, 0.0))))
    return MixProblem(candidates, float(draw(st.integers(0, 90))), cores, draw(st.integers(1, 2)), *weights)


@given(problems())
@settings(max_examples=300, deadline=None)
def test_the_optimum_is_that_of_enumeration(one: MixProblem) -> None:
    found, best = solve(one), best_value(one)
    assert isinstance(found, Infeasible) == (best is None)
    if isinstance(found, Mix):
        assert found.value == pytest.approx(best, abs=1e-9)
        assert found.cores <= one.cores_max
        assert sum(portion.share for portion in found.portions) == pytest.approx(1.0)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_the_front_ends_at_the_highest_accuracy(one: MixProblem) -> None:
    mixes, best = front(one), best_accuracy(one)
    assert bool(mixes) == (best is not None)
    if mixes:
        assert mixes[-1].accuracy == pytest.approx(best, abs=1e-9)
        assert all(a.cores < b.cores and a.accuracy < b.accuracy for a, b in pairwise(mixes))
