"""Several nodes under policies that count in whole cores: what is cut, and where replicas go."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, Plan, ReplicaPlan, ServicePlan, StagePlan, VariantShare
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.plan.themis import Choice
from steelyard.policies.fitting import fitted_choices, placed, within_memory
from steelyard.policies.per_service import split_nodes
from steelyard.policies.registry import make_policy
from steelyard.policies.uniform import Site, site_of
from steelyard.testing.policy_contract import contract_context


def sizes(choices: list[Choice]) -> list[tuple[int, int]]:
    return [(choice.replicas, choice.cores) for choice in choices]


def test_what_fits_is_left_as_it_is() -> None:
    # 3 + 3 on the first, 3 on the second node, and four single cores around them: 4 + 3 + 3 x 2 = 13 of 14.
    choices = [Choice(3, 3, 1, 0), Choice(4, 1, 1, 0)]
    assert fitted_choices(choices, [1, 1], [7, 7], replicas_first=True) == choices


def test_cores_that_lie_apart_are_no_room_for_a_large_replica() -> None:
    # 2 x 3 cores are 6 of 8, but two nodes of 4 have room for one of 3 each, and three nodes of 2 for none.
    choices = [Choice(2, 3, 1, 0)]
    assert sizes(fitted_choices(choices, [2], [4, 4], replicas_first=True)) == [(2, 3)]
    assert sizes(fitted_choices(choices, [2], [2, 2, 2], replicas_first=True)) == [(2, 2)]
    # 3 x 3 = 9 of 10 cores, one of which lies beside each of two: the third replica goes.
    assert sizes(fitted_choices([Choice(3, 3, 1, 0)], [1], [5, 5], replicas_first=True)) == [(2, 3)]


def test_a_replica_stays_where_its_stage_has_one() -> None:
    # By first fit alone all three would go to a.
    assert placed([[1.0, 1.0, 1.0]], [["b", "b"]], {"a": 4.0, "b": 4.0}) == [["b", "b", "a"]]


def test_replicas_move_only_where_staying_leaves_one_without_a_place() -> None:
    # Single cores stand on each of two nodes of 3; one of 3 cores has a place only if one of them moves.
    found = placed([[3.0], [1.0, 1.0]], [[], ["a", "b"]], {"a": 3.0, "b": 3.0})
    assert found == [["a"], ["b", "b"]]


def test_nothing_is_placed_beyond_the_nodes() -> None:
    assert placed([[2.0, 2.0]], [[]], {"a": 2.0, "b": 1.0}) is None


def test_parked_replicas_find_a_place_on_full_nodes() -> None:
    assert placed([[2.0, 1.0, 0.0]], [["a", "b", "b"]], {"a": 2.0, "b": 1.0}) == [["a", "b", "b"]]


@given(
    wanted=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=3),
    nodes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    first=st.booleans(),
)
def test_what_was_cut_has_a_place(wanted: list[tuple[int, int]], nodes: list[int], first: bool) -> None:
    if sum(nodes) < len(wanted):
        return
    choices = [Choice(replicas, cores, 1, 0) for replicas, cores in wanted]
    fitted = fitted_choices(choices, [1] * len(choices), nodes, replicas_first=first)
    cores = {str(index): float(each) for index, each in enumerate(nodes)}
    at = placed([[float(c.cores)] * c.replicas for c in fitted], [()] * len(fitted), cores)
    assert at is not None
    taken: Counter[str] = Counter()
    for choice, names in zip(fitted, at, strict=True):
        assert len(names) == choice.replicas >= 1
        taken.update({name: names.count(name) * choice.cores for name in set(names)})
    assert all(taken[name] <= cores[name] for name in taken)


@pytest.mark.parametrize(
    ("nodes", "parts"),
    [
        # 9 cores at 2:1 are 6 and 3: the heavier has the first node and half of the second.
        ([4, 4, 1], {"a": [4, 2, 0], "b": [0, 2, 1]}),
        ([12], {"a": [8], "b": [4]}),
        # One core a node: the lighter one is not left out, as it would be if each node were split.
        ([1, 1, 1], {"a": [1, 1, 0], "b": [0, 0, 1]}),
    ],
)
def test_services_share_all_nodes_and_not_each(nodes: list[int], parts: dict[str, list[int]]) -> None:
    assert split_nodes(nodes, {"a": 2.0, "b": 1.0}) == parts


def snapshot(nodes: dict[str, float], rows: int = 0, desired: ServicePlan | None = None) -> ClusterSnapshot:
    views = tuple(NodeView(name, cores, cores) for name, cores in nodes.items())
    view = ServiceView("a", (), (rows,) * 30, desired, ())
    return ClusterSnapshot(30.0, 0.1, views, (view,))


def test_a_replica_may_be_as_large_as_the_largest_node() -> None:
    service = contract_context(1, stages=2).services["a"]
    site = site_of(service, snapshot({"a": 6.0, "b": 3.9}), 1.0)
    assert isinstance(site, Site)
    assert (site.nodes, site.cores, site.size_max) == ({"a": 6, "b": 3}, 9, 6)
    alone = site_of(service, snapshot({"a": 6.0}), 1.0)
    assert isinstance(alone, Site)
    assert alone.size_max == 5  # one core is left for the other stage


def test_fewer_cores_than_stages_is_said() -> None:
    service = contract_context(1, stages=2).services["a"]
    assert site_of(service, snapshot({"a": 0.5, "b": 1.0}), 1.0) == Decision(
        None, 31.0, "a, b have 1 cores for 2 stages"
    )


@pytest.mark.parametrize("policy", ["fa2", "themis", "themis2025", "inferline", "hpa", "ipa"])
def test_policies_of_one_machine_take_what_they_need_of_all_nodes(policy: str) -> None:
    # 200 rows a second at 20 ms a row on one core are 4 busy cores: more than any node has.
    context = contract_context(1)
    plan = make_policy(policy, context).decide(snapshot({"x": 3.0, "y": 3.0, "z": 3.0}, rows=200)).plan
    assert plan is not None
    replicas = plan.services["a"].stages["read"].replicas
    assert len({replica.node for replica in replicas}) > 1
    on = dict.fromkeys("xyz", 0.0)
    for replica in replicas:
        on[replica.node] += replica.cores
    assert 3 < sum(on.values()) <= 9
    assert max(on.values()) <= 3


def test_a_mix_of_variants_is_one_that_has_a_place() -> None:
    # Nodes of 2 cores: no variant can have more than 2 in one replica, whatever the total.
    context = contract_context(1)
    plan = make_policy("infadapter", context).decide(snapshot({"x": 2.0, "y": 2.0}, rows=10)).plan
    assert plan is not None
    stage = plan.services["a"].stages["read"]
    assert sorted(replica.node for replica in stage.replicas) == ["x", "y"]
    assert all(replica.cores <= 2 for replica in stage.replicas)


def test_a_fixed_allocation_spreads_where_one_node_is_too_small() -> None:
    context = contract_context(1)
    context.options.update(replicas=3, cores=2)
    policy = make_policy("static", context)
    plan = policy.decide(snapshot({"x": 4.0, "y": 3.0})).plan
    assert plan is not None
    assert [r.node for r in plan.services["a"].stages["read"].replicas] == ["x", "x", "y"]
    kept = ServicePlan(
        "a",
        {"read": StagePlan((ReplicaPlan(2.0, ("small",), "y"),), (VariantShare("small", 1.0),))},
    )
    later = policy.decide(snapshot({"x": 4.0, "y": 3.0}, desired=kept)).plan
    assert isinstance(later, Plan)
    assert [r.node for r in later.services["a"].stages["read"].replicas] == ["y", "x", "x"]


def test_replicas_go_for_which_there_is_no_memory() -> None:
    # 4 x 300 + 2 x 100 = 1,400 bytes of 1,000: one of the larger goes, 1,100, and another, 800.
    choices = [Choice(4, 2, 1, 0), Choice(2, 1, 1, 0)]
    found = fitted_choices(choices, [4, 2], [64], replicas_first=False, needs=[300, 100], memory=[1000])
    assert sizes(found) == [(2, 2), (2, 1)]
    # Nobody knows how much the second node has.
    assert within_memory([4, 2], [300, 100], [1000, 0]) == [4, 2]
    # 500 hold one of 300 and not two, on either node.
    assert within_memory([4], [300], [500, 500]) == [2]
    # Not even one of each: that is for who carries it out to refuse.
    assert within_memory([3, 1], [300, 300], [500]) == [1, 1]


def test_a_replica_is_placed_where_there_is_memory_for_it() -> None:
    nodes = {"a": 8.0, "b": 2.0}
    assert placed([[1.0, 1.0]], [[]], nodes, [300], {"a": 500, "b": 0}) == [["a", "b"]]
    assert placed([[1.0, 1.0]], [[]], nodes, [300], {"a": 500, "b": 200}) is None


@pytest.mark.parametrize(
    "policy", ["hpa", "kpa", "vpa", "rayserve", "themis", "themis2025", "fa2", "inferline"]
)
def test_no_published_policy_plans_beyond_the_memory(policy: str) -> None:
    context = contract_context(1)
    (service,) = context.services.values()
    stages = tuple(
        replace(stage, variants=tuple(replace(v, memory_bytes=100) for v in stage.variants))
        for stage in service.stages
    )
    context.services[service.name] = replace(service, stages=stages)
    view = ServiceView(service.name, (), (400,) * 30, None, ())
    room = 100 * (len(stages) + 2)
    node = NodeView("n", 64.0, 64.0, memory_bytes=room)
    decision = make_policy(policy, context).decide(ClusterSnapshot(30.0, 0.1, (node,), (view,)))
    assert decision.plan is not None
    planned = decision.plan.services[service.name].stages.values()
    assert len(stages) <= sum(len(stage.replicas) for stage in planned) <= room // 100


def test_who_plans_for_cpus_alone_takes_the_first_variant_for_them_or_refuses() -> None:
    context = contract_context(1)
    (service,) = context.services.values()
    (first, *_) = service.stages
    gpu = replace(first.variants[0], name="on-gpu", device="gpu")
    for variants, ends in (((gpu, *first.variants), "a plan"), ((gpu,), "a refusal")):
        stages = (replace(first, variants=variants), *service.stages[1:])
        context.services[service.name] = replace(service, stages=stages)
        if ends == "a refusal":
            with pytest.raises(SpecError, match=r"policy hpa: it plans for CPUs alone, and all variants of"):
                make_policy("hpa", context)
            continue
        view = ServiceView(service.name, (), (4,) * 30, None, ())
        decision = make_policy("hpa", context).decide(
            ClusterSnapshot(30.0, 0.1, (NodeView("n", 64.0, 64.0),), (view,))
        )
        assert decision.plan is not None
        planned = decision.plan.services[service.name].stages[first.name]
        assert {replica.variants for replica in planned.replicas} == {(first.variants[0].name,)}
