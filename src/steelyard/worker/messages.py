"""What the server, the zygote and the workers say to each other, several messages to a packet.

Payloads never travel here: tensors are references into arenas, and arenas' file descriptors go along with the
packet that first needs them. `Fork` carries (the worker's socket, the front end's arena) in this order;
`Ready` carries the worker's own arena, `Lend` other workers' arenas.
"""

from typing import NamedTuple

import msgspec

from steelyard.core.types import Condition, Tensor
from steelyard.runtime.base import VariantSpec, WidthRule


class Message(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Base of all messages: arrays on the wire, since both ends are always of one version."""


class Taker(NamedTuple):
    """A stage that takes items of the worker's stage: what to count for it, and what to select.

    Attributes:
        stage: its name: the key of its counts, and the end of the names of selected outputs.
        each: the output with one element an item; empty: it takes rows, those that `when` selects.
        when: which items it takes; None: all.
        outputs: those of the worker's stage that it takes as inputs.
    """

    stage: str
    each: str
    when: Condition | None
    outputs: tuple[str, ...]


class WorkerSpec(Message, frozen=True, tag="worker"):
    """All a worker must know to become ready; the first message on its socket.

    Attributes:
        replica_id: the replica it hosts.
        arena: name of the worker's own arena.
        arena_bytes_max: its size.
        front_arena: name of the front end's arena, whose file descriptor came with `Fork`.
        core_ids: cores to run on from the start.
        cores: how many of them, fractions counted.
        cgroup_procs: file that puts the worker into its cgroup, empty for none.
        specs: every variant of the stage.
        resident: names of those to load before `Ready`.
        widths: width rules by variant.
        sys_path: the server's module search path, so that user classes import as they would there.
        takers: the stages that take items of this one; None: it is the only stage of its service.
    """

    replica_id: int
    arena: str
    arena_bytes_max: int
    front_arena: str
    core_ids: tuple[int, ...]
    cores: float
    cgroup_procs: str
    specs: tuple[VariantSpec, ...]
    resident: tuple[str, ...]
    widths: dict[str, tuple[WidthRule, ...]]
    sys_path: tuple[str, ...]
    takers: tuple[Taker, ...] | None = None


WHOLE = -1
"""As `Block.rows`: the tensor as it is, whatever its leading axis means."""


class Block(NamedTuple):
    """Elements `[start, start + rows)` of a tensor's leading axis, each as often as `repeats` says, or once.

    A tensor of length 0 lies nowhere: it only says of what type and shape nothing is.
    """

    tensor: Tensor
    start: int
    rows: int
    repeats: tuple[int, ...] = ()


class Feed(NamedTuple):
    """One input of a batch: its blocks, one behind the other.

    `counts` makes it *ragged*: a list of arrays, of so many elements each, one for each row of the batch.
    """

    name: str
    blocks: tuple[Block, ...]
    counts: tuple[int, ...] | None = None


class Run(Message, frozen=True, tag="run"):
    """Run one batch, after giving back the outputs of those `read`: nobody reads them any more."""

    batch_id: int
    variant: str
    rows: int
    feeds: tuple[Feed, ...]
    read: tuple[int, ...] = ()


class Lend(Message, frozen=True, tag="lend"):
    """Arenas of other workers that batches from now on read; their descriptors came along, in this order."""

    arenas: tuple[str, ...]


class Forget(Message, frozen=True, tag="forget"):
    """No further batch reads an arena that was lent: its owner has ended."""

    arena: str


class Free(Message, frozen=True, tag="free"):
    """Nobody reads these batches' outputs any more; as a rule `Run.read` says so."""

    read: tuple[int, ...]


class SetCores(Message, frozen=True, tag="set_cores"):
    """From the next batch on, run on this many cores."""

    cores: float


class Load(Message, frozen=True, tag="load"):
    """Make a variant resident, in the background."""

    variant: str


class Unload(Message, frozen=True, tag="unload"):
    """Drop a resident variant."""

    variant: str


class Stop(Message, frozen=True, tag="stop"):
    """Finish the batch at hand and exit."""


ToWorker = WorkerSpec | Run | Lend | Forget | Free | SetCores | Load | Unload | Stop


class Ready(Message, frozen=True, tag="ready"):
    """Loaded and warmed up."""


class StartFailed(Message, frozen=True, tag="start_failed"):
    """The variants did not load; the worker exits."""

    reason: str


class Done(Message, frozen=True, tag="done"):
    """A batch is finished; times are `time.monotonic()`, which all processes of a machine share.

    `items` are counts for each row of the batch: by the stage that takes them, and by `@output` the elements
    of an output that has no row axis of its own (`steelyard.worker.items`).
    """

    batch_id: int
    started_s: float
    finished_s: float
    outputs: tuple[Tensor, ...]
    items: dict[str, tuple[int, ...]] = {}


class Failed(Message, frozen=True, tag="failed"):
    """A batch failed, the worker lives; `is_input`: one of its requests is to blame."""

    batch_id: int
    reason: str
    is_input: bool = False


class Loaded(Message, frozen=True, tag="loaded"):
    """A further variant is resident."""

    variant: str


class Unloaded(Message, frozen=True, tag="unloaded"):
    """A variant is not resident: dropped as asked, or it did not load, and `reason` says why."""

    variant: str
    reason: str = ""


FromWorker = Ready | StartFailed | Done | Failed | Loaded | Unloaded


class Fork(Message, frozen=True, tag="fork"):
    """Fork a worker; `group` is the name of its cgroup below the server's, empty for none."""

    replica_id: int
    group: str = ""


class Kill(Message, frozen=True, tag="kill"):
    """End a worker with SIGKILL; ignored if it has ended."""

    replica_id: int


ToZygote = Fork | Kill


class Forked(Message, frozen=True, tag="forked"):
    """A worker process exists."""

    replica_id: int
    pid: int


class Exited(Message, frozen=True, tag="exited"):
    """A worker has ended and is reaped: `status` is its exit code, or minus the signal; None: never made."""

    replica_id: int
    status: int | None
    reason: str = ""


FromZygote = Forked | Exited
