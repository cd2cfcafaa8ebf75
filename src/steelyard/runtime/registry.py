"""Name -> runtime. A runtime is imported when it is first made: ONNX Runtime only where an ONNX model runs.

Other packages add runtimes through the entry-point group `steelyard.runtimes`: name = `module:factory`, where
the factory takes `(spec: VariantSpec, cores: float)` and returns a `Runtime`.
"""

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from steelyard.core.errors import ModelError
from steelyard.runtime.base import Runtime, VariantSpec

GROUP = "steelyard.runtimes"
Factory = Callable[[VariantSpec, float], Runtime]

_BUILT_IN = {
    "onnx": "steelyard.runtime.onnx:OnnxRuntime",
    "python": "steelyard.runtime.python:PythonRuntime",
    "sleep": "steelyard.runtime.sleep:SleepRuntime",
}


def names() -> tuple[str, ...]:
    """Every registered runtime, sorted."""
    return tuple(sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))}))


def make(spec: VariantSpec, cores: float = 1.0) -> Runtime:
    """Load one variant, ready to run on `cores` cores.

    Raises:
        ModelError: the runtime is unknown, or the variant does not load; one line that names it.
    """
    return _factory(spec.kind)(spec, cores)


def _factory(kind: str) -> Factory:
    if kind in _BUILT_IN:
        module, _, attribute = _BUILT_IN[kind].partition(":")
        return cast("Factory", getattr(import_module(module), attribute))
    for point in entry_points(group=GROUP, name=kind):
        return cast("Factory", point.load())
    known = names()
    first = get_close_matches(kind, known, n=1, cutoff=0.0)
    ordered = [*first, *(name for name in known if name not in first)]
    raise ModelError(f"unknown runtime {kind!r}; known are {', '.join(ordered)}")
