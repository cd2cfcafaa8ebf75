"""A YAML file whose values know their lines, so that every error can name file, line and key.

YAML's own loader forgets where a value stood and lets the last of two equal keys win silently. Here the node
tree is kept long enough to note the line of every path, and a key given twice is an error.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import yaml

from steelyard.config.units import shown
from steelyard.core.errors import SpecError

Path = tuple[str | int, ...]
DEPTH_MAX = 32
VALUES_MAX = 100_000
LISTED_MAX = 8


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but `1e6` is a number, as in YAML 1.2 and JSON; it would be text, for want of `1.0e+6`."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class Source:
    """A parsed file: its `data`, and the line of each path in it.

    Attributes:
        label: the file's name as errors should show it.
        data: plain Python values.
    """

    def __init__(self, label: str, data: Any, lines: dict[Path, int]) -> None:
        self.label = label
        self.data = data
        self._lines = lines

    @property
    def is_file(self) -> bool:
        """Whether there is a text whose lines can be named, and changed."""
        return bool(self._lines)

    def error(self, path: Sequence[str | int], message: str) -> SpecError:
        """The error to raise for the value at `path`: one line, `file:line: path: message`."""
        known = next((path[:n] for n in range(len(path), -1, -1) if tuple(path[:n]) in self._lines), ())
        line = self._lines.get(tuple(known))
        where = self.label if line is None else f"{self.label}:{line}"
        return SpecError(f"{where}: {dotted(path)}: {message}" if path else f"{where}: {message}")


def parse(text: str, label: str) -> Source:
    """Read YAML.

    Raises:
        SpecError: the text is not YAML, holds a key twice, a key that is not text, or nests too deeply.
    """
    lines: dict[Path, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _note_lines(node, (), lines, label)
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{label}:{mark.line + 1}" if mark else label
        raise SpecError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{label}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:  # the composer recurses before there is a node whose depth could be judged
        raise SpecError(f"{label}: nested more than {DEPTH_MAX} levels deep") from None
    return Source(label, data, lines)


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it: `services.ocr.items["crop.lines"].mean`, `nodes[0]`."""
    parts: list[str] = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif "." in part:
            parts.append(f'["{part}"]')
        else:
            parts.append(f".{part}" if parts else part)
    return "".join(parts)


def nearest(word: object, known: Sequence[str]) -> str:
    """What to add to an error about an unknown word: the nearest known one, and the others if few.

    For example "; did you mean latency? (known: latency, quantile)".
    """
    by_folded = {name.casefold(): name for name in known}
    close = get_close_matches(str(word).casefold(), by_folded, n=1, cutoff=0.5)
    guess = f"; did you mean {by_folded[close[0]]}?" if close else ""
    others = f" (known: {', '.join(known)})" if known and not (close and len(known) > LISTED_MAX) else ""
    return guess + others


def _note_lines(node: yaml.Node, path: Path, lines: dict[Path, int], label: str) -> None:
    """Fill `lines` for everything under `node`; a mapping's entry stands where its key does."""
    if len(lines) > VALUES_MAX:
        raise SpecError(f"{label}: more than {VALUES_MAX} values, aliases counted each time")
    if len(path) > DEPTH_MAX:
        line = node.start_mark.line + 1
        raise SpecError(
            f"{label}:{line}: nested more than {DEPTH_MAX} levels deep, or an alias within itself"
        )
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*path, index), lines, label)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise SpecError(
                f"{label}:{line}: {dotted(path) or 'top level'}: want text as key, got {_key(key)}; quote it"
            )
        if key.value in seen:
            raise SpecError(f"{label}:{line}: {dotted((*path, key.value))}: given twice")
        seen.add(key.value)
        lines[*path, key.value] = line
        _note_lines(value, (*path, key.value), lines, label)


def _key(node: yaml.Node) -> str:
    return shown(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
