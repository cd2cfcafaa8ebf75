"""From a Python target (`app.py:double`) to a checked spec: what its decorator says, told by another process.

The user's code is imported in that process only, so the server has neither its memory nor its threads.
"""

import re
import subprocess
import sys
from pathlib import Path

from steelyard.config.load import LoadedSpec, read_spec
from steelyard.config.source import Source
from steelyard.core.errors import SpecError
from steelyard.serving import split_target

IMPORT_S_MAX = 120.0
_TARGET = re.compile(r"(?:.*\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")
_COMMAND = "import sys; from steelyard.serving import tell; tell(*sys.argv[1:])"


def is_target(path: Path) -> bool:
    """Whether a SPEC argument is a function or class rather than a file."""
    return _TARGET.fullmatch(str(path)) is not None and not path.exists()


def spec_for_target(target: str, slo: str | None) -> LoadedSpec:
    """The spec that a lone function or class stands for; `slo` takes the place of its decorator's.

    Raises:
        SpecError: it cannot be imported, or has no objective, or its settings are wrong.
    """
    try:
        told = subprocess.run(
            [sys.executable, "-c", _COMMAND, target, slo or ""],
            capture_output=True,
            text=True,
            timeout=IMPORT_S_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SpecError(f"{target}: importing it took longer than {IMPORT_S_MAX:g} s") from None
    if told.returncode:
        lines = told.stderr.strip().splitlines()
        raise SpecError(lines[-1] if lines else f"{target}: importing it ended the process")
    loaded = read_spec(told.stdout, target, split_target(target)[0])
    return LoadedSpec(loaded.spec, Source(target, loaded.source.data, {}), loaded.folder, told.stdout)
