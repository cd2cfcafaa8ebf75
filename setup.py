"""The build: pure Python, or with `STEELYARD_COMPILE=1` the same sources compiled by mypyc.

How to use it is in docs/simulator.md.
What decides, what simulates and what a served request passes through is compiled. What stays interpreted:
values (`msgspec` structs build their own classes), policies other than the default one, everything that
waits for the world anyway. A compiled run is the interpreted one, byte for byte; only the clock on the wall
differs.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

COMPILED = {
    "core": (
        "accuracy", "admission", "assembly", "assignment", "bounds", "capacity", "choice", "crowding",
        "dispatch", "estimate", "forming", "inputs", "invariants", "item_mean", "kinds", "lanes", "lifecycle",
        "mix", "pipeline", "queue", "remaining", "requests", "residuals", "routes", "routing", "service",
        "stage", "tally", "work",
    ),
    "control": (
        "desired", "fleet", "grants", "ledger", "machine", "memory", "news", "rebuild", "reconcile",
        "starts", "validate", "variants", "view",
    ),
    "policies/steelyard": (
        "demand", "pace", "policy", "reaction", "reserve", "shortage", "sizing", "standing", "targets",
    ),
    "metrics": ("sums",),
    "backend": ("patience", "replica"),
    "serve": ("account", "intake", "service_driver", "wiring"),
    "serve/edge": (
        "answers", "body", "codec", "connection", "direct_way", "exchange", "http_head", "incoming",
        "inferences", "inputs", "outputs", "reply_heads", "requests",
    ),
    "worker": ("arena", "doorbell", "tensors"),
    "sim": (
        "account", "clients", "cluster", "control_driver", "draws", "items", "kernel", "lending",
        "service_driver",
    ),
}  # fmt: skip
"""Modules by package, as far as they are on the path of every request or every sensing window."""

REQUIRES = ["mypy[mypyc]>=1.14", "msgspec>=0.19,<1", "numpy>=1.26,<3"]
"""What a compiled build needs: the compiler, and the types of what the modules import."""

BUILDS = {"bdist_wheel", "build_ext", "editable_wheel"}
"""Commands that want the code; others ask for names and requirements, before the compiler is there."""


def sources() -> list[str]:
    """Files to compile.

    Raises:
        FileNotFoundError: a module of the list is not there: it was renamed.
    """
    files = [
        Path("src/steelyard", package, f"{name}.py") for package in COMPILED for name in COMPILED[package]
    ]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"setup.py wants to compile {file}, which is not there")
    return [str(file) for file in files]


def extensions() -> list[Extension]:
    """The compiled modules; `make static` has checked types strictly, here they are only read."""
    from mypyc.build import mypycify

    os.environ["MYPYPATH"] = "src"
    flags = [
        "--config-file=",
        "--ignore-missing-imports",
        "--follow-imports=silent",
        "--explicit-package-bases",
    ]
    made: list[Extension] = mypycify(
        [*flags, *sources()], opt_level="3", debug_level="0", group_name="steelyard"
    )
    return made


if os.environ.get("STEELYARD_COMPILE", "") not in ("", "0"):
    setup(ext_modules=extensions() if BUILDS & set(sys.argv) else [], setup_requires=REQUIRES)
else:
    setup()
