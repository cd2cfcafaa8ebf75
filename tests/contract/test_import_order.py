"""Each module that may be compiled can be the first that a program imports.

Interpreted, a ring of imports shows only to whoever enters it at the wrong place. Compiled, so does a class
whose annotations name a type of a module that is not loaded yet: no exception tells, the interpreter ends.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "setup.py"

FORKS = """
import importlib, os, sys
import msgspec, numpy  # what all of them need; nothing of ours

for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(name)
"""
"""Imports each module in a process of its own that has none of the others; names those that could not be."""


@pytest.mark.slow
def test_any_module_may_be_imported_first() -> None:
    (compiled,) = re.findall(r"^COMPILED = (\{.*?^\})", SETUP.read_text(), re.DOTALL | re.MULTILINE)
    names = [
        f"steelyard.{package}.{name}".replace("/", ".")
        for package, modules in ast.literal_eval(compiled).items()
        for name in modules
    ]
    ran = subprocess.run(
        [sys.executable, "-c", FORKS, *names], capture_output=True, text=True, check=True, timeout=100
    )
    assert len(names) > 50
    assert ran.stdout.split() == [], ran.stderr
