"""What was measured, one JSON line a cell and objective, written as soon as it is done.

A line is found again by its key: code (commit, or the peer's version), server, model, objective, phase and
round, setting, machine, lengths. Interrupting loses the cell at hand, no more; a cell that failed is
written with its error and tried again next time.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]


class Key(NamedTuple):
    """What a line is about; `setting` is its index in the server's grid, `phase` is `tune` or `round`."""

    code: str
    server: str
    model: str
    slo_ms: float
    phase: str
    round: int
    setting: int


class Store:
    """The lines of one file.

    Args:
        path: made when the first line is written.
        scope: what all lines of this run have in common (the form of the run).
        codes: what is measured now; lines of another scope or code are not seen.
    """

    def __init__(self, path: Path, scope: str, codes: Collection[str]) -> None:
        self._path = path
        self.folder = path.parent
        self._scope = scope
        self._lines: dict[Key, Line] = {}
        if path.exists():
            for text in path.read_text().splitlines():
                line = json.loads(text)
                if line["scope"] == scope and line["key"][0] in codes:
                    self._lines[Key(*line["key"])] = line

    def missing(self, keys: Sequence[Key]) -> list[Key]:
        """Those not measured yet, in their order."""
        return [key for key in keys if "found" not in self._lines.get(key, {})]

    def add(self, key: Key, **content: Any) -> None:
        """Write a line: `found=...` or `error=...`, and whatever belongs to it."""
        line = {"scope": self._scope, "key": key, **content}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._lines[key] = line

    def found(self, **wanted: Any) -> Iterator[tuple[Key, Line]]:
        """Measured lines whose keys have these values."""
        for key, line in self._lines.items():
            if "found" in line and all(getattr(key, name) == value for name, value in wanted.items()):
                yield key, line

    def failed(self) -> Iterator[tuple[Key, Line]]:
        """Lines with an error."""
        return ((key, line) for key, line in self._lines.items() if "error" in line)
