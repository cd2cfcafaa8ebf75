"""Profiles on disk: one JSON file for each (model hash, machine, runtime version).

Files are written whole, to a temporary name first, and renamed: an interrupted run leaves the last complete
state, never half a file.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec
from msgspec.structs import replace

from steelyard.core.errors import ProfileError
from steelyard.core.types import Frozen
from steelyard.profile.times import ProfileTable
from steelyard.profile.types import Profile

FORMAT = 1


class _Stored(Frozen, frozen=True):
    format: int
    profile: Profile


def default_directory() -> Path:
    """`$XDG_CACHE_HOME/steelyard/profiles`, or the same below `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "steelyard" / "profiles"


class ProfileStore:
    """A directory of profiles; made when the first one is saved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, model_hash: str, machine: str, runtime_version: str) -> Path:
        """Where the profile with this key is, or would be."""
        place = hashlib.sha256(f"{machine}\n{runtime_version}".encode()).hexdigest()
        return self.directory / f"{model_hash[:16]}-{place[:8]}.json"

    def load(
        self, model_hash: str, machine: str, runtime_version: str, *, model: str = "", variant: str = ""
    ) -> Profile | None:
        """The stored profile, under the names of the spec that asks; None if there is none.

        Raises:
            ProfileError: the file is not a profile; one line that names it. Measure again: `save` replaces
                it.
        """
        path = self.path(model_hash, machine, runtime_version)
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProfileError(f"{path}: cannot be read: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise ProfileError(f"{path}: not a stored profile: {error}") from error
        profile = stored.profile
        if stored.format != FORMAT:
            raise ProfileError(f"{path}: profile format {stored.format}, this version reads {FORMAT}")
        if (profile.model_hash, profile.machine, profile.runtime_version) != (
            model_hash,
            machine,
            runtime_version,
        ):
            return None  # the shortened hashes of the file's name met
        if profile.cells:
            try:
                ProfileTable([profile])
            except ProfileError as error:
                raise ProfileError(f"{path}: {error}") from error
        return replace(profile, model=model or profile.model, variant=variant or profile.variant)

    def save(self, profile: Profile) -> Path:
        """Write a profile over the one with the same key.

        Raises:
            ProfileError: the directory or file cannot be written.
        """
        path = self.path(profile.model_hash, profile.machine, profile.runtime_version)
        content = msgspec.json.format(msgspec.json.encode(_Stored(FORMAT, profile)), indent=1) + b"\n"
        write_whole(path, content)
        return path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file and its directory: to a temporary name first, so that there is never half of it.

    Raises:
        ProfileError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ProfileError(f"{path}: cannot be written: {error.strerror}") from error
