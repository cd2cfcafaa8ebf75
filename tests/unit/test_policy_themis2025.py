"""The video pipeline of the revision: (alpha, beta, gamma, zeta) in ms, SLO 300 ms, derived by hand.

With the margin of l(1, 1) / 10, and all on one core:
YOLOv10n l(1) = 49.96 + 5.00 = 54.96 ms, 18.20 rows/s; l(2) = 97.64 + 5.00 = 102.64 ms, 19.49 rows/s.
ResNet18 l(1) = 38.00 + 3.80 = 41.80 ms, 23.92 rows/s; l(2) = 68.73 + 3.80 = 72.53 ms, 27.57 rows/s.
"""

import pytest

from steelyard.core.errors import SpecError
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.times import CoefficientTimes

YOLO = Variant("yolov10n", batch_rows_max=4, cores_max=4)
RESNET = Variant("resnet18", batch_rows_max=4, cores_max=4)
VIDEO = Service("video", 0.3, (Stage("detect", (YOLO,)), Stage("classify", (RESNET,))))
TIMES = {
    ("video", "detect"): CoefficientTimes(39.9, 7.78, 1.83, 0.45),
    ("video", "classify"): CoefficientTimes(28.1, 2.63, 6.81, 0.46),
}

Shape = tuple[int, float, int]


def context(**options: object) -> PolicyContext:
    return PolicyContext({"video": VIDEO}, TIMES, options)


def plan(detect: Shape, classify: Shape) -> ServicePlan:
    def stage(variant: str, count: int, cores: float, rows: int) -> StagePlan:
        return StagePlan((ReplicaPlan(cores, (variant,)),) * count, (VariantShare(variant, 1.0),), rows)

    return ServicePlan(
        "video", {"detect": stage("yolov10n", *detect), "classify": stage("resnet18", *classify)}
    )


def snapshot(
    now_s: float, seconds: tuple[int, ...], desired: ServicePlan | None, *, cores: float = 64.0
) -> ClusterSnapshot:
    view = ServiceView("video", (), seconds, desired, ())
    return ClusterSnapshot(now_s, 0.1, (NodeView("local", cores, cores),), (view,))


def shape(decided: ServicePlan) -> list[Shape]:
    stages = (decided.stages["detect"], decided.stages["classify"])
    return [(len(s.replicas), s.replicas[0].cores, s.batch_rows_max) for s in stages]


def test_it_begins_with_one_core_replicas_for_the_largest_rate_seen() -> None:
    # ceil(50 / 18.20) = 3 and ceil(50 / 23.92) = 3; without head-room, and for the largest of the counts
    decision = make_policy("themis2025", context()).decide(snapshot(30.0, (20, 50, 30), None))
    assert decision.plan is not None
    assert shape(decision.plan.services["video"]) == [(3, 1.0, 1), (3, 1.0, 1)]
    assert decision.next_at_s == 30.5


def test_without_any_history_it_begins_with_one_core_a_stage() -> None:
    decision = make_policy("themis2025", context()).decide(snapshot(0.0, (), None))
    assert decision.plan is not None
    assert shape(decision.plan.services["video"]) == [(1, 1.0, 1), (1, 1.0, 1)]


def test_horizontal_at_once_while_the_rate_is_below_the_throughput() -> None:
    # The largest of the last five counts is 50, with head-room 57. YOLOv10n: single rows need
    # ceil(57 / 18.20) = 4, batches of 2 ceil(57 / 19.49) = 3 and take 102.64 + ln(100) x 20 = 194.7 ms.
    # ResNet18: ceil(57 / 23.92) = 3. 195 + 42 ms < 300. The present throughput is 4 x 18.20 = 72.8.
    present = plan((4, 1.0, 1), (4, 1.0, 1))
    decision = make_policy("themis2025", context()).decide(
        snapshot(40.0, (70, 50, 40, 40, 40, 40), plan((4, 1.0, 1), (3, 1.0, 1)))
    )
    assert decision.plan is not None
    assert shape(decision.plan.services["video"]) == [(3, 1.0, 2), (3, 1.0, 1)]
    # Where both stages scale in, the same answer must wait.
    assert make_policy("themis2025", context()).decide(snapshot(40.0, (50,), present)).plan is None


def test_a_rate_beyond_the_throughput_is_taken_by_cores() -> None:
    # 80, with head-room 89: each of three must give 29.7. YOLOv10n on 2 cores: single rows take
    # 29.10 + 5.00 = 34.1 ms, 29.3/s: not enough; batches of 2 take 56.83 + 5.00 = 61.8 ms, 32.4/s.
    # ResNet18 on 1 core: batches of 4 give 29.9/s, but take 134 + 3 x 57.6 = 307 ms; 2 cores: 24.3 ms.
    present = plan((3, 1.0, 2), (3, 1.0, 1))
    decision = make_policy("themis2025", context()).decide(snapshot(40.0, (50, 80), present))
    assert decision.plan is not None
    assert shape(decision.plan.services["video"]) == [(3, 2.0, 2), (3, 2.0, 1)]
    assert "the rate has reached the throughput" in decision.reason


def test_a_count_of_the_last_ten_seconds_beyond_the_throughput_predicts_an_excess() -> None:
    # Throughput 3 x 19.49 = 58.5; the last five counts are at most 50, but one of the last ten is 60.
    present = plan((3, 1.0, 2), (3, 1.0, 1))
    seconds = (60, 50, 50, 50, 50, 50)
    decision = make_policy("themis2025", context()).decide(snapshot(40.0, seconds, present))
    assert "an excess is predicted" in decision.reason
    decision = make_policy("themis2025", context()).decide(snapshot(40.0, (60, *[50] * 10), present))
    assert "horizontal" in decision.reason


def test_cores_never_shrink_in_the_vertical_mode() -> None:
    # 3 replicas of 3 cores carry far more than 80, the single ResNet18 carries 23.9.
    present = plan((3, 3.0, 1), (1, 1.0, 1))
    decision = make_policy("themis2025", context()).decide(snapshot(40.0, (80,), present))
    assert decision.plan is not None
    assert shape(decision.plan.services["video"])[0][:2] == (3, 3.0)


def test_going_back_to_one_core_takes_one_replica_more_a_stage() -> None:
    # 2 cores: throughput 3 x 32.4 = 97 > 80. H(80), 89 with head-room: ceil(89 / 18.20) = 5 and
    # ceil(89 / 23.92) = 4 (batches of 2 save none of either), and one more of each.
    present = plan((3, 2.0, 2), (3, 2.0, 1))
    decision = make_policy("themis2025", context()).decide(snapshot(40.5, (80,), present))
    assert decision.plan is not None
    assert shape(decision.plan.services["video"]) == [(6, 1.0, 1), (5, 1.0, 1)]


def test_a_stage_at_its_largest_size_opens_the_gate() -> None:
    # One YOLOv10n on 4 cores carries far less than 200, but cores are at their end. 214 with head-room,
    # q(2) = ln(100) x 5 = 23 ms: batches of 2 give ceil(214 / 19.49) = 11 and ceil(214 / 27.57) = 8 in
    # 126 + 96 ms; single rows 12 and 9. One more each, because cores shrink.
    present = plan((1, 4.0, 1), (1, 1.0, 1))
    decision = make_policy("themis2025", context()).decide(snapshot(40.0, (200,), present))
    assert decision.plan is not None
    assert shape(decision.plan.services["video"]) == [(12, 1.0, 2), (9, 1.0, 2)]


def test_scaling_in_on_every_stage_waits_ten_seconds_in_a_row() -> None:
    # 30, with head-room 35: ceil(35 / 18.20) = 2 and ceil(35 / 23.92) = 2
    policy = make_policy("themis2025", context())
    present = plan((6, 1.0, 1), (5, 1.0, 1))
    for tick in range(20):
        decision = policy.decide(snapshot(40.0 + tick / 2, (30,), present))
        assert decision.plan is None
        assert f"{tick / 2:g} of 10 s" in decision.reason
    decision = policy.decide(snapshot(50.0, (30,), present))
    assert decision.plan is not None
    assert shape(decision.plan.services["video"]) == [(2, 1.0, 1), (2, 1.0, 1)]


def test_a_tick_that_does_not_want_it_starts_the_ten_seconds_again() -> None:
    policy = make_policy("themis2025", context())
    present = plan((6, 1.0, 1), (5, 1.0, 1))
    assert "0 of 10 s" in policy.decide(snapshot(40.0, (30,), present)).reason
    assert "vertical" in policy.decide(snapshot(45.0, (200,), present)).reason
    assert "0 of 10 s" in policy.decide(snapshot(50.0, (30,), present)).reason


def test_the_limits_of_the_release_are_options() -> None:
    # 300 rows/s are more than one replica can carry: 4 cores as released (and replicas besides), 8 if told.
    wide = Variant("yolov10n", batch_rows_max=8, cores_max=8)
    service = Service("video", 0.3, (Stage("detect", (wide,)), Stage("classify", (RESNET,))))
    present = plan((1, 1.0, 1), (1, 1.0, 1))
    for options, cores in (({}, 4.0), ({"cores_max": 8}, 8.0)):
        policy = make_policy("themis2025", PolicyContext({"video": service}, TIMES, options))
        decision = policy.decide(snapshot(40.0, (300,), present))
        assert decision.plan is not None
        assert shape(decision.plan.services["video"])[0][1] == cores


def test_what_does_not_fit_the_node_is_left_out() -> None:
    decision = make_policy("themis2025", context()).decide(snapshot(40.0, (200,), None, cores=6.0))
    assert decision.plan is not None
    assert sum(n * c for n, c, _ in shape(decision.plan.services["video"])) == 6.0


def test_published_brings_the_data_plane_of_the_revision_and_ours_the_shared_one() -> None:
    first = snapshot(10.0, (10,), None)
    published = make_policy("themis2025", context()).decide(first).plan
    ours = make_policy("themis2025+ours", context()).decide(first).plan
    assert published is not None
    assert ours is not None
    rules = published.services["video"].stages["detect"].rules
    assert (rules.order, rules.forming, rules.timeout_s, rules.drop) == ("fifo", "timeout", 0.05, "none")
    assert (rules.admission, rules.routing) == ("open", "round_robin")
    assert ours.services["video"].stages["detect"].rules == StageRules()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tick": 3}, "unknown option 'tick'"),
        ({"queue_model": "gama"}, "no 'gama'; there are: gamma"),
        ({"memory_gb": {"detct": 2}}, "no stage 'detct'; there are: detect"),
        ({"memory_gb": {"video.detect": -1}}, "option video.detect: want 0"),
        ({"memory_gb": 3}, "want stages with GB"),
    ],
)
def test_wrong_options_are_one_clear_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_policy("themis2025", context(**options))


def test_memory_by_stage_is_read_with_or_without_the_service() -> None:
    # what another service's stages have is none of this one's business
    options = {"memory_gb": {"video.detect": 2, "classify": 1.5, "other.stage": 3}}
    assert make_policy("themis2025", context(**options)).decide(snapshot(0.0, (9,), None)).plan is not None
