"""What commands share in saying: `--json`, arguments as quantities, and files that cannot be written."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from steelyard.config.units import duration_s, size_bytes
from steelyard.core.errors import SpecError, SteelyardError

JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - is standard output."),
]


def write_json(target: str | None, result: Any) -> None:
    """Write a result where `--json` asked for; nothing where it did not.

    Raises:
        SteelyardError: the file cannot be written.
    """
    if target is None:
        return
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"
    if target == "-":
        say(text.removesuffix("\n"))
        return
    write_text(Path(target), text, "--json")


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
    folder = file.parent
    if file.is_dir() or not folder.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        raise SpecError(f"{option}: cannot write {file}")
    return file


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
