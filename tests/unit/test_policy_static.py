import pytest

from steelyard.core.errors import SpecError
from steelyard.core.plan import ReplicaPlan, VariantShare
from steelyard.core.snapshot import ClusterSnapshot, NodeView
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import describe, make_policy

READ = Stage(
    "read", (Variant("small", batch_rows_max=8, cores_max=3), Variant("tiny", batch_rows_max=2, cores_max=3))
)
SNAPSHOT = ClusterSnapshot(0.0, 0.1, (NodeView("n0", 4.0, 4.0),), ())


def context(options: dict[str, object] | None = None, *names: str) -> PolicyContext:
    services = {name: Service(name, 0.1, (READ,)) for name in names or ("ocr",)}
    return PolicyContext(services, {}, options)


def test_without_options_one_replica_of_one_core_of_the_first_variant() -> None:
    decision = make_policy("static", context()).decide(SNAPSHOT)
    assert decision.plan is not None
    stage = decision.plan.services["ocr"].stages["read"]
    assert stage.replicas == (ReplicaPlan(1.0, ("small",), "n0"),)
    assert stage.mix == (VariantShare("small", 1.0),)
    assert stage.batch_rows_max == 8
    assert decision.next_at_s > SNAPSHOT.now_s


def test_common_options_apply_to_every_stage() -> None:
    made = make_policy("static", context({"replicas": 2, "cores": 0.5, "batch": 4}, "a", "b"))
    plan = made.decide(SNAPSHOT).plan
    assert plan is not None
    for name in ("a", "b"):
        stage = plan.services[name].stages["read"]
        assert [r.cores for r in stage.replicas] == [0.5, 0.5]
        assert stage.batch_rows_max == 4


@pytest.mark.parametrize("key", ["ocr.read", "read", "ocr"])
def test_groups_of_a_stage_share_by_their_cores(key: str) -> None:
    groups = [{"variant": "small", "replicas": 1, "cores": 3}, {"variant": "tiny", "replicas": 1}]
    plan = make_policy("static", context({"stages": {key: groups}})).decide(SNAPSHOT).plan
    assert plan is not None
    stage = plan.services["ocr"].stages["read"]
    # 3 of 4 cores are of `small`, so it is to answer three quarters of the rows
    assert stage.mix == (VariantShare("small", 0.75), VariantShare("tiny", 0.25))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replica": 2}, "unknown option 'replica'; it has: replicas"),
        ({"replicas": 1.5}, "option replicas: want a whole number, got 1.5"),
        ({"cores": 0}, "option cores: want 0.01 to"),
        ({"cores": float("nan")}, "option cores: want a number, got nan"),
        ({"cores": "two"}, "option cores: want a number, got 'two'"),
        ({"stages": {"raed": [{}]}}, "no stage 'raed'; there are: ocr.read"),
        ({"stages": {"read": []}}, "want a list of replicas"),
        ({"stages": 3}, "want stage names with their replicas"),
        ({"cores": 4}, "stage read: want at most 3 cores for a replica of variant small, got 4"),
        ({"variant": "smal"}, "no variant 'smal'; there are: small, tiny"),
    ],
)
def test_wrong_options_are_one_clear_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as error:
        make_policy("static", context(options))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_stage_name_that_two_services_have_must_say_which() -> None:
    with pytest.raises(SpecError, match=r"no stage 'read'; there are: .*a\.read"):
        make_policy("static", context({"stages": {"read": [{}]}}, "a", "b"))


def test_an_unknown_policy_lists_the_known_ones_nearest_first() -> None:
    with pytest.raises(SpecError, match=r"unknown policy 'statik'; there are: static"):
        make_policy("statik", context())


def test_listing_has_a_line_for_each_policy() -> None:
    assert "static" in dict(describe())
    assert all(summary for _, summary in describe())


def test_each_variant_has_its_own_batch() -> None:
    groups = [{"variant": "small", "batch": 6}, {"variant": "tiny"}]
    plan = make_policy("static", context({"stages": {"read": groups}})).decide(SNAPSHOT).plan
    assert plan is not None
    stage = plan.services["ocr"].stages["read"]
    assert (stage.batch_rows_max, stage.rows_max) == (6, {"tiny": 2})


def test_the_first_variant_for_cpus_is_the_default_and_others_are_put_on_their_devices() -> None:
    variants = (Variant("big", device="gpu"), Variant("small"))
    services = {"ocr": Service("ocr", 0.1, (Stage("read", variants),))}
    for options, replica in (
        ({}, ReplicaPlan(1.0, ("small",), "n0")),
        ({"variant": "big"}, ReplicaPlan(1.0, ("big",), "n0", "gpu")),
    ):
        plan = make_policy("static", PolicyContext(services, {}, options)).decide(SNAPSHOT).plan
        assert plan is not None
        assert plan.services["ocr"].stages["read"].replicas == (replica,)


def test_where_there_is_no_place_it_says_so() -> None:
    nodes = (NodeView("a", 4.0, 4.0), NodeView("b", 4.0, 4.0))
    decision = make_policy("static", context({"replicas": 3, "cores": 3})).decide(
        ClusterSnapshot(0.0, 0.1, nodes, ())
    )
    assert decision.plan is None
    assert decision.reason == "no place for read: 3 of 3 cores: a has 4, b has 4"
