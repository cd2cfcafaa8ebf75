"""Serve a Python function or class: `@steelyard.service(...)` says what a spec file would say of it.

    import steelyard

    @steelyard.service(slo="50ms", inputs={"x": ("FP32", [-1, 4])}, outputs={"y": ("FP32", [-1])})
    def double(batch):
        return {"y": 2 * batch["x"].sum(axis=1)}

    if __name__ == "__main__":
        double.run()

`python app.py` is then `steelyard serve app.py:double`, and takes its options.

The rule of this file: the server never imports the user's code. `run` puts the server in the place of the
process that called it, a process of its own tells what was decorated (`tell`), and workers import the rest.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from steelyard.core.errors import SpecError, SteelyardError

P = ParamSpec("P")
R = TypeVar("R")

Tensors = Mapping[str, tuple[str, Sequence[int]]]
"""Datatype and shape by name; -1 for a dynamic dimension, the leading one counts rows."""


class Service(Generic[P, R]):
    """What `service` decorated: still to be called as it was, and to be run.

    Attributes:
        steelyard_target: the function or class itself; what workers load.
        settings: what the decorator said.
    """

    def __init__(self, target: Callable[P, R], settings: Mapping[str, Any]) -> None:
        self.steelyard_target = target
        self.settings = dict(settings)
        self.__name__ = getattr(target, "__name__", "service")
        self.__doc__ = target.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, or make one of the class."""
        return self.steelyard_target(*args, **kwargs)

    def run(self, options: Sequence[str] | None = None) -> NoReturn:
        """Serve it until SIGTERM, in the place of this process; `--print-spec` shows the spec it stands for.

        Args:
            options: of `steelyard serve`; by default those of the command line.

        Raises:
            SpecError: no worker could find it: it was not made at the top of a module.
        """
        given = sys.argv[1:] if options is None else options
        command = "from steelyard.cli.main import app; app()"
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-c", command, "serve", self.find(), *given])

    def find(self) -> str:
        """Where workers find it: `module:name`, or `path/to/file.py:name` for a script.

        Raises:
            SpecError: it was not made at the top of a module.
        """
        target: Any = self.steelyard_target
        name = getattr(target, "__qualname__", "")
        if not name.isidentifier():
            raise SpecError(f"{name or target!r}: only what is at the top of a module can be served")
        if target.__module__ != "__main__":
            return f"{target.__module__}:{name}"
        main = sys.modules["__main__"]
        if main.__spec__ is not None:  # python -m package.app
            return f"{main.__spec__.name}:{name}"
        file = getattr(main, "__file__", None)
        if file is None:
            raise SpecError(f"{name}: only what is in a file can be served")
        return f"{os.path.relpath(file)}:{name}"


def service(
    *,
    slo: str,
    inputs: Tensors | None = None,
    outputs: Tensors | None = None,
    name: str = "",
    batch_max: int | None = None,
    example: Mapping[str, Sequence[int]] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, R]], Service[P, R]]:
    """Make a service of a function `predict(batch)`, or of a class with that method.

    Args:
        slo: latency objective of the 0.99 quantile, such as `50ms`.
        inputs: what clients send; left out for a class with a `signature` of its own.
        outputs: what it answers, likewise.
        name: what clients call it; its own by default.
        batch_max: most rows it takes at once.
        example: for an input with dynamic dimensions, their sizes (without the leading one) to measure with.
        options: the argument of a class's `setup`.

    Raises:
        SpecError: only one of inputs and outputs is given.
    """
    if (inputs is None) != (outputs is None):
        raise SpecError("service: give both inputs and outputs, or neither")
    settings: dict[str, Any] = {"slo": slo, "name": name}
    settings["entry"] = {
        "batch_max": batch_max,
        "example": {one: {"shape": list(shape)} for one, shape in (example or {}).items()} or None,
        "options": dict(options) if options else None,
    }

    def decorate(target: Callable[P, R]) -> Service[P, R]:
        if inputs is not None:
            setattr(target, "signature", {"inputs": inputs, "outputs": outputs})  # noqa: B010 -- not a method's
        return Service(target, settings)

    return decorate


def spec_text(target: str, found: object, slo: str | None) -> str:
    """The spec that serves `found`, which is at `target`; `slo` takes the place of the decorator's.

    Raises:
        SpecError: it has no objective.
    """
    settings = found.settings if isinstance(found, Service) else {}
    objective = slo or settings.get("slo")
    if not objective:
        raise SpecError(f"{target}: has no latency objective: add --slo 50ms, or @steelyard.service(slo=...)")
    own_name = re.sub(r"[^A-Za-z0-9_.-]+", "_", target.rpartition(":")[2]).lstrip("_.-") or "service"
    name = json.dumps(settings.get("name") or own_name)
    entry = {key: value for key, value in settings.get("entry", {}).items() if value is not None}
    return (
        "version: 1\n"
        "models:\n"
        f"  {name}:\n"
        "    variants:\n"
        f"      {name}: {json.dumps({'python': target, **entry})}\n"
        "services:\n"
        f"  {name}:\n"
        f"    slo: {{latency: {json.dumps(objective)}, quantile: 0.99}}\n"
        "    pipeline:\n"
        f"      {name}: {{model: {name}}}\n"
        "policy: steelyard\n"
    )


def tell(target: str, slo: str) -> NoReturn:
    """Write the spec of a target to standard output, or why there is none to standard error, and exit.

    What importing the target writes goes to standard error, and is not taken for the spec.
    """
    import traceback

    from steelyard.runtime.python import load_target

    try:
        with contextlib.redirect_stdout(sys.stderr):
            folder, name = split_target(target)
            sys.path.insert(0, str(folder))
            text = spec_text(name, load_target(target, is_bare=False), slo or None)
    except Exception as error:  # whatever importing a user's module raises
        known = isinstance(error, SteelyardError)
        text = str(error) if known else f"{target}: {''.join(traceback.format_exception_only(error))}"
        sys.stderr.write(f"{' '.join(text.split())}\n")
        raise SystemExit(2) from None
    sys.stdout.write(text)
    raise SystemExit(0)


def split_target(target: str) -> tuple[Path, str]:
    """A target's folder, in which its imports start, and its name there."""
    place, _, attribute = target.rpartition(":")
    if not place.endswith(".py"):
        return Path(), target
    return Path(place).parent, f"{Path(place).name}:{attribute}"
