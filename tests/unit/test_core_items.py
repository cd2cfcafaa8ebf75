"""Stages that take items of another: how many rows they have, what they are given, and what is made again."""

from statistics import fmean

import pytest

from steelyard.core.commands import (
    Command,
    Complete,
    Fail,
    ItemRows,
    ReleaseOutputs,
    ReportWindow,
    RunBatch,
    Shed,
)
from steelyard.core.errors import SpecError
from steelyard.core.events import BatchCompleted, ReplicaGone, WindowClosed
from steelyard.core.item_mean import ItemMean
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.snapshot import ItemCell
from steelyard.core.types import Input, Service, Stage, Tensor, TensorRef, Variant
from steelyard.testing.bench import ServiceBench, batches, ends, sequences
from steelyard.testing.builders import VARIANT, TableTimes, make_pipeline, make_plan

OCR = {"crop": (), "read": ("crop",), "page": ("crop", "read")}
"""`crop` (replica 1) makes lines, `read` (2) takes them, `page` (3) joins them."""
TIMES = TableTimes({1: 0.010, 8: 0.024})  # one row in 10 ms on a core, each further one 2 ms
PATIENT = StageRules(drop="none", admission="open")
INPUTS = {
    "read": [Input("x", "crop", "y")],
    "page": [Input("boxes", "crop", "y"), Input("texts", "read", "y")],
}
REF = TensorRef("a", 0, 4, 1)


def ocr_bench(
    *,
    answers: tuple[str, ...] = (),
    batch_rows_max: int = 8,
    queue_rows_max: int = 4096,
    reads_tensors: bool = False,
    variants: tuple[str, ...] = (VARIANT,),
) -> ServiceBench:
    """A bench with one replica of one core a stage; requests have all the time they want."""
    service = make_pipeline(
        OCR,
        items_of={"read": "crop"},
        inputs=INPUTS if reads_tensors else None,
        answers=answers,
        slo_s=10.0,
        queue_rows_max=queue_rows_max,
        variants=variants,
    )
    bench = ServiceBench(service, TIMES, make_plan(service, rules=PATIENT, batch_rows_max=batch_rows_max))
    for replica_id, name in enumerate(OCR, start=1):
        bench.ready(replica_id, stage=name, variants=variants)
    return bench


def counted_of(mean: float) -> ItemMean:
    """After many rows of that mean."""
    counted = ItemMean(mean)
    for request in range(512):
        counted.observe((round(mean),), request)
    return counted


def one(commands: list[RunBatch]) -> RunBatch:
    (batch,) = commands
    return batch


def at(stage: str, commands: list[Command]) -> RunBatch:
    """The only batch that begins at a stage."""
    return one([batch for batch in batches(commands) if batch.stage == stage])


def only_end(bench: ServiceBench, replica_id: int) -> Complete:
    (end,) = ends(bench.complete(replica_id)).values()
    assert isinstance(end, Complete)
    return end


class TestCounts:
    def test_a_stage_has_as_many_rows_as_its_maker_counts(self) -> None:
        bench = ocr_bench()
        bench.arrive(rows=2)
        assert one(batches(bench.complete(1, items={"read": [2, 3]}))).rows == 5
        assert one(batches(bench.complete(2))).rows == 2  # the join has the request's rows again
        assert isinstance(ends(bench.complete(3))[1], Complete)

    def test_a_request_of_several_batches_is_counted_over_all(self) -> None:
        bench = ocr_bench(batch_rows_max=2)
        bench.arrive(rows=3)
        assert not [
            batch for batch in batches(bench.complete(1, items={"read": [1, 2]})) if batch.stage == "read"
        ]
        # 1 + 2 + 1 = 4 lines, two at a time.
        assert one(batches(bench.complete(1, items={"read": [1]}))).rows == 2
        assert one(batches(bench.complete(2))).rows == 2

    def test_items_of_all_requests_batch_together(self) -> None:
        bench = ocr_bench()
        for _ in range(3):
            bench.arrive()
        bench.complete(1, items={"read": [1]})  # the first alone; the two others at crop meanwhile
        bench.complete(1, items={"read": [2, 3]})
        batch = at("read", bench.complete(2))
        assert sequences(batch) == [2, 3]
        assert [part.rows for part in batch.slices] == [2, 3]

    def test_without_items_the_stage_is_passed_by(self) -> None:
        bench = ocr_bench()
        bench.arrive()
        batch = one(batches(bench.complete(1, items={"read": [0]})))
        assert batch.stage == "page"
        assert batch.slices[0].sources["read"] == ()
        end = only_end(bench, 3)
        # 10 ms at crop and at page; read is not among the variants, since nobody answered there.
        assert end.service_s == pytest.approx(0.020)
        assert end.variants == {"crop": VARIANT, "page": VARIANT}

    def test_a_request_without_any_items_is_answered_with_none(self) -> None:
        service = make_pipeline({"crop": (), "read": ("crop",)}, items_of={"read": "crop"})
        bench = ServiceBench(service, TIMES)
        bench.ready(1, stage="crop")
        bench.arrive()
        commands = bench.complete(1, items={"read": [0]})
        end = ends(commands)[1]
        assert isinstance(end, Complete)
        assert end.answers == {"read": ()}
        assert end.variant == ""
        assert ReleaseOutputs(1, 1) in commands

    def test_two_stages_may_take_different_items_of_one(self) -> None:
        service = make_pipeline(
            {"crop": (), "read": ("crop",), "turn": ("crop",)}, items_of={"read": "crop", "turn": "crop"}
        )
        bench = ServiceBench(service, TIMES)
        for replica_id, name in enumerate(("crop", "read", "turn"), start=1):
            bench.ready(replica_id, stage=name)
        bench.arrive()
        begun = batches(bench.complete(1, items={"read": [3], "turn": [1]}))
        assert [(batch.stage, batch.rows) for batch in begun] == [("read", 3), ("turn", 1)]

    def test_more_items_than_a_queue_holds_are_shed(self) -> None:
        bench = ocr_bench(queue_rows_max=10)
        bench.arrive()
        end = ends(bench.complete(1, items={"read": [11]}))[1]
        assert isinstance(end, Shed)
        assert end.reason == "queue_full"

    def test_what_waits_already_takes_room(self) -> None:
        bench = ocr_bench(queue_rows_max=10)
        bench.arrive()
        bench.arrive()
        bench.complete(1, items={"read": [10]})  # 8 of them run, 2 wait
        assert isinstance(ends(bench.complete(1, items={"read": [9]}))[2], Shed)

    def test_an_item_stage_is_planned_by_its_fan_out_until_it_is_counted(self) -> None:
        service = make_pipeline(OCR, items_of={"read": "crop"}, fan_out={"read": 2.5})
        bench = ServiceBench(service, TIMES)
        for replica_id, name in enumerate(OCR, start=1):
            bench.ready(replica_id, stage=name)
        # Behind crop: read with ceil(2.5) = 3 rows in 10 + 2 * 2 = 14 ms, then page in 10 ms.
        assert bench.machine.stages["crop"].remaining.after_s(0) == pytest.approx(0.024)


class TestCountedLately:
    def test_counts_outweigh_the_plan_soon_and_keep_up_with_what_changes(self) -> None:
        counted = ItemMean(1.0)
        counted.observe((7,) * 8, 0)
        assert counted.mean == pytest.approx(4.0)  # 8 rows of 1 as planned, 8 of 7 as counted
        for request in range(100):
            counted.observe((7,) * 8, request)
        assert counted.mean == pytest.approx(7.0, abs=0.05)
        for request in range(64):
            counted.observe((2,) * 8, request)
        # 512 rows of 2: each batch leaves 1 - 8/256 of the difference, and 0.969^64 is 0.131: 2 + 5 * 0.131.
        assert counted.mean == pytest.approx(2.66, abs=0.02)

    def test_more_rows_at_once_than_are_remembered_are_the_mean(self) -> None:
        counted = ItemMean(9.0)
        counted.observe((2,) * 1000, 0)
        assert counted.mean == pytest.approx((8 * 9 + 2000) / 1008, abs=0.06)

    def test_one_page_of_thousands_of_lines_counts_as_one_of_four_times_the_mean(self) -> None:
        counted = counted_of(5.0)
        counted.observe((5000,), "huge")
        # (20 - 5) / 256 = 0.059; without the limit it would be 4995 / 256 = 19.5 more.
        assert counted.mean == pytest.approx(5.059, abs=0.001)

    def test_one_request_of_hundreds_of_such_pages_counts_as_sixteen_of_them(self) -> None:
        counted = counted_of(5.0)
        for _ in range(32):
            counted.observe((5000,) * 8, "huge")
        # Two batches of 8 rows of 20, as it was at the first of them: 5 + 15 * (1 - (1 - 8/256)^2) = 5.92.
        assert counted.mean == pytest.approx(5.923, abs=0.001)
        for request in range(100):
            counted.observe((5,), request)
        assert counted.mean == pytest.approx(5.0 + 0.923 * (1 - 1 / 256) ** 100, abs=0.001)  # 5.62

    def test_two_of_them_are_no_accident(self) -> None:
        counted = counted_of(5.0)
        counted.observe((100,), "one")  # counts as 20
        counted.observe((80,), "two")  # as many as both have had: 5.059 + (80 - 5.059) / 256
        assert counted.mean == pytest.approx(5.351, abs=0.001)
        counted.observe((300,), "three")  # as 80, but for what has faded
        assert counted.mean == pytest.approx(5.351 + (79.9 - 5.351) / 256, abs=0.001)

    def test_rare_pages_of_many_lines_count_in_full(self) -> None:
        # Every twentieth has 50 lines, the others one: 3.45 a page, though 50 is more than four times that.
        # What is usual fades by 2 % from one to the next, and so does what they count: 2.5 * 0.02 = 0.05.
        counted = ItemMean(1.0)
        means = []
        for request in range(4000):
            counted.observe((50 if request % 20 == 0 else 1,), request)
            means.append(counted.mean)
        assert fmean(means[2000:]) == pytest.approx(3.45, abs=0.06)

    def test_a_wrong_guess_is_outweighed_as_soon_as_two_requests_agree(self) -> None:
        counted = ItemMean(1.0)
        for request in range(8):
            counted.observe((100,), request)
        # 8 rows of 1 as planned, one that counts as 8, seven of 100: 716 / 16 = 44.75, but for what faded.
        assert counted.mean == pytest.approx(44.75, abs=0.1)

    def test_admission_and_deadlines_go_by_what_was_counted(self) -> None:
        bench = ocr_bench(queue_rows_max=100)
        assert bench.machine.stages["crop"].remaining.after_s(0) == pytest.approx(0.020)  # read and page
        for _ in range(8):
            bench.arrive()
            bench.complete(1, items={"read": [7]}, service_s=0.010)
            bench.complete(2, service_s=0.022)
            bench.complete(3, service_s=0.010)
        # 8 planned rows of 1 and 8 counted ones of 7: 4 lines a page, 10 + 3 * 2 ms, and page in 10 ms.
        assert bench.machine.stages["read"].fan_out == pytest.approx(4.0)
        assert bench.machine.stages["crop"].remaining.after_s(0) == pytest.approx(0.026)
        (report,) = bench.tell(WindowClosed())
        assert isinstance(report, ReportWindow)
        assert report.window.items == (ItemCell("read", VARIANT, 8, 56),)
        by_stage = {stage.stage: stage.fan_out for stage in report.window.stages}
        assert by_stage == {"crop": None, "read": pytest.approx(4.0), "page": None}
        (report,) = bench.tell(WindowClosed())
        assert isinstance(report, ReportWindow)
        assert report.window.items == ()

    def test_a_request_of_thousands_of_items_changes_no_plan(self) -> None:
        bench = ocr_bench(queue_rows_max=100)
        for _ in range(32):
            bench.arrive()
            bench.complete(1, items={"read": [5]})
            bench.complete(2)
            bench.complete(3)
        before = bench.machine.stages["read"].fan_out
        assert before == pytest.approx((8 * 1 + 32 * 5) / 40)
        bench.arrive()
        assert isinstance(ends(bench.complete(1, items={"read": [3000]}))[33], Shed)  # more than may wait
        # One more row, of four times 4.2 items.
        assert bench.machine.stages["read"].fan_out == pytest.approx(before + 3 * before / 41)
        (report,) = bench.tell(WindowClosed())
        assert isinstance(report, ReportWindow)
        assert report.window.stages[1].fan_out == pytest.approx(4.51, abs=0.01)
        assert report.window.items == (ItemCell("read", VARIANT, 33, 3160),)  # as it was


class TestSources:
    def test_a_slice_names_all_parts_of_its_request_and_their_items(self) -> None:
        bench = ocr_bench()
        bench.arrive()
        bench.arrive()
        bench.arrive(rows=2)
        bench.complete(1, items={"read": [1]})
        bench.complete(1, items={"read": [2, 0, 4]})
        second = at("read", bench.complete(2))
        assert sequences(second) == [2, 3]
        # The second batch of crop had rows of request 2 (2 items) and of request 3 (0 and 4, behind those 2).
        first, third = (part.sources["crop"] for part in second.slices)
        assert [(part.row_start, part.rows, part.items) for part in first] == [
            (0, 1, {"read": ItemRows(0, (2,))})
        ]
        assert [(part.row_start, part.rows, part.items) for part in third] == [
            (1, 2, {"read": ItemRows(2, (0, 4))})
        ]

    def test_a_join_is_given_every_stage_before_it(self) -> None:
        bench = ocr_bench(batch_rows_max=2)
        bench.arrive()
        bench.complete(1, items={"read": [3]})
        bench.complete(2)
        join = one(batches(bench.complete(2)))
        sources = join.slices[0].sources
        assert {name: [part.rows for part in parts] for name, parts in sources.items()} == {
            "crop": [1],
            "read": [2, 1],
        }

    def test_without_outputs_nothing_is_named(self) -> None:
        bench = ocr_bench()
        bench.arrive()
        batch = bench.running(1)
        bench.now_s = 0.010
        event = BatchCompleted(batch.batch_id, 1, 0.0, 0.010, (), {"read": (2,)})
        assert one(batches(bench.tell(event))).slices[0].sources == {}


class TestAnswers:
    def test_several_stages_answer(self) -> None:
        bench = ocr_bench(answers=("page", "read"))
        bench.arrive()
        bench.complete(1, items={"read": [2]})
        commands = bench.complete(2)
        assert ReleaseOutputs(2, 2) not in commands
        commands = bench.complete(3)
        (end,) = ends(commands).values()
        assert isinstance(end, Complete)
        assert {name: [part.rows for part in parts] for name, parts in end.answers.items()} == {
            "read": [2],
            "page": [1],
        }
        assert commands.index(end) < commands.index(ReleaseOutputs(2, 2))

    def test_outputs_of_an_end_that_is_no_answer_go_at_once(self) -> None:
        service = make_pipeline({"main": (), "log": ("main",)}, answers=["main"])
        bench = ServiceBench(service, TIMES)
        bench.ready(1, stage="main")
        bench.ready(2, stage="log")
        bench.arrive(slo_s=1.0)
        bench.arrive(slo_s=1.0)
        bench.complete(1)
        (end,) = ends(commands := bench.complete(2)).values()
        assert isinstance(end, Complete)
        assert tuple(end.answers) == ("main",)
        assert commands.index(end) < commands.index(ReleaseOutputs(1, 1))
        assert ReleaseOutputs(2, 3) in commands

    def test_core_milliseconds_are_the_rows_share_of_every_batch(self) -> None:
        bench = ocr_bench()
        bench.resize(2, 2.0)
        bench.arrive()
        bench.arrive()
        bench.arrive()
        bench.complete(1, items={"read": [1]}, service_s=0.010)  # request 1: 10 ms of one core
        bench.complete(1, items={"read": [1, 3]}, service_s=0.012)  # 2 and 3: 6 ms each
        bench.complete(2, service_s=0.005)  # request 1: 5 ms on two cores, 10 core-ms
        bench.complete(2, service_s=0.008)  # 1 and 3 of 4 rows of 8 ms on two cores: 4 and 12 core-ms
        bench.complete(3, service_s=0.010)  # request 1: 10
        (second, third) = ends(bench.complete(3, service_s=0.012)).values()  # 6 each
        assert isinstance(second, Complete)
        assert isinstance(third, Complete)
        assert second.core_ms == pytest.approx(6 + 4 + 6)
        assert third.core_ms == pytest.approx(6 + 12 + 6)

    def test_the_variant_of_most_rows_is_named(self) -> None:
        bench = ocr_bench(batch_rows_max=2, variants=("big", "small"))
        bench.ready(2, stage="read", variants=("small",))
        bench.ready(4, stage="read", variants=("big",))
        bench.arrive()
        bench.complete(1, items={"read": [3]})
        assert (bench.running(2).rows, bench.running(4).rows) == (2, 1)
        bench.complete(2)
        bench.complete(4)
        assert only_end(bench, 3).variants == {"crop": "big", "read": "small", "page": "big"}


class TestShapes:
    def crop(
        self, bench: ServiceBench, tensors: tuple[Tensor, ...], counts: tuple[int, ...]
    ) -> list[RunBatch]:
        """The batch at crop ends with these tensors; batches of read that begin."""
        batch = bench.running(1)
        named = tuple(tensor._replace(shape=(batch.batch_id, *tensor.shape)) for tensor in tensors)
        started_s, bench.now_s = bench.now_s, bench.now_s + 0.010
        commands = bench.tell(
            BatchCompleted(batch.batch_id, 1, started_s, bench.now_s, named, {"read": counts})
        )
        return [begun for begun in batches(commands) if begun.stage == "read"]

    def y(self, *dims: int, name: str = "y", dtype: str = "FP32") -> tuple[Tensor, ...]:
        return (Tensor(name, dtype, dims, REF),)

    def three(self, bench: ServiceBench, *outputs: tuple[Tensor, ...]) -> RunBatch:
        """Three requests of a line each, after crop with these outputs; what read runs after the first."""
        for sequence in range(3):
            bench.arrive(key=f"key {sequence}")
        for tensors in outputs:
            self.crop(bench, tensors, (1,))
        return at("read", bench.complete(2))

    def test_requests_of_different_keys_meet_where_their_tensors_agree(self) -> None:
        bench = ocr_bench(batch_rows_max=8, reads_tensors=True)
        assert sequences(self.three(bench, self.y(48), self.y(48), self.y(48))) == [2, 3]

    @pytest.mark.parametrize("other", [{"dtype": "FP64"}, {"dims": (64,)}, {"dims": (48, 1)}])
    def test_tensors_of_another_dtype_or_shape_run_apart(self, other: dict[str, object]) -> None:
        bench = ocr_bench(batch_rows_max=8, reads_tensors=True)
        dims = other.get("dims", (48,))
        assert isinstance(dims, tuple)
        strange = self.y(*dims, dtype=str(other.get("dtype", "FP32")))
        assert sequences(self.three(bench, self.y(48), self.y(48), strange)) == [2]

    def test_what_the_stage_does_not_take_does_not_count(self) -> None:
        bench = ocr_bench(batch_rows_max=8, reads_tensors=True)
        widths = [self.y(48) + self.y(width, name="image") for width in (100, 200, 300)]
        assert sequences(self.three(bench, *widths)) == [2, 3]

    def test_where_a_condition_selects_its_own_output_counts(self) -> None:
        bench = ocr_bench(batch_rows_max=8, reads_tensors=True)
        widths = [self.y(width) + self.y(48, name="y@read") for width in (100, 200, 300)]
        assert sequences(self.three(bench, *widths)) == [2, 3]

    def test_a_request_is_cut_where_its_own_tensors_differ(self) -> None:
        bench = ocr_bench(batch_rows_max=2, reads_tensors=True)
        bench.arrive(rows=4)
        assert self.crop(bench, self.y(48), (1, 0)) == []
        # Rows 0 and 1 have a line of 48, rows 2 and 3 two of 64: alone, then together.
        assert [part.rows for part in one(self.crop(bench, self.y(64), (0, 2))).slices] == [1]
        assert [(part.row_start, part.rows) for part in one(batches(bench.complete(2))).slices] == [(1, 2)]

    def test_a_part_without_items_cuts_nothing(self) -> None:
        bench = ocr_bench(batch_rows_max=2, reads_tensors=True)
        bench.arrive(rows=4)
        self.crop(bench, self.y(64), (0, 0))
        assert one(self.crop(bench, self.y(48), (1, 1))).rows == 2


class TestMadeAgain:
    def waiting(self, bench: ServiceBench) -> None:
        """Request 1 runs at read, request 2 waits there with its two lines, made on replica 4."""
        bench.ready(4, stage="crop", variants=tuple(v.name for v in bench.service.stages[0].variants))
        bench.arrive()
        bench.arrive()
        bench.complete(1, items={"read": [8]}, service_s=0.010)
        bench.complete(4, items={"read": [2]}, service_s=0.0)

    def test_the_same_items_go_on_where_they_were(self) -> None:
        bench = ocr_bench()
        self.waiting(bench)
        again = one(batches(bench.tell(ReplicaGone(4, expected=False))))
        assert (again.stage, sequences(again)) == ("crop", [2])
        bench.complete(1, items={"read": [2]})
        assert [part.rows for part in at("read", bench.complete(2)).slices] == [2]

    @pytest.mark.parametrize("count", [1, 5])
    def test_others_are_taken_if_nothing_has_run(self, count: int) -> None:
        bench = ocr_bench()
        self.waiting(bench)
        bench.tell(ReplicaGone(4, expected=False))
        bench.complete(1, items={"read": [count]})
        assert at("read", bench.complete(2)).rows == count

    def test_none_at_all_is_possible_too(self) -> None:
        bench = ocr_bench()
        self.waiting(bench)
        bench.tell(ReplicaGone(4, expected=False))
        assert one(batches(bench.complete(1, items={"read": [0]}))).stage == "page"

    def test_others_than_were_worked_on_fail_the_request(self) -> None:
        bench = ocr_bench(batch_rows_max=2)
        bench.arrive()
        bench.complete(1, items={"read": [3]})
        bench.complete(2)  # two lines are read, the third runs; page will need crop's boxes
        bench.tell(ReplicaGone(1, expected=False))
        bench.ready(4, stage="crop")
        end = ends(bench.complete(4, items={"read": [4]}))[1]
        assert isinstance(end, Fail)
        assert end.message == "worker lost; crop made other items again than read has worked on"

    def test_the_same_ones_again_do_not(self) -> None:
        bench = ocr_bench(batch_rows_max=2)
        bench.arrive()
        bench.complete(1, items={"read": [3]})
        bench.complete(2)
        bench.tell(ReplicaGone(1, expected=False))
        bench.ready(4, stage="crop")
        assert ends(bench.complete(4, items={"read": [3]})) == {}
        bench.complete(2)
        assert isinstance(ends(bench.complete(3))[1], Complete)

    @pytest.mark.parametrize(("count", "kind"), [(2, Complete), (3, Fail)])
    def test_an_answer_that_is_made_again_last_is_judged_too(self, count: int, kind: type) -> None:
        bench = ocr_bench(answers=("crop", "page"))
        bench.arrive()
        bench.complete(1, items={"read": [2]})
        bench.complete(2)
        bench.tell(ReplicaGone(1, expected=False))  # page runs, and crop's outputs belong to the answer
        bench.ready(4, stage="crop")
        assert ends(bench.complete(3)) == {}
        assert isinstance(ends(bench.complete(4, items={"read": [count]}))[1], kind)

    def test_those_of_another_variant_are_others_whatever_their_number(self) -> None:
        bench = ocr_bench(batch_rows_max=2, variants=("big", "small"))
        bench.arrive()
        first = bench.running(1).variant
        bench.complete(1, items={"read": [3]})
        bench.complete(2)
        bench.tell(ReplicaGone(1, expected=False))
        bench.ready(4, stage="crop", variants=("small",) if first == "big" else ("big",))
        assert isinstance(ends(bench.complete(4, items={"read": [3]}))[1], Fail)


STAGES = (Variant("v"),)


@pytest.mark.parametrize(
    ("stages", "error"),
    [
        (
            (Stage("a", STAGES), Stage("b", STAGES, items_of="a")),
            "stage b takes items of a, which it is not after",
        ),
        (
            (
                Stage("a", STAGES),
                Stage("b", STAGES, ("a",), items_of="a"),
                Stage("c", STAGES, ("b",), items_of="b"),
            ),
            "stage c takes items of b, which takes items of a itself",
        ),
        ((Stage("a", STAGES), Stage("b", STAGES, ("a",), 0, items_of="a")), "fan-out of 0, want more than 0"),
        ((Stage("a", STAGES), Stage("b", STAGES, ("a",), 1.5)), "fan-out of 1.5, want a whole number"),
    ],
)
def test_items_that_cannot_be_are_refused(stages: tuple[Stage, ...], error: str) -> None:
    with pytest.raises(SpecError, match=error):
        ServiceMachine(Service("ocr", 0.1, stages), dict.fromkeys("abc", TIMES))


def test_an_answer_of_an_unknown_stage_is_refused() -> None:
    with pytest.raises(SpecError, match="is answered by z, which is unknown; known: a"):
        ServiceMachine(Service("ocr", 0.1, (Stage("a", STAGES),), answers=("z",)), {"a": TIMES})
