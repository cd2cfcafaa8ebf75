"""Which cores this process may use: its affinity, cut to its cgroup's CPU quota.

Python counts neither fully (`os.cpu_count` sees the host, `os.process_cpu_count` no quota), so both are read
here. Every function takes the file system's root: cgroup v2 is tested on a tree of files.
"""

import os
from math import ceil, inf
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")


class CpuCgroup(NamedTuple):
    """The cgroup that bounds a process's CPU time: its directory, the mount it lies in, and the version."""

    version: int
    path: Path
    mount: Path


def usable_core_ids(root: Path = ROOT) -> tuple[int, ...]:
    """Ids of the cores to plan with, ascending: affinity ∩ ceil(quota), the lowest ones; at least one."""
    core_ids = sorted(os.sched_getaffinity(0))
    cores = quota_cores(root)
    return tuple(core_ids if cores == inf else core_ids[: max(1, ceil(cores - 1e-9))])


def quota_cores(root: Path = ROOT) -> float:
    """Cores the cgroup's quota allows, the least of all its ancestors'; `inf` without a quota."""
    cgroup = cpu_cgroup(root)
    if cgroup is None:
        return inf
    least = inf
    path = cgroup.path
    while True:
        least = min(least, _quota_of(path))
        if path in (cgroup.mount, path.parent):
            return least
        path = path.parent


def cpu_cgroup(root: Path = ROOT) -> CpuCgroup | None:
    """This process's cgroup with the CPU controller; None where there is none.

    A hybrid system has the controller in v1 or v2, never in both; v1 is looked at first.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    inside: dict[str, str] = {}
    for line in memberships:
        _, controllers, name = line.split(":", 2)
        inside.update(dict.fromkeys(controllers.split(","), name))  # v2's line names no controller: ""
    for version, controller in ((1, "cpu"), (2, "")):
        if controller not in inside:
            continue
        for mount, mounted in _mounts(mounts, version, root):
            path = _below(mount, mounted, inside[controller])
            if version == 1 or "cpu" in _words(path / "cgroup.controllers"):
                return CpuCgroup(version, path, mount)
    return None


def _mounts(mountinfo: list[str], version: int, root: Path) -> list[tuple[Path, str]]:
    """(mount point, the cgroup mounted there) of each CPU hierarchy; format: proc(5), /proc/pid/mountinfo."""
    found = []
    for line in mountinfo:
        front, _, back = line.partition(" - ")
        mounted, point = front.split()[3:5]
        kind, _, options = back.split(maxsplit=2)
        if (version == 2 and kind == "cgroup2") or (kind == "cgroup" and "cpu" in options.split(",")):
            found.append((root / point.lstrip("/"), mounted))
    return found


def _below(mount: Path, mounted: str, path: str) -> Path:
    """Where a cgroup appears: a container sees its own cgroup mounted, but may be told the host's path."""
    inner = PurePosixPath(path)
    if inner.is_relative_to(mounted) and ".." not in inner.parts:
        candidate = mount / inner.relative_to(mounted)
        if candidate.is_dir():
            return candidate
    return mount


def _quota_of(path: Path) -> float:
    v2 = _words(path / "cpu.max")
    if v2:
        return inf if v2[0] == "max" else int(v2[0]) / int(v2[1])
    quota, period = _words(path / "cpu.cfs_quota_us"), _words(path / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else inf


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
