"""What commands share in saying: `--json`, arguments as quantities, and files that cannot be written."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from stat import S_ISDIR
from typing import Annotated, Any

import msgspec
import typer

from steelyard.config.units import duration_s, size_bytes
from steelyard.core.errors import SpecError, SteelyardError

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - is standard output."),
]
SEED_MAX = 2**53 - 1
"""Every reader of JSON keeps it exact (RFC 8259, section 6)."""


def write_json(target: str | None, result: Any) -> None:
    """Write a result where `--json` asked for; nothing where it did not.

    Raises:
        SteelyardError: the file cannot be written.
    """
    if target is None:
        return
    file = output_file(target)
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"
    if file is None:
        say(text.removesuffix("\n"))
        return
    write_text(file, text, "--json")


def output_file(target: str | None) -> Path | None:
    """The file that an option names; None without one, or for standard output."""
    return None if target is None or target == "-" else Path(target)


def write_text(file: Path, text: str, option: str) -> None:
    """Write a file that an option named.

    Raises:
        SteelyardError: it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SteelyardError(f"{option}: cannot write {file}: {error.strerror}") from None


def writable(option: str, file: Path | None) -> Path | None:
    """A file that will be written later: checked now, so that what comes before was not for nothing.

    Raises:
        SpecError: it cannot be written.
    """
    if file is None:
        return None
    try:
        is_possible = not S_ISDIR(file.stat().st_mode) and os.access(file, os.W_OK)
    except FileNotFoundError:
        folder = Path(os.path.realpath(file)).parent  # of what a link points to
        is_possible = folder.is_dir() and os.access(folder, os.W_OK)
    except OSError:  # links in a circle, a name that is too long
        is_possible = False
    if not is_possible:
        raise SpecError(f"{option}: cannot write {file}")
    return file


def check_outputs(outputs: Mapping[str, Path | None], read: Iterable[Path]) -> None:
    """Files that will be written later: all can be, and none is another one or a file that is read.

    Args:
        outputs: by option; None where it was not given.
        read: what the command reads.

    Raises:
        SpecError: one cannot be written, or would be written over.
    """
    taken = {_identity(file): f"{file} is read" for file in read}
    for option, file in outputs.items():
        if writable(option, file) is None or file is None:
            continue
        if file.exists() and not file.is_file():  # a device or a pipe may be named twice
            continue
        if (known := _identity(file)) in taken:
            raise SpecError(f"{option}: {taken[known]}; want another file")
        taken[known] = f"{file} is {option} already"


def _identity(file: Path) -> object:
    """What tells a file from others, whatever it is called: hard links are one file."""
    try:
        found = file.stat()
    except OSError:
        return os.path.realpath(file)
    return found.st_dev, found.st_ino


def check_json(target: str | None, *read: Path | None) -> None:
    """`check_outputs` of a command that writes nothing but its `--json`."""
    check_outputs({"--json": output_file(target)}, [file for file in read if file is not None])


def say(text: str, *, err: bool = False) -> None:
    """Print a line; `err` where standard output carries something for machines.

    Raises:
        SteelyardError: it cannot be written; a reader that has left is the command line's to deal with.
    """
    try:
        typer.echo(text, err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SteelyardError(f"cannot write the result: {error.strerror}") from None


def duration_option(option: str, text: str) -> float:
    """Seconds of an option's duration.

    Raises:
        SteelyardError: not a positive duration.
    """
    try:
        return duration_s(text)
    except ValueError as error:
        raise SteelyardError(f"{option}: {error}") from None


def size_option(option: str, text: str) -> int:
    """Bytes of an option's size.

    Raises:
        SteelyardError: not a positive size.
    """
    try:
        return size_bytes(text)
    except ValueError as error:
        raise SteelyardError(f"{option}: {error}") from None
