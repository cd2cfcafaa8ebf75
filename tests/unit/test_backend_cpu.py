"""Which cores may be used: affinity and quotas, on file trees as v1, v2, hybrids and containers show them."""

import os
from math import inf
from pathlib import Path

import pytest

from steelyard.backend.cpu import cpu_cgroup, quota_cores, usable_core_ids

V2_MOUNT = "30 23 0:27 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "31 23 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def tree(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text("22 1 0:1 / / rw - ext4 /dev/vda rw\n" + mountinfo)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root: Path, **quotas: str) -> Path:
    """Nested groups a and a/b; quotas by group, `top` for the mount."""
    files = {f"{group}/cgroup.controllers": "cpu memory\n" for group in (".", "a", "a/b")}
    files |= {
        f"{group.replace('top', '.').replace('_', '/')}/cpu.max": text for group, text in quotas.items()
    }
    return tree(root, "0::/a/b\n", V2_MOUNT.format(mounted="/"), files)


def test_v2_quota_is_the_least_of_all_ancestors(tmp_path: Path) -> None:
    root = v2(tmp_path, a="150000 100000\n", a_b="max 100000\n")
    assert cpu_cgroup(root) == (2, root / "sys/fs/cgroup/a/b", root / "sys/fs/cgroup")
    assert quota_cores(root) == 1.5


def test_v2_without_a_limit(tmp_path: Path) -> None:
    assert quota_cores(v2(tmp_path, a="max 100000\n")) == inf


def test_v2_without_the_controller_is_no_cpu_cgroup(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/a\n", V2_MOUNT.format(mounted="/"), {"a/cgroup.controllers": "hugetlb\n"})
    assert cpu_cgroup(root) is None
    assert quota_cores(root) == inf


def test_v1_quota(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n",
        "cpu,cpuacct/box/cpu.cfs_period_us": "20000\n",
    }
    root = tree(tmp_path, "4:cpu,cpuacct:/box\n0::/\n", V1_MOUNT.format(mounted="/"), files)
    assert cpu_cgroup(root) == (
        1, root / "sys/fs/cgroup/cpu,cpuacct/box", root / "sys/fs/cgroup/cpu,cpuacct",
    )  # fmt: skip
    assert quota_cores(root) == 2.5


def test_a_hybrid_system_has_the_controller_in_v1(tmp_path: Path) -> None:
    mounts = V1_MOUNT.format(mounted="/") + ("41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    files = {"unified/cgroup.controllers": "hugetlb\n", "cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}
    root = tree(tmp_path, "1:cpu,cpuacct:/\n0::/\n", mounts, files)
    found = cpu_cgroup(root)
    assert found is not None
    assert found.version == 1


def test_a_container_sees_its_own_cgroup_at_the_mount(tmp_path: Path) -> None:
    # Docker with v1: the path is the host's, the mount shows that very group as its root.
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    mounts = V1_MOUNT.format(mounted="/docker/abc")
    root = tree(tmp_path, "3:cpu,cpuacct:/docker/abc\n", mounts, files)
    assert quota_cores(root) == 2


def test_a_path_outside_of_the_mount_falls_back_to_the_mount(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/../elsewhere\n",
        V2_MOUNT.format(mounted="/"),
        {"cgroup.controllers": "cpu\n", "cpu.max": "300000 100000\n"},
    )
    assert quota_cores(root) == 3


def test_no_proc_no_quota(tmp_path: Path) -> None:
    assert cpu_cgroup(tmp_path) is None
    assert quota_cores(tmp_path) == inf


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("10000 100000\n", 1), ("100000 100000\n", 1), ("110000 100000\n", 2), ("max 100000\n", None)],
)
def test_cores_are_the_lowest_of_the_affinity_up_to_the_quota_rounded_up(
    tmp_path: Path, quota: str, cores: int | None
) -> None:
    # 0.1 core still takes one core to run on; 1.1 cores take two.
    mask = sorted(os.sched_getaffinity(0))
    assert usable_core_ids(v2(tmp_path, a=quota)) == tuple(mask[:cores])


def test_this_machine_has_cores() -> None:
    assert set(usable_core_ids()) <= os.sched_getaffinity(0)
    assert usable_core_ids()
