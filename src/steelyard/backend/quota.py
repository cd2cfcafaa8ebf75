"""Fractions of a core by cgroup, v1 and v2, where this process may make cgroups: lent by weight, or capped.

*Lent*: replicas that share a core have weights in proportion to their fractions. Each gets its fraction when
all want the core, and what the others leave when they do not: nobody stalls (docs/adr/0012). *Capped*: a
quota of 10 ms periods; who has spent it sleeps until the period ends, and with the kernel's default of 100 ms
that would be a request's whole budget. Whole cores carry neither: affinity confines them without any stall.

All replicas together weigh on each core as much as one process of nice 5: groups compete as wholes, and
without that the niceness of workers would not let the front end go first.

One group a backend, `steelyard-<pid>-<start time>-<n>` so that it is never mistaken for another's, and one
below it a replica. The server sets quotas; the zygote makes and removes groups, since it knows when a worker
has been reaped. Groups of servers that died with their zygote are swept by the next server.
"""

import contextlib
import itertools
import os
import signal
from pathlib import Path

from steelyard.backend.cpu import ROOT, CpuCgroup, cpu_cgroup

PERIOD_US = 10_000
QUOTA_US_MIN = 1_000  # the kernel's own
NICE_0, NICE_5 = 1024, 335
"""The kernel's weights of a process (sched_prio_to_weight)."""
WEIGHT_V2 = 100
"""cgroup v2's default weight, that of one process of nice 0."""
WEIGHT_V2_MAX = 10_000
PREFIX = "steelyard-"
_numbers = itertools.count(1)  # a process may have several backends: one that profiles, one that serves


class QuotaUnavailableError(Exception):
    """Quotas cannot be set here; the text says why."""


class Quotas:
    """The quotas of one server's replicas.

    Args:
        root: the file system's root.
        lends: fractions are weights, not quotas.
        cores: that the server may use.

    Raises:
        QuotaUnavailableError: no CPU controller, or its tree is not writable.
    """

    def __init__(self, root: Path = ROOT, *, lends: bool, cores: int = 1) -> None:
        self.lends = lends
        cgroup = cpu_cgroup(root)
        if cgroup is None:
            raise QuotaUnavailableError("no cgroup with the CPU controller is mounted")
        self.version = cgroup.version
        reasons = []
        for base in _bases(cgroup):
            try:
                sweep(base, root)
                self.group = _make_server_group(base, cgroup.version, root)
                weight = weight_text(cores * NICE_5 / NICE_0, cgroup.version)
                weight_file(self.group, cgroup.version).write_text(weight)
                break
            except OSError as error:
                reasons.append(f"{base}: {_why(error)}")
        else:
            raise QuotaUnavailableError("; ".join(reasons))
        self._files: dict[int, int] = {}
        self._seen: dict[int, tuple[int, int]] = {}

    def path(self, replica_id: int) -> Path:
        """A replica's cgroup directory, which the zygote makes."""
        return self.group / f"replica-{replica_id}"

    def set(self, replica_id: int, cores: float | None) -> None:
        """Let a replica have `cores` cores of CPU time; None: as many as its affinity says. One write.

        Raises:
            OSError: the group has gone, or the kernel refuses (more than an outer cgroup's quota, in v1).
        """
        if replica_id not in self._files:
            flags = os.O_WRONLY | os.O_CLOEXEC
            group, file = self.path(replica_id), weight_file if self.lends else _quota_file
            self._files[replica_id] = os.open(file(group, self.version), flags)
        text = weight_text(cores or 1.0, self.version) if self.lends else quota_text(cores, self.version)
        os.pwrite(self._files[replica_id], text.encode(), 0)

    def throttled_ratio(self, replica_id: int) -> float:
        """Share of periods in which the replica was throttled since the last call; 0 if none has passed.

        Raises:
            OSError: the group has gone.
        """
        words = (self.path(replica_id) / "cpu.stat").read_text().split()
        counts = dict(zip(words[::2], map(int, words[1::2]), strict=False))
        now = (counts.get("nr_periods", 0), counts.get("nr_throttled", 0))
        before = self._seen.get(replica_id, (0, 0))
        self._seen[replica_id] = now
        periods = now[0] - before[0]
        return (now[1] - before[1]) / periods if periods > 0 else 0.0

    def forget(self, replica_id: int) -> None:
        """A replica has ended: close its file."""
        self._seen.pop(replica_id, None)
        fd = self._files.pop(replica_id, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close the files; remove what the zygote did not."""
        for replica_id in tuple(self._files):
            self.forget(replica_id)
        remove_group(self.group)


class EvenTurns:
    """In place of `Quotas` where no group can be made: whoever shares a core has the kernel's even turns."""

    lends = True

    def path(self, replica_id: int) -> None:
        """There is no group."""

    def set(self, replica_id: int, cores: float | None) -> None:
        """Nothing: affinity alone says which cores."""

    def throttled_ratio(self, replica_id: int) -> float:  # noqa: ARG002
        """Nobody is."""
        return 0.0

    def forget(self, replica_id: int) -> None:
        """Nothing was kept."""

    def close(self) -> None:
        """Nothing is open."""


def quota_text(cores: float | None, version: int) -> str:
    """What to write to let `cores` cores' worth of time pass in each period; None for no quota."""
    quota_us = None if cores is None else max(QUOTA_US_MIN, round(cores * PERIOD_US))
    if version == 2:
        return f"{'max' if quota_us is None else quota_us} {PERIOD_US}"
    return str(-1 if quota_us is None else quota_us)


def weight_text(cores: float, version: int) -> str:
    """What to write to make a group weigh as much as `cores` processes of nice 0."""
    if version == 2:
        return str(min(WEIGHT_V2_MAX, max(1, round(cores * WEIGHT_V2))))
    return str(max(2, round(cores * NICE_0)))


def weight_file(path: Path, version: int) -> Path:
    """Where a group's weight is written."""
    return path / ("cpu.weight" if version == 2 else "cpu.shares")


def make_group(path: Path, version: int) -> None:
    """Make one replica's group, without a quota yet.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(exist_ok=True)
    if version == 1:
        (path / "cpu.cfs_period_us").write_text(str(PERIOD_US))


def remove_group(path: Path, *, kill: bool = True) -> bool:
    """Kill what is left in a group and below it, and remove it; False if the kernel still holds it."""
    if not path.is_dir():
        return True
    for child in [child for child in path.iterdir() if child.is_dir()]:
        remove_group(child, kill=kill)
    if kill:
        _kill_members(path)
    try:
        path.rmdir()
    except OSError:  # busy: a process is still ending, or may not be ours
        return not path.exists()
    return True


def _kill_members(path: Path) -> None:
    with contextlib.suppress(OSError):  # the group has just gone
        for pid in map(int, (path / "cgroup.procs").read_text().split()):
            if pid > 0:  # 0 stands for a process of another namespace; to kill(2) it would mean our own group
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def sweep(base: Path, root: Path = ROOT) -> list[Path]:
    """Remove the groups of servers that are dead; returns them.

    Kills nothing: in another process namespace a living server looks dead, and its groups are in use.

    Raises:
        OSError: the directory cannot be read.
    """
    stale = []
    for path in sorted(base.glob(f"{PREFIX}*-*-*")):
        pid, started, _ = path.name.removeprefix(PREFIX).split("-", 2)
        if pid.isdigit() and _start_time(root / "proc" / pid) != started and remove_group(path, kill=False):
            stale.append(path)
    return stale


def _bases(cgroup: CpuCgroup) -> list[Path]:
    """Where groups could go: our own cgroup, or in v2 also beside it.

    A v2 cgroup with processes of its own cannot give controllers to groups below it ("no internal
    processes"); systemd's `Delegate=yes` with `DelegateSubgroup=` leaves the parent free for that.
    """
    beside = cgroup.version == 2 and cgroup.path != cgroup.mount
    return [cgroup.path, cgroup.path.parent] if beside else [cgroup.path]


def _make_server_group(base: Path, version: int, root: Path) -> Path:
    group = base / f"{PREFIX}{os.getpid()}-{_start_time(root / 'proc/self')}-{next(_numbers)}"
    if version == 2:
        (base / "cgroup.subtree_control").write_text("+cpu")
    group.mkdir(exist_ok=True)
    probe = group / "probe"
    try:
        if version == 2:
            (group / "cgroup.subtree_control").write_text("+cpu")
        make_group(probe, version)
        _quota_file(probe, version).write_text(quota_text(0.5, version))
    except OSError:
        remove_group(group)
        raise
    remove_group(probe)
    return group


def _quota_file(path: Path, version: int) -> Path:
    return path / ("cpu.max" if version == 2 else "cpu.cfs_quota_us")


def _start_time(process: Path) -> str:
    """Clock ticks from boot to a process's start: field 22 of stat; empty if there is no such process."""
    try:
        stat = (process / "stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # the name, field 2, may hold blanks and parentheses


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
