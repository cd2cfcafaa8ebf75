"""How the matrix is judged: sums, the curve between its points, and the line against a published policy."""

import pytest
from headlines import added_up
from headlines_judge import Case, Curve, Run, Total, Verdict, allowed, judge, totals
from headlines_summary import added, summary_of
from hypothesis import given
from hypothesis import strategies as st


def run_of(label: str, violations: int, cost: float, seed: int = 1) -> Run:
    return Run(label, Case("surge-1", 6.0, seed), 1000, violations, cost, cost / 2)


def total(label: str, violations: int, cost: float) -> Total:
    return Total(label, 1, 100_000, violations, cost, cost / 2)


def test_ratios_are_of_sums_not_means_of_ratios() -> None:
    light = Run("p", Case("a", 6.0, 1), 100, 50, 10.0, 5.0)
    heavy = Run("p", Case("b", 6.0, 1), 900, 0, 30.0, 10.0)
    found = totals([light, heavy])["p"]
    # 50 of 1000 requests; the mean of 50 % and 0 % would be 25 %.
    assert found == Total("p", 2, 1000, 50, 40.0, 15.0)
    assert found.ratio == 0.05


def test_policies_are_compared_on_the_cases_they_share() -> None:
    runs = [run_of("p", 1, 10.0, seed) for seed in (1, 2, 3)]
    runs += [run_of("q", 2, 20.0, seed) for seed in (1, 2)]
    runs += [run_of("r", 3, 30.0, 1)]  # one of three cases: incomplete
    assert {label: (each.runs, each.violations) for label, each in totals(runs).items()} == {
        "p": (2, 2),
        "q": (2, 4),
    }


def test_between_points_the_logarithm_is_linear() -> None:
    curve = Curve([total("s", 1000, 100.0), total("s", 10, 200.0)])
    # 1 % at 100, 0.01 % at 200: half-way in cost is the geometric mean, 0.1 %.
    assert curve.violations_at(150.0) == pytest.approx(0.001)
    assert curve.cost_at(0.001) == pytest.approx(150.0)


def test_beyond_its_ends_the_curve_says_nothing_it_has_not_measured() -> None:
    curve = Curve([total("s", 1000, 100.0), total("s", 10, 200.0)])
    assert curve.violations_at(99.0) is None
    assert curve.cost_at(0.00009) is None
    # A larger budget buys the dearest point, a laxer target the cheapest.
    assert curve.violations_at(900.0) == pytest.approx(0.0001)
    assert curve.cost_at(0.5) == 100.0


def test_points_beaten_in_both_are_not_on_the_curve() -> None:
    curve = Curve([total("s", 100, 100.0), total("s", 200, 150.0), total("s", 10, 200.0)])
    assert [cost for cost, _ in curve.points] == [100.0, 200.0]


def test_no_violation_stands_for_half_a_one() -> None:
    assert Curve([total("s", 0, 10.0)]).points == ((10.0, 0.5 / 100_000),)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 400)), min_size=1, max_size=8))
def test_the_two_readings_of_a_curve_agree(points: list[tuple[int, int]]) -> None:
    curve = Curve([total("s", violations, float(cost)) for violations, cost in points])
    for cost in range(1, 401, 7):
        violations = curve.violations_at(float(cost))
        if violations is not None:
            back = curve.cost_at(violations * (1 + 1e-9))
            assert back is not None
            assert back <= cost * (1 + 1e-6)


def test_the_line_holds_where_violations_are_a_third_and_the_cost_is_no_more() -> None:
    curve = Curve([total("s", 1000, 100.0), total("s", 10, 200.0)])
    verdict = judge("p", {"p": total("p", 600, 150.0)}, curve)
    # At 150: 0.1 % <= 0.6 % / 3; at 0.6 %: cost 100 + 100 * ln(1 / 0.6) / ln(100) = 111.1 <= 150.
    assert verdict.at_cost == pytest.approx(0.001)
    assert verdict.at_violations == pytest.approx(111.09, abs=0.01)
    assert verdict.holds
    # Margins: 0.2 / 0.1 = 2, and 150 / 111.09 = 1.35.
    assert verdict.margin == pytest.approx(150 / 111.09, abs=0.001)


def test_the_line_fails_where_a_third_is_not_reached() -> None:
    curve = Curve([total("s", 1000, 100.0), total("s", 10, 200.0)])
    verdict = judge("p", {"p": total("p", 200, 150.0)}, curve)
    assert verdict.holds is False  # 0.1 % > max(0.2 % / 3, 0.05 %)


def test_few_violations_are_not_asked_to_be_a_third() -> None:
    assert allowed(0.0006) == 0.0005
    assert allowed(0.03) == pytest.approx(0.01)


def test_a_cost_below_the_curve_is_outside_and_does_not_hold() -> None:
    curve = Curve([total("s", 1000, 100.0), total("s", 10, 200.0)])
    verdict = judge("p", {"p": total("p", 6000, 90.0)}, curve)
    assert (verdict.at_cost, verdict.holds, verdict.margin) == (None, False, 0.0)


def test_the_better_form_is_the_one_that_is_harder_to_beat() -> None:
    curve = Curve([total("s", 1000, 100.0), total("s", 10, 200.0)])
    found = {"p": total("p", 3000, 180.0), "p+ours": total("p+ours", 200, 150.0)}
    verdict = judge("p", found, curve)
    assert (verdict.form, verdict.why) == ("p+ours", "better in both")


def test_more_than_a_fifth_of_violations_do_not_count() -> None:
    curve = Curve([total("s", 10, 100.0)])
    lost = {"p": total("p", 20_001, 50.0), "p+ours": total("p+ours", 30_000, 40.0)}
    assert judge("p", lost, curve) == Verdict("p", None, "more than 20% violations")
    one = judge("p", lost | {"p+ours": total("p+ours", 900, 150.0)}, curve)
    assert (one.form, one.holds) == ("p+ours", True)
    assert judge("q", lost, curve).why == "not run, or not on every case"


# Seeds that were run apart


def some_runs(*seeds: int) -> list[Run]:
    """Violations and costs that differ by seed, of ours at three settings, the oracle, and two others."""
    rows = [("steelyard", 2, 9.0), ("steelyard violation_target=0.1", 40, 7.0), ("oracle", 1, 8.0)]
    rows += [("fa2", 90, 8.5), ("themis", 30, 20.0)]
    return [run_of(label, found * seed, cost + seed, seed) for label, found, cost in rows for seed in seeds]


def test_seeds_run_apart_add_up_to_the_same_as_together() -> None:
    together = summary_of(some_runs(1, 2, 3))
    apart = added([summary_of(some_runs(1, 3)), summary_of(some_runs(2))])
    assert together["policies"][0]["runs"] == 3
    for row, other in zip(together["policies"], apart["policies"], strict=True):
        assert row == pytest.approx(other)
    for key in ("cases", "incomplete"):
        assert together[key] == apart[key]
    assert [verdict["holds"] for verdict in together["verdicts"]] == [
        verdict["holds"] for verdict in apart["verdicts"]
    ]
    assert together["default"] == pytest.approx(apart["default"])


def test_what_one_seed_lacks_is_not_compared() -> None:
    lacking = [run for run in some_runs(2) if run.label != "themis"]
    found = added([summary_of(some_runs(1)), summary_of(lacking)])
    assert found["incomplete"] == ["themis"]
    assert "themis" not in {row["policy"] for row in found["policies"]}


def test_seeds_of_other_surges_are_not_added() -> None:
    record = {"slices": [1], "seconds": 660, "cold_starts_s": [3.0]}
    with pytest.raises(SystemExit, match="differ in cold_starts_s: run them alike, or remove it"):
        added_up([record, record | {"cold_starts_s": [6.0]}])
