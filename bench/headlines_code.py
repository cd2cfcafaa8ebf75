"""What a run's result depends on: the sources that it can reach.

The rule of this file: a run depends on the simulator and on its own policy, with everything that they import,
and on nothing else. A change of one policy, of the server or of the documentation leaves the runs of all
other policies valid, so that a matrix that takes hours is not repeated for it. The registry of policies
imports all of them and is therefore not followed; a policy lives in `steelyard.policies.<name>`.
"""

import ast
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src"
_ROOTS = ("steelyard.sim.run", "steelyard.policies.per_service")
_NOT_FOLLOWED = "steelyard.policies.registry"
_OURS = "+ours"


@cache
def fingerprint(policy: str, sources: Path = SOURCES) -> str:
    """12 hexadecimal digits that change when a source changes that a run of `policy` can reach."""
    own = f"steelyard.policies.{policy.removesuffix(_OURS)}"
    digest = sha256()
    for name, text in sorted(_reachable((*_ROOTS, own), sources).items()):
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()[:12]


def _reachable(roots: tuple[str, ...], sources: Path) -> dict[str, bytes]:
    """The sources of all modules that the roots import, directly or not, by name."""
    found: dict[str, bytes] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found or name == _NOT_FOLLOWED:
            continue
        file = _file_of(name, sources)
        if file is None:
            continue
        if file.name == "__init__.py":
            waiting += [f"{name}.{inner.stem}" for inner in file.parent.glob("*.py") if name in roots]
        found[name] = file.read_bytes()
        waiting += _imported(found[name])
    return found


def _imported(text: bytes) -> Iterator[str]:
    """Names that may be modules: `from a.b import c` is both a.b and a.b.c."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(name: str, sources: Path) -> Path | None:
    """Where a module of this project is; None for others and for names that are no modules."""
    if not name.startswith("steelyard."):
        return None
    path = sources.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
