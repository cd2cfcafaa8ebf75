"""CPU quotas: what is written where, who may, and what is removed; v1 as it is here, v2 on a file tree."""

import os
import subprocess
from pathlib import Path

import pytest

from steelyard.backend.quota import (
    Quotas,
    QuotaUnavailableError,
    make_group,
    quota_text,
    remove_group,
    sweep,
    weight_file,
    weight_text,
)

MOUNT = "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("cores", "v1", "v2"),
    [
        (0.25, "2500", "2500 10000"),  # a quarter of 10 ms
        (1.5, "15000", "15000 10000"),
        (1.0, "10000", "10000 10000"),  # two halves: affinity alone would give two cores
        (0.01, "1000", "1000 10000"),  # the kernel takes no less than 1 ms
        (None, "-1", "max 10000"),
    ],
)
def test_the_period_is_10_ms(cores: float | None, v1: str, v2: str) -> None:
    assert (quota_text(cores, 1), quota_text(cores, 2)) == (v1, v2)


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A root whose process is in the v2 group /svc; files appear when written, as those of a kernel would."""
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text("0::/svc\n")
    (proc / "mountinfo").write_text(MOUNT)
    (proc / "stat").write_text(f"{os.getpid()} (a b) c) S " + " ".join(map(str, range(4, 30))))
    (tmp_path / "proc" / str(os.getpid())).symlink_to(proc)
    for group in ("sys/fs/cgroup", "sys/fs/cgroup/svc"):
        (tmp_path / group).mkdir(parents=True)
        (tmp_path / group / "cgroup.controllers").write_text("cpu memory\n")
    return tmp_path


def test_v2_groups_and_files(v2: Path) -> None:
    quotas = Quotas(v2, lends=False)
    base = v2 / "sys/fs/cgroup/svc"
    # Field 22 of stat is the start time; the fields after the name are 3 (S), 4, 5 ...: so its text is "22".
    assert quotas.group.parent == base
    assert quotas.group.name.startswith(f"steelyard-{os.getpid()}-22-")
    assert (base / "cgroup.subtree_control").read_text() == "+cpu"
    assert (quotas.group / "cgroup.subtree_control").read_text() == "+cpu"
    replica = quotas.path(3)
    make_group(replica, quotas.version)
    (replica / "cpu.max").write_text("max 100000")
    quotas.set(3, 0.5)
    assert (replica / "cpu.max").read_text().startswith("5000 10000")
    quotas.forget(3)


def test_lent_fractions_are_weights(v2: Path) -> None:
    quotas = Quotas(v2, lends=True, cores=2)
    # All replicas together weigh as much as two processes of nice 5: 2 * 335 / 1024 of 100.
    assert (quotas.group / "cpu.weight").read_text() == "65"
    replica = quotas.path(3)
    make_group(replica, quotas.version)
    (replica / "cpu.weight").write_text("100")
    quotas.set(3, 0.25)
    assert (replica / "cpu.weight").read_text().startswith("25")
    quotas.forget(3)


@pytest.mark.parametrize(("cores", "v1", "v2"), [(1.0, "1024", "100"), (0.25, "256", "25"), (1e-6, "2", "1")])
def test_weights_are_in_proportion_and_within_the_kernels_limits(cores: float, v1: str, v2: str) -> None:
    assert (weight_text(cores, 1), weight_text(cores, 2)) == (v1, v2)
    assert weight_text(1e6, 2) == "10000"


def test_v2_throttling_is_counted_between_calls(v2: Path) -> None:
    quotas = Quotas(v2, lends=False)
    stat = quotas.path(3) / "cpu.stat"
    make_group(quotas.path(3), 2)
    stat.write_text("usage_usec 1\nnr_periods 10\nnr_throttled 5\nthrottled_usec 9\n")
    assert quotas.throttled_ratio(3) == 0.5
    stat.write_text("usage_usec 1\nnr_periods 50\nnr_throttled 15\nthrottled_usec 9\n")
    assert quotas.throttled_ratio(3) == 0.25  # 10 of 40 since
    assert quotas.throttled_ratio(3) == 0.0  # no period has passed


def test_v2_a_group_with_processes_of_its_own_lets_us_beside_it(v2: Path) -> None:
    # The kernel refuses +cpu in /svc, as there are processes in it; so does a directory in the file's place.
    (v2 / "sys/fs/cgroup/svc/cgroup.subtree_control").mkdir()
    assert Quotas(v2, lends=False).group.parent == v2 / "sys/fs/cgroup"


def test_v2_without_permission_says_where_and_why(v2: Path) -> None:
    for group in ("sys/fs/cgroup/svc", "sys/fs/cgroup"):
        (v2 / group / "cgroup.subtree_control").mkdir()
    with pytest.raises(QuotaUnavailableError, match=r"cgroup/svc: is a directory; .*cgroup: is a directory"):
        Quotas(v2, lends=False)


def test_no_controller_is_said(tmp_path: Path) -> None:
    with pytest.raises(QuotaUnavailableError, match="no cgroup with the CPU controller"):
        Quotas(tmp_path, lends=False)


def test_groups_of_dead_servers_are_swept_and_those_of_living_ones_kept(v2: Path) -> None:
    base = v2 / "sys/fs/cgroup/svc"
    mine = Quotas(v2, lends=False).group
    dead = base / "steelyard-4194304-77-1"
    reused = base / f"steelyard-{os.getpid()}-21-1"  # our number, but another start
    for group in (dead / "replica-1", reused, base / "steelyard-my-own-notes", base / "other"):
        group.mkdir(parents=True)
    assert set(sweep(base, v2)) == {dead, reused}
    left = {path.name for path in base.iterdir() if path.is_dir()}
    assert left == {mine.name, "steelyard-my-own-notes", "other"}


def test_this_machine_lends_where_it_lets_us() -> None:
    try:
        quotas = Quotas(lends=True, cores=2)
    except QuotaUnavailableError:
        return  # as below
    group = quotas.path(1)
    make_group(group, quotas.version)
    quotas.set(1, 0.25)
    file = weight_file(group, quotas.version)
    assert file.read_text().strip() == weight_text(0.25, quotas.version)
    quotas.set(1, None)
    assert file.read_text().strip() == weight_text(1.0, quotas.version)
    quotas.close()
    assert not quotas.group.exists()


def test_this_machine_takes_quotas_where_it_lets_us() -> None:
    try:
        quotas = Quotas(lends=False)
    except QuotaUnavailableError:
        return  # not root and nothing delegated; what is said then is tested above
    group = quotas.path(1)
    make_group(group, quotas.version)
    with subprocess.Popen(["sleep", "1000"]) as process:
        (group / "cgroup.procs").write_text(str(process.pid))
        quotas.set(1, 0.5)
        file = group / ("cpu.max" if quotas.version == 2 else "cpu.cfs_quota_us")
        assert file.read_text().split()[0] == "5000"
        quotas.set(1, None)
        assert file.read_text().split()[0] in ("-1", "max")
        assert quotas.throttled_ratio(1) == 0.0
        remove_group(group)
        assert process.wait(10) == -9
    quotas.close()
    assert not quotas.group.exists()
