"""The profiler on virtual time: replicas in memory whose service times are known, so every cell is exact."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from msgspec.structs import replace

from steelyard.backend.base import Sink
from steelyard.backend.memory import MemoryBackend
from steelyard.core.commands import ResizeReplica, RunBatch
from steelyard.core.errors import ModelError, ProfileError
from steelyard.core.events import ResizeRefused
from steelyard.profile.times import ProfileTable
from steelyard.profile.types import Constants, Profile
from steelyard.profiler.profile import missing, profile_variant, stored_profile
from steelyard.profiler.recorded import Recorded
from steelyard.profiler.station import Batch, MakeBackend, Station
from steelyard.profiler.store import ProfileStore
from steelyard.profiler.subject import Subject
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec, WidthRule
from steelyard.testing.virtual_clock import VirtualTimeLoop
from steelyard.worker.arena import Arena

T = TypeVar("T")
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),), batchable=True
)
COLD_START_S = 0.25


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no one loads it here")
    return Subject("m", VariantSpec("v", "onnx", str(path), cores_max=2), SIGNATURE, 4)


def on_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


def service_time_s(command: RunBatch, cores: float) -> float:
    """10 b / c + 2 ms; lanes gain a fifth from 4 rows on, and lose a fifth below."""
    time_s = 0.010 * command.rows / cores + 0.002
    if command.variant.endswith("(lanes)"):
        return time_s * (0.8 if command.rows >= 4 else 1.2)
    return time_s


class Backends:
    """Makes memory backends, and counts the batches they ran; cancels the profiler at one of so many rows."""

    def __init__(self, stop_at_rows: int | None = None) -> None:
        self.runs = 0
        self.stop_at_rows = stop_at_rows
        self.rules: Mapping[tuple[str, str, str], tuple[WidthRule, ...]] = {}

    def __call__(
        self,
        stages: Mapping[tuple[str, str], tuple[VariantSpec, ...]],
        widths: Mapping[tuple[str, str, str], tuple[WidthRule, ...]],
        arena: Arena,
        sink: Sink,
    ) -> MemoryBackend:
        self.rules = widths
        return MemoryBackend(
            (0, 1),
            sink,
            loop=asyncio.get_running_loop(),
            service_time_s=self._counted,
            cold_start_s=COLD_START_S,
            arena=arena,
        )

    def _counted(self, command: RunBatch, cores: float) -> float:
        self.runs += 1
        if command.rows == self.stop_at_rows:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return service_time_s(command, cores)


def profiled(subject: Subject, store: ProfileStore, backends: MakeBackend, **options: Any) -> Profile:
    return on_virtual_time(profile_variant(subject, store, core_ids=(0, 1), make_backend=backends, **options))


def test_every_point_is_measured_and_stored(subject: Subject, store: ProfileStore) -> None:
    profile = profiled(subject, store, Backends())
    assert [(cell.rows, cell.cores, round(cell.p50_s, 6), cell.width) for cell in profile.cells] == [
        (1, 1, 0.012, "threads"),
        (2, 1, 0.022, "threads"),
        (4, 1, 0.042, "threads"),
        (1, 2, 0.007, "threads"),
        (2, 2, 0.012, "threads"),
        (4, 2, 0.0176, "lanes"),  # 22 ms x 0.8
    ]
    assert profile.cold_start_s == pytest.approx(COLD_START_S)
    assert not profile.quick
    assert stored_profile(subject, store, cores=2) == profile
    assert ProfileTable([profile]).service_time_s("v", 0, 4, 1) == pytest.approx(0.042)


def test_quick_form_leaves_out_what_lies_between(subject: Subject, store: ProfileStore) -> None:
    profile = profiled(replace(subject, batch_rows_max=16), store, Backends(), form="quick")
    assert {(cell.rows, cell.cores) for cell in profile.cells} == {
        (rows, cores) for rows in (1, 4, 16) for cores in (1, 2)
    }
    assert profile.quick


def test_a_complete_profile_is_not_measured_again(subject: Subject, store: ProfileStore) -> None:
    first = profiled(subject, store, Backends())
    again = Backends()
    assert profiled(subject, store, again) == first
    assert profiled(subject, store, again, form="quick") == first
    assert again.runs == 0


def test_the_full_form_measures_what_the_quick_one_only_touched(
    subject: Subject, store: ProfileStore
) -> None:
    profiled(subject, store, Backends(), form="quick")
    profile = profiled(subject, store, Backends())
    assert not profile.quick
    assert {cell.rounds for cell in profile.cells} == {5}


def test_an_interrupted_run_keeps_its_blocks_and_is_resumed(subject: Subject, store: ProfileStore) -> None:
    whole = Backends()
    complete = profiled(subject, ProfileStore(store.directory / "whole"), whole)

    with pytest.raises(asyncio.CancelledError):
        profiled(subject, store, Backends(stop_at_rows=4))
    partial = stored_profile(subject, store, cores=2)
    assert partial is not None
    assert partial.quick
    assert {cell.rows for cell in partial.cells} == {1, 2}  # the block of 4 rows was under way
    ProfileTable([partial])  # usable as it is

    rest = Backends()
    resumed = profiled(subject, store, rest)
    assert rest.runs < whole.runs
    assert [(c.rows, c.cores, c.width) for c in resumed.cells] == [
        (c.rows, c.cores, c.width) for c in complete.cells
    ]
    assert not resumed.quick


def test_quick_form_stops_when_its_time_is_up_and_says_so(subject: Subject, store: ProfileStore) -> None:
    slow = Backends()
    notices: list[str] = []

    def make(*arguments: Any) -> MemoryBackend:
        backend = slow(*arguments)
        backend._service_time_s = lambda command, _: 1.0 * command.rows  # 16 s for the largest batch
        return backend

    large = replace(subject, batch_rows_max=16)
    profile = profiled(large, store, make, form="quick", on_notice=notices.append)
    assert {cell.rows for cell in profile.cells} == {1}
    assert notices == ["variant v: no time left for 16 rows, 4 rows: estimated from the rest"]


def test_a_corrupt_profile_is_reported_and_measured_again(subject: Subject, store: ProfileStore) -> None:
    profiled(subject, store, Backends(), form="quick")
    (path,) = store.directory.glob("*.json")
    path.write_text("{")
    notices: list[str] = []
    profile = profiled(subject, store, Backends(), form="quick", on_notice=notices.append)
    assert len(profile.cells) == 4
    assert len(notices) == 1
    assert notices[0].startswith(f"{path}: not a stored profile")
    assert notices[0].endswith("; measuring again")


def test_progress_reaches_its_total(subject: Subject, store: ProfileStore) -> None:
    steps: list[tuple[int, int]] = []
    profiled(subject, store, Backends(), on_progress=lambda done, total, _: steps.append((done, total)))
    # 3 row counts x (1 core, 2 cores by threads, 2 cores by lanes) x 5 rounds, cold start, neighbours
    assert steps[0] == (0, 47)
    assert steps[-1] == (47, 47)
    assert steps == sorted(steps)


def recorded(source: str) -> Recorded:
    return Recorded(({"x": np.ones((1, 4), np.float32)},), frozenset(), source)


def test_recorded_inputs_replace_random_ones_and_never_the_other_way(
    subject: Subject, store: ProfileStore
) -> None:
    assert profiled(subject, store, Backends()).inputs == "random"
    assert missing(subject, "full", cores=2, known=stored_profile(subject, store, cores=2)) == []
    first = profiled(subject, store, Backends(), form="quick", recorded=recorded("examples 1"))
    assert first.inputs == "examples 1"
    assert {cell.rounds for cell in first.cells} == {4}  # nothing of the full form on random inputs is left

    unasked = Backends()
    assert profiled(subject, store, unasked, form="full") == first
    assert profiled(subject, store, unasked, form="quick", recorded=recorded("examples 1")) == first
    assert unasked.runs == 0
    again = profiled(subject, store, Backends(), recorded=recorded("examples 2"))
    assert (again.inputs, again.quick) == ("examples 2", False)


def test_the_edges_constants_are_kept(subject: Subject, store: ProfileStore) -> None:
    profile = profiled(subject, store, Backends(), constants=Constants(parse_s=0.5, reply_s=0.25))
    assert (profile.constants.parse_s, profile.constants.reply_s) == (0.5, 0.25)
    assert profile.constants.corun_ratio == pytest.approx(1.0)  # replicas in memory do not disturb each other
    assert profile.constants.starting_ratio == pytest.approx(1.0)


def test_only_onnx_models_have_lanes(subject: Subject, store: ProfileStore) -> None:
    backends = Backends()
    profiled(subject, store, backends, form="quick")
    assert list(backends.rules.values()) == [(WidthRule(2, 1, "lanes"),)]
    sleeper = replace(subject, spec=VariantSpec("nap", "sleep", cores_max=2))
    profiled(sleeper, store, backends, form="quick")
    assert backends.rules == {}


def test_one_core_is_enough(subject: Subject, store: ProfileStore) -> None:
    profile = on_virtual_time(profile_variant(subject, store, core_ids=(0,), make_backend=Backends()))
    assert {cell.cores for cell in profile.cells} == {1}
    assert profile.machine.endswith(", 1 core")


def test_a_model_that_fails_is_reported_with_its_reason(subject: Subject, store: ProfileStore) -> None:
    def compute(*_: Any) -> Mapping[str, Any]:
        raise ModelError("variant v: no such operator")

    def make(_stages: Any, _widths: Any, arena: Arena, sink: Sink) -> MemoryBackend:
        loop = asyncio.get_running_loop()
        return MemoryBackend(
            (0, 1), sink, loop=loop, service_time_s=service_time_s, compute=compute, arena=arena
        )

    with pytest.raises(ModelError, match="variant v: no such operator"):
        profiled(subject, store, make)


async def _with_station(work: Callable[[Station, list[MemoryBackend]], Coroutine[Any, Any, None]]) -> None:
    made: list[MemoryBackend] = []

    def make(_stages: Any, _widths: Any, arena: Arena, sink: Sink) -> MemoryBackend:
        loop = asyncio.get_running_loop()
        made.append(MemoryBackend((0, 1), sink, loop=loop, service_time_s=service_time_s, arena=arena))
        return made[0]

    arena = Arena("test", 1 << 20)
    station = Station((VariantSpec("v", "sleep"),), {}, arena, make)
    try:
        await work(station, made)
    finally:
        await station.close()
        arena.close()


def test_a_replica_that_is_lost_fails_the_batch_at_hand() -> None:
    async def work(station: Station, made: list[MemoryBackend]) -> None:
        ready = await station.start(("v",), (0,))
        batch = asyncio.create_task(station.run(ready.replica_id, "v", Batch(1, ())))
        await asyncio.sleep(0)
        made[0].lose(ready.replica_id)
        with pytest.raises(ModelError):
            await batch

    on_virtual_time(_with_station(work))


def test_a_refused_resize_is_an_error() -> None:
    async def work(station: Station, made: list[MemoryBackend]) -> None:
        ready = await station.start(("v",), (0,))

        def refuse(command: ResizeReplica) -> None:
            station._take(ResizeRefused(command.replica_id, (), "no such core"))

        made[0].resize = refuse  # type: ignore[method-assign]
        with pytest.raises(ProfileError, match="resize refused: no such core"):
            await station.resize(ready.replica_id, (7,))

    on_virtual_time(_with_station(work))
