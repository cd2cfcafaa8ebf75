"""What a plan holds: groups of replicas, bounds by hand, and what would do instead."""

import re
from math import inf
from pathlib import Path

import pytest

from steelyard.cli.groups import groups_of
from steelyard.cli.verdict import Verdict, alternative, assess, within_reach
from steelyard.config.load import read_spec
from steelyard.config.planning import Blueprint, blueprint
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.plan.joint import sizes_text
from steelyard.profile.tables import StageTimes, service_times
from steelyard.profile.types import DeclaredLatency

# 10 ms for a row on one core, always; the reply takes 1 ms.
FIXED = "latency: {alpha_ms: 10, distribution: fixed}, batch_max: 4, cores_max: 4"
ONE = "{a: {model: m}}"


def made(pipeline: str = ONE, *, slo: str = "100ms", cores: int = 16, service: str = "") -> Blueprint:
    text = (
        f"cluster: {{nodes: [{{name: n, cores: {cores}}}]}}\n"
        f"models: {{m: {{variants: {{v: {{{FIXED}}}, w: {{{FIXED.replace('10', '40')}}}}}}}}}\n"
        f"services: {{s: {{slo: {{latency: {slo}}}, pipeline: {pipeline}{service}}}}}\n"
    )
    return blueprint(read_spec(text, "spec.yaml", Path()), cores_available=1)


def stage(
    *cores: float,
    batch: int = 1,
    variant: str = "v",
    rules: StageRules | None = None,
    hold_s_max: float = 0.0,
) -> StagePlan:
    replicas = tuple(ReplicaPlan(c, (variant,), node="n") for c in cores)
    mix = (VariantShare(variant, 1.0),)
    return StagePlan(replicas, mix, batch, hold_s_max, rules=rules or StageRules())


def verdict(known: Blueprint, rate_rps: float, **stages: StagePlan) -> Verdict:
    return assess(known, ServicePlan("s", stages), rate_rps)


def test_equal_replicas_are_one_group_and_share_rows_by_what_they_carry() -> None:
    known = made().service_times()["s", "a"]
    large, small = groups_of(stage(1.0, 2.0, 1.0, 1.0), known)
    # 2 cores: 10 / 2 = 5 ms, 200 rows/s. 3 x 1 core: 3 x 100 rows/s. In all 500.
    assert [(g.replicas, g.cores) for g in (large, small)] == [(1, 2.0), (3, 1.0)]
    assert [large.share, small.share] == pytest.approx([0.4, 0.6])


def test_variants_have_the_share_of_the_mix_and_parked_replicas_none() -> None:
    replicas = (
        ReplicaPlan(1.0, ("v", "w"), node="n"),
        ReplicaPlan(1.0, ("w",), node="n"),
        ReplicaPlan(0.0, ("v",), node="n"),
    )
    mixed = StagePlan(replicas, (VariantShare("v", 0.75), VariantShare("w", 0.25)), 2)
    groups = groups_of(mixed, made().service_times()["s", "a"])
    assert [(g.variant, g.replicas, g.cores, g.batch, g.share) for g in groups] == [
        ("v", 1, 1.0, 2, 0.75),
        ("w", 1, 1.0, 2, 0.25),
        ("v", 1, 0.0, 2, 0.0),
    ]


def test_without_load_the_bound_is_the_service_time_and_the_reply() -> None:
    assert verdict(made(), 0.0, a=stage(1.0)).latency_bound_s == pytest.approx(0.011)
    # A batch of up to 4 rows: the size with the least bound is 1.
    assert verdict(made(), 0.0, a=stage(1.0, batch=4)).latency_bound_s == pytest.approx(0.011)
    # Two sizes: the slower one counts.
    assert verdict(made(), 0.0, a=stage(2.0, 1.0)).latency_bound_s == pytest.approx(0.011)


def test_a_batch_that_is_waited_for_is_charged() -> None:
    # Up to 5 ms for company: 5 + 10 + 1.
    assert verdict(made(), 0.0, a=stage(1.0, batch=2, hold_s_max=0.005)).latency_bound_s == pytest.approx(
        0.016
    )
    # At least 2 rows for 2 x 10 ms, after a time-out of 50 ms: 50 + 20 + 1.
    rules = StageRules(forming="timeout", timeout_s=0.05)
    assert verdict(made(), 0.0, a=stage(1.0, batch=2, rules=rules)).latency_bound_s == pytest.approx(0.071)
    # Nobody comes to fill it.
    full = verdict(made(), 0.0, a=stage(1.0, batch=2, rules=StageRules(forming="full")))
    assert full.latency_bound_s == inf


def test_rules_that_look_at_deadlines_wait_for_no_longer_than_those_leave() -> None:
    # Two rows take 20 ms, the reply 1: without load the first is held for 100 - 21 = 79 ms, and is in time.
    rules = StageRules(forming="adaptive", routing="assigned")
    held = verdict(made(), 0.0, a=stage(1.0, batch=2, rules=rules))
    assert held.latency_bound_s == pytest.approx(0.1)
    assert held.objection == ""
    late = verdict(made(slo="15ms"), 0.0, a=stage(1.0, batch=2, rules=rules))
    assert late.latency_bound_s == pytest.approx(0.021)


def test_a_queue_that_grows_has_no_bound() -> None:
    # One core carries 100 rows/s; 95 is the most that is planned.
    assert verdict(made(), 94.0, a=stage(1.0)).latency_bound_s < inf
    found = verdict(made(), 96.0, a=stage(1.0))
    assert found.latency_bound_s == inf
    assert found.objection == ("stage a is given 96 rows/s, its 1 core carries 100 (planned up to 95% of it)")
    # Written out, not 1.235e+05.
    assert "is given 123456 rows/s" in verdict(made(), 123_456.0, a=stage(1.0)).objection


def test_more_load_waits_longer_and_more_replicas_shorter() -> None:
    bounds_s = [verdict(made(), rate, a=stage(1.0, 1.0)).latency_bound_s for rate in (20.0, 100.0, 180.0)]
    assert bounds_s == sorted(bounds_s)
    assert bounds_s[0] < bounds_s[-1]
    assert verdict(made(), 180.0, a=stage(1.0, 1.0, 1.0)).latency_bound_s < bounds_s[-1]


CHAIN = "{a: {model: m}, b: {model: m, after: [a]}}"
DIAMOND = (
    "{a: {model: m}, b: {model: m, after: [a]}, c: {model: m, after: [a]}, d: {model: m, after: [b, c]}}"
)


def test_stages_add_up_along_the_longest_path() -> None:
    # 10 + 10 + 1; 10 + max(40, 10) + 10 + 1.
    assert verdict(made(CHAIN), 0.0, a=stage(1.0), b=stage(1.0)).latency_bound_s == pytest.approx(0.021)
    found = verdict(made(DIAMOND), 0.0, a=stage(1.0), b=stage(1.0, variant="w"), c=stage(1.0), d=stage(1.0))
    assert found.latency_bound_s == pytest.approx(0.061)


def test_a_chain_waits_less_than_its_stages_one_by_one() -> None:
    chain = verdict(made(CHAIN), 80.0, a=stage(1.0), b=stage(1.0)).latency_bound_s
    alone = verdict(made(), 80.0, a=stage(1.0)).latency_bound_s - 0.001
    assert alone + 0.001 < chain < 2 * alone + 0.001


def test_items_are_rows_of_their_stage_and_come_in_bursts() -> None:
    known = made("{a: {model: m}, b: {model: m, after: [a], fan_out: 3}}")
    # 30 x 3 = 90 rows/s is just planned on one core, 32 x 3 = 96 is not.
    assert verdict(known, 30.0, a=stage(1.0), b=stage(1.0)).latency_bound_s < inf
    assert verdict(known, 32.0, a=stage(1.0), b=stage(1.0)).latency_bound_s == inf
    single = verdict(made(CHAIN), 90.0, a=stage(1.0, 1.0, 1.0), b=stage(1.0)).latency_bound_s
    assert verdict(known, 30.0, a=stage(1.0), b=stage(1.0)).latency_bound_s > single


def test_a_plan_that_does_not_fit_is_objected_to() -> None:
    found = verdict(made(cores=2), 10.0, a=stage(1.0, 1.0, 1.0))
    assert found == Verdict(inf, "3 cores wanted on node n, which has 2", fits=False)
    found = verdict(made(service=", cores: {max: 2}"), 10.0, a=stage(1.0, 1.0, 1.0))
    assert found.objection == "s wants 3 cores, its limit is 2"


def test_an_objective_that_is_missed_is_named() -> None:
    found = verdict(made(slo="10ms"), 0.0, a=stage(1.0))
    assert found.objection == "holds 11 ms at the 0.99 quantile, the SLO is 10 ms"


TWO_REPLICAS = "cores: 2 replicas of 1 core for a"


@pytest.mark.parametrize(
    ("known", "rate_rps", "words"),
    [
        # 10 / 2 + 1 = 6 ms on two cores.
        (made(slo="10ms"), 0.0, "2 cores would hold it: 1 replica of 2 cores for a"),
        # 10 / 4 + 1 = 3.5 ms on four.
        (made(slo="3ms"), 0.0, "no plan is faster than 3.5 ms, the nearest feasible SLO"),
        # 150 rows/s keep 1.5 cores busy: two at least.
        (
            made(cores=1),
            150.0,
            f"{TWO_REPLICAS} do not fit nodes with 1 free, the nearest feasible cluster has 2 cores",
        ),
        (
            made(service=", cores: {max: 1}"),
            150.0,
            f"{TWO_REPLICAS} do not fit nodes with 1 free, the nearest feasible cluster has 2 cores",
        ),
    ],
)
def test_what_would_do(known: Blueprint, rate_rps: float, words: str) -> None:
    assert alternative(known, ServicePlan("s", {"a": stage(1.0)}), rate_rps) == words


@pytest.mark.parametrize("rate_rps", [50.0, 100.0, 200.0, 300.0])
@pytest.mark.parametrize("slo", ["30ms", "40ms", "60ms"])
def test_what_would_do_on_a_chain_holds_by_the_same_verdict(slo: str, rate_rps: float) -> None:
    chain = "{a: {model: m}, b: {model: m, after: [a]}, c: {model: m, after: [b]}}"
    known = made(chain, slo=slo, cores=64)
    words = alternative(known, ServicePlan("s", {name: stage(1.0) for name in "abc"}), rate_rps)
    sizes = re.findall(r"(\d+) replicas? of (\d+) cores? for (\w)", words)
    # The batch is not said; one of the four sizes holds.
    offered = [
        ServicePlan("s", {name: stage(*[float(c)] * int(n), batch=b) for n, c, name in sizes})
        for b in range(1, 5)
    ]
    assert any(not assess(known, plan, rate_rps).objection for plan in offered), words


def reach(slo: str, rate_rps: float, *cores: float) -> tuple[str, float] | None:
    found = within_reach(made(slo=slo), ServicePlan("s", {"a": stage(*cores)}), rate_rps)
    return None if found is None else (sizes_text(found), found.latency_s)


def test_a_reaction_makes_of_the_replicas_what_they_can_be() -> None:
    # 150 rows/s are too many for 1 core (100), and keep 2 cores busy for three quarters.
    found = reach("200ms", 150.0, 1.0)
    assert found is not None
    assert found[0] == "1 replica of 2 cores for a"
    # It comes a window of 100 ms late: 100 + 5 + 1 ms and what rows wait.
    assert 0.106 < found[1] < 0.2
    # 700 rows/s need 7 / 0.95 cores at least: with a parked replica, two of four.
    parked = reach("200ms", 700.0, 1.0, 0.0)
    assert parked is not None
    assert parked[0] == "2 replicas of 4 cores for a"


def test_what_a_reaction_cannot_reach() -> None:
    # The largest replica has 4 cores and carries 400 rows/s.
    assert reach("200ms", 500.0, 1.0) is None
    # It comes after the deadline.
    assert reach("101ms", 10.0, 1.0) is None


def test_no_replica_is_offered_that_is_larger_than_any_node() -> None:
    text = (
        "cluster: {nodes: [{name: a, cores: 4}, {name: b, cores: 4}, {name: c, cores: 4}]}\n"
        "models: {m: {variants: {v: {latency: {alpha_ms: 400, distribution: fixed}, cores_max: 8}}}}\n"
        "services: {s: {slo: {latency: 90ms}, cores: {max: 9}, pipeline: {a: {model: m}}}}\n"
    )
    known = blueprint(read_spec(text, "spec.yaml", Path()), cores_available=1)
    # A row takes 400 / 4 = 100 ms on all cores of a node; the limit of 9 cores is no node of 9.
    instead = alternative(known, ServicePlan("s", {"a": stage(1.0)}), 1.0)
    assert instead.startswith("no plan is faster than 10")


def fitting(rate_rps: float) -> list[tuple[str, int, float]]:
    """Two replicas with v (10 ms a row) and w (5 ms) resident, of which the data plane picks."""
    replicas = (ReplicaPlan(1.0, ("v", "w")),) * 2
    mix = (VariantShare("v", 1.0), VariantShare("w", 0.0))
    plan = StagePlan(replicas, mix, rules=StageRules(choice="fit"))
    variants = {"v": (10.0, 0.0, 0.0, 0.0), "w": (5.0, 0.0, 0.0, 0.0)}
    declared = {name: DeclaredLatency(coefficients_ms=known) for name, known in variants.items()}
    times = service_times(StageTimes("s", "a", declared=declared))
    return [(g.variant, g.replicas, round(g.share, 6)) for g in groups_of(plan, times, rate_rps)]


def test_a_choice_that_fits_lowers_accuracy_by_the_rate() -> None:
    # v carries 200 rows/s, of which 90 % are planned; w 400.
    assert fitting(100.0) == [("v", 2, 1.0)]
    # x / 200 + (1 - x) / 400 = 0.9 / 200: x = 0.8; and 0.9 / 300: x = 0.2. The replicas count once.
    assert fitting(200.0) == [("v", 2, 0.8), ("w", 0, 0.2)]
    assert fitting(300.0) == [("w", 2, 0.8), ("v", 0, 0.2)]
    # Beyond what even w carries there is w.
    assert fitting(500.0) == [("w", 2, 1.0)]
