import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from steelyard.core.errors import ProfileError
from steelyard.profile.types import Cell, Constants, Profile
from steelyard.profiler.store import ProfileStore, default_directory

KEY = ("0123456789abcdef" * 4, "CPU, 2 cores", "onnxruntime 1.31.1")
PROFILE = Profile(
    "reader",
    "base",
    *KEY,
    (Cell(0, 1, 1, 0.01, 0.02, 9, "threads", 5),),
    0.13,
    0.0001,
    Constants(corun_ratio=1.2),
)


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles")


def test_what_is_saved_is_loaded(store: ProfileStore) -> None:
    assert store.load(*KEY) is None
    path = store.save(PROFILE)
    assert path.parent == store.directory
    assert store.load(*KEY) == PROFILE


def test_it_is_loaded_under_the_names_of_the_spec_that_asks(store: ProfileStore) -> None:
    store.save(PROFILE)
    assert store.load(*KEY, model="ocr", variant="small") == replace(PROFILE, model="ocr", variant="small")


def test_another_machine_or_runtime_has_another_profile(store: ProfileStore) -> None:
    store.save(PROFILE)
    assert store.load(KEY[0], "CPU, 4 cores", KEY[2]) is None
    assert store.load(KEY[0], KEY[1], "onnxruntime 1.32.0") is None
    store.save(replace(PROFILE, machine="CPU, 4 cores"))
    assert store.load(*KEY) == PROFILE


def test_shortened_hashes_that_meet_are_not_taken_for_each_other(store: ProfileStore) -> None:
    store.save(PROFILE)
    assert store.load(KEY[0][:16] + "f" * 48, *KEY[1:]) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{half a fi", "not a stored profile"),
        (b"", "not a stored profile"),
        (b'{"format": 1, "profile": {"model": 3}}', "not a stored profile"),
    ],
)
def test_a_corrupt_file_is_named(store: ProfileStore, content: bytes, message: str) -> None:
    path = store.save(PROFILE)
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=f"^{path}: {message}"):
        store.load(*KEY)
    store.save(PROFILE)  # measuring again repairs it
    assert store.load(*KEY) == PROFILE


def test_cells_that_contradict_themselves_are_refused(store: ProfileStore) -> None:
    path = store.save(replace(PROFILE, cells=(Cell(0, 1, 1, 0.03, 0.02, 9),)))
    with pytest.raises(ProfileError, match=f"^{path}: profile of variant base: want rows"):
        store.load(*KEY)


def test_a_profile_of_another_format_is_refused(store: ProfileStore) -> None:
    path = store.save(PROFILE)
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 99'))
    with pytest.raises(ProfileError, match="format 99, this version reads 1"):
        store.load(*KEY)


def test_a_failed_write_leaves_the_former_profile_and_no_litter(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(PROFILE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProfileError, match="cannot be written: No space left on device"):
        store.save(replace(PROFILE, cold_start_s=9.0))
    assert store.load(*KEY) == PROFILE
    assert len(list(store.directory.iterdir())) == 1


def test_profiles_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_directory() == Path("/somewhere/steelyard/profiles")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/she")
    assert default_directory() == Path("/home/she/.cache/steelyard/profiles")
