"""Measure one variant through real workers, store what is found, and go on where an earlier run stopped.

Order: cold start first, since a profile without it is none; then block by block, each stored as soon as it
is measured; neighbours last. Cancelling at any moment leaves the blocks that are complete. `quick` stays set
until all of the full form's points are in. All points of a profile are measured on inputs of one source:
recorded ones replace random ones and those of other examples, random ones never replace recorded ones.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
from msgspec.structs import replace

from steelyard.backend.base import Backend, Sink
from steelyard.backend.local import LocalBackend, LocalLimits
from steelyard.core.errors import ModelError, ProfileError
from steelyard.profile.types import RANDOM, Cell, Constants, Profile
from steelyard.profiler.batches import BatchMaker
from steelyard.profiler.constants import RESIZES, cold_starts_s, neighbours
from steelyard.profiler.grid import FULL, QUICK, Form, Setting, blocks, cores_grid, rows_grid
from steelyard.profiler.measure import Sampler
from steelyard.profiler.recorded import Recorded
from steelyard.profiler.station import WAIT_S_MAX, MakeBackend, StageKey, Station, VariantKey
from steelyard.profiler.store import ProfileStore
from steelyard.profiler.subject import Key, Subject, key_of
from steelyard.runtime.base import VariantSpec, Width, WidthRule
from steelyard.worker.arena import Arena

OnProgress = Callable[[int, int, str], None]
"""Called with (done, total, what is being measured); `total` does not change during a run."""
OnNotice = Callable[[str], None]
"""Called with one line that the user should see."""

NEIGHBOUR_ROWS = 4


def local_backend(core_ids: Sequence[int]) -> MakeBackend:
    """Replicas on these cores of this machine."""

    def make(
        stages: Mapping[StageKey, tuple[VariantSpec, ...]],
        widths: Mapping[VariantKey, tuple[WidthRule, ...]],
        arena: Arena,
        sink: Sink,
    ) -> Backend:
        loop = asyncio.get_running_loop()
        limits = LocalLimits(batch_s_max=2 * WAIT_S_MAX)  # the station itself gives up earlier, and says why
        return LocalBackend(core_ids, stages, widths, arena, sink, loop=loop, limits=limits)

    return make


def stored_profile(
    subject: Subject, store: ProfileStore, *, cores: int, on_notice: OnNotice = lambda _: None
) -> Profile | None:
    """What the store has on a variant; a file that cannot be used is reported, and counts as none.

    Args:
        subject: the variant.
        store: where to look.
        cores: cores this process may use; part of the machine's key.
        on_notice: takes the reason why a file cannot be used.

    Raises:
        ModelError: a file of the model cannot be read.
    """
    return _stored(subject, store, key_of(subject, cores=cores), on_notice)


def _stored(subject: Subject, store: ProfileStore, key: Key, on_notice: OnNotice) -> Profile | None:
    try:
        return store.load(*key, model=subject.model, variant=subject.spec.name)
    except ProfileError as error:
        on_notice(f"{error}; measuring again")
        return None


def missing(
    subject: Subject, form: Form, *, cores: int, known: Profile | None, source: str = RANDOM
) -> list[tuple[Setting, ...]]:
    """The blocks that the form asks for and the profile does not have.

    Args:
        subject: the variant.
        form: `quick` or `full`.
        cores: cores this process may use.
        known: its profile.
        source: of the inputs to measure with; random ones add nothing to a profile that was made with others.
    """
    cells = known.cells if known else ()
    if known and known.inputs != source:
        if source == RANDOM:
            return []
        cells = ()
    if form == "full":
        cells = tuple(cell for cell in cells if cell.rounds >= FULL.rounds)
    return blocks(
        subject.bucket_count,
        rows_grid(subject.batch_rows_max, form),
        cores_grid(min(subject.spec.cores_max, cores), form),
        with_lanes=_has_lanes(subject),
        known=cells,
    )


async def profile_variant(
    subject: Subject,
    store: ProfileStore,
    *,
    core_ids: Sequence[int],
    make_backend: MakeBackend | None = None,
    form: Form = "full",
    seed: int = 0,
    constants: Constants | None = None,
    recorded: Recorded | None = None,
    on_progress: OnProgress = lambda _done, _total, _label: None,
    on_notice: OnNotice = lambda _: None,
) -> Profile:
    """Measure what is missing of a variant's profile, and store it.

    Args:
        subject: the variant.
        store: takes every finished block, and gives what was measured before.
        core_ids: cores to measure on; nothing else should run there.
        make_backend: makes the replicas; by default processes of this machine.
        form: `quick` takes at most about 10 s for a model of moderate size.
        seed: of the inputs and of the order of visits.
        constants: with parse and reply times of the edge, which are not measured here.
        recorded: rows that the variant's stage was given; None: measure on random ones.
        on_progress: see `OnProgress`.
        on_notice: see `OnNotice`.

    Raises:
        ModelError: the variant does not load, or fails on a batch.
        ProfileError: its inputs are not known, or the store cannot be written.
    """
    key = key_of(subject, cores=len(core_ids))
    known = _stored(subject, store, key, on_notice)
    source = recorded.source if recorded else RANDOM
    todo = missing(subject, form, cores=len(core_ids), known=known, source=source)
    if known is not None and not todo and (form == "quick" or not known.quick or known.inputs != source):
        return known
    if known is not None and known.inputs != source:
        known = replace(known, cells=())
    session = _Session(subject, key, store, tuple(core_ids), form, on_progress)
    profile = await session.run(
        make_backend or local_backend(core_ids),
        known,
        todo,
        constants or (known.constants if known else Constants()),
        recorded,
        np.random.default_rng(seed),
    )
    left_out = missing(subject, form, cores=len(core_ids), known=profile, source=source)
    if left_out:
        points = ", ".join(f"{block[0].rows} rows" for block in left_out)
        on_notice(f"variant {subject.spec.name}: no time left for {points}: estimated from the rest")
    return profile


class _Session:
    """One run of the profiler over one variant."""

    def __init__(
        self,
        subject: Subject,
        key: Key,
        store: ProfileStore,
        core_ids: tuple[int, ...],
        form: Form,
        on_progress: OnProgress,
    ) -> None:
        self._subject = subject
        self._key = key
        self._store = store
        self._core_ids = core_ids[: max(1, subject.spec.cores_max)]
        self._all_core_ids = core_ids
        self._form: Form = form
        self._effort = QUICK if form == "quick" else FULL
        self._on_progress = on_progress
        self._done = 0
        self._total = 0

    async def run(
        self,
        make_backend: MakeBackend,
        known: Profile | None,
        todo: Sequence[tuple[Setting, ...]],
        constants: Constants,
        recorded: Recorded | None,
        rng: np.random.Generator,
    ) -> Profile:
        """Measure `todo` and what a profile needs besides."""
        self._total = 2 + self._effort.rounds * sum(map(len, todo))
        maker = BatchMaker(self._subject, rng, recorded)
        name = self._subject.spec.name
        eager = replace(self._subject.spec, eager=True)
        variants: dict[Width, str] = {"threads": f"{name} (threads)"}
        if _has_lanes(self._subject) and len(self._core_ids) > 1:
            variants["lanes"] = f"{name} (lanes)"
        specs = [self._subject.spec, *(replace(eager, name=variant) for variant in variants.values())]
        rules = {variants["lanes"]: (WidthRule(2, 1, "lanes"),)} if "lanes" in variants else {}
        station = Station(specs, rules, maker.arena, make_backend)
        try:
            # The first replica waits for the backend itself to come up: its start is not one to measure.
            ready = await station.start(tuple(variants.values()), self._core_ids[:1])
            begun = await self._begun(station, known, constants)
            profile = replace(begun, inputs=recorded.source if recorded else RANDOM)
            sampler = Sampler(
                station, ready.replica_id, self._core_ids, variants, self._effort, rng, self._visited
            )
            for block in todo:
                if sampler.is_time_up and profile.cells:
                    break
                profile = await self._block(sampler, maker, block, profile)
            if not sampler.is_time_up:
                profile = await self._beside_others(station, maker, profile)
            return await self._finished(sampler, profile)
        finally:
            await station.close()
            maker.arena.close()

    async def _begun(self, station: Station, known: Profile | None, constants: Constants) -> Profile:
        """A profile with its cold start, and the cells that were known before."""
        name = self._subject.spec.name
        self._on_progress(self._done, self._total, f"{name}: cold start")
        cold_start_s = await cold_starts_s(station, name, self._core_ids[0], self._effort)
        self._step(f"{name}: batches")
        return Profile(
            model=self._subject.model,
            variant=name,
            **self._key._asdict(),
            cells=known.cells if known else (),
            cold_start_s=cold_start_s,
            resize_s=known.resize_s if known else 0.0,
            constants=constants,
            quick=True,
        )

    async def _beside_others(self, station: Station, maker: BatchMaker, profile: Profile) -> Profile:
        batch = maker.make(0, min(NEIGHBOUR_ROWS, self._subject.batch_rows_max))
        name = self._subject.spec.name
        found = await neighbours(station, name, self._all_core_ids, batch, self._effort, profile.constants)
        maker.free(batch)
        self._step(f"{name}: neighbours")
        return replace(profile, constants=found)

    async def _block(
        self, sampler: Sampler, maker: BatchMaker, block: Sequence[Setting], profile: Profile
    ) -> Profile:
        batch = maker.make(block[0].bucket, block[0].rows)
        try:
            found = await sampler.measure(block, batch)
        except ModelError as error:
            if profile.inputs != RANDOM:
                raise
            raise ModelError(
                f"{error} (on made-up inputs: random numbers, zeros and empty texts; "
                "`steelyard profile --examples FILE` measures on your own)"
            ) from error
        finally:
            maker.free(batch)
        profile = replace(profile, cells=merged(profile.cells, found))
        self._store.save(profile)
        return profile

    async def _finished(self, sampler: Sampler, profile: Profile) -> Profile:
        for index in range(RESIZES):
            await sampler.resize(1 if index % 2 else len(self._core_ids))
        profile = replace(profile, resize_s=median(sampler.resize_s))
        if sampler.dispatch_s:
            dispatch_s = max(0.0, median(sampler.dispatch_s))
            profile = replace(profile, constants=replace(profile.constants, dispatch_s=dispatch_s))
        cores, source = len(self._all_core_ids), profile.inputs
        is_full = not missing(self._subject, "full", cores=cores, known=profile, source=source)
        profile = replace(profile, quick=self._form == "quick" or not is_full)
        self._store.save(profile)
        return profile

    def _visited(self, setting: Setting) -> None:
        cores = f"{setting.cores} core{'s' if setting.cores > 1 else ''}"
        self._step(f"{self._subject.spec.name}: {setting.rows} rows on {cores}, {setting.width}")

    def _step(self, label: str) -> None:
        self._done += 1
        self._on_progress(self._done, self._total, label)


def merged(known: Sequence[Cell], found: Sequence[Cell]) -> tuple[Cell, ...]:
    """Known cells with found ones in their places, by bucket, cores and rows."""
    by_place = {(cell.bucket, cell.cores, cell.rows): cell for cell in (*known, *found)}
    return tuple(by_place[place] for place in sorted(by_place))


def _has_lanes(subject: Subject) -> bool:
    return subject.spec.kind == "onnx" and subject.signature.batchable
