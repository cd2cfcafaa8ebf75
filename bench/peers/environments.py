"""An environment of its own for each peer, made once below the user's cache and used again.

Nothing of a peer is installed beside this project. `uv` makes them where it is found, else `venv` and `pip`.
What was installed is in every line that is recorded.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = {
    "mlserver": ("mlserver", "httptools"),
    "litserve": ("litserve",),
    "bentoml": (
        "bentoml",
        "uvloop",
        "httptools",
    ),
    "ray": ("ray[serve]",),
}
"""What is required, by peer; the newest versions when its environment is made. All use uvloop and httptools
where they find them; not all of them ask for them."""
SECONDS_MAX = 900.0
_READY = "installed.json"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/steelyard/peers`, or the same below `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "steelyard" / "peers"


def environment(peer: str, folder: Path) -> Path:
    """The Python of a peer's environment, made if it is not there; every peer gets this ONNX Runtime."""
    home = folder / peer
    python = home / "bin" / "python"
    wanted = [*PACKAGES[peer], f"onnxruntime=={version('onnxruntime')}", "numpy"]
    if not (home / _READY).exists():
        shutil.rmtree(home, ignore_errors=True)
        make, install = _commands(home, python)
        _run(make)
    elif json.loads((home / _READY).read_text())["wanted"] != wanted:
        _, install = _commands(home, python)
    else:
        return python
    _run([*install, *wanted])
    (home / _READY).write_text(json.dumps({"wanted": wanted}))
    return python


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, timeout=SECONDS_MAX)


def versions(peer: str, python: Path) -> dict[str, str]:
    """What is installed there of what matters."""
    names = [peer, "onnxruntime", "numpy"]
    said = f"{{name: version(name) for name in {names}}}"
    code = f"from importlib.metadata import version; import json; print(json.dumps({said}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def is_compiled(python: Path) -> bool:
    """Whether the Steelyard of an environment is a compiled build."""
    code = "from steelyard.core import service; raise SystemExit(service.__file__.endswith('.py'))"
    return subprocess.run([str(python), "-c", code], timeout=60, check=False).returncode == 0


def _commands(home: Path, python: Path) -> tuple[list[str], list[str]]:
    """What makes an environment, and what installs the requirements that follow."""
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if uv is not None:
        return (
            [uv, "venv", "--quiet", "--python", sys.executable, str(home)],
            [uv, "pip", "install", "--quiet", "--python", str(python)],
        )
    return [sys.executable, "-m", "venv", str(home)], [str(python), "-m", "pip", "install", "--quiet"]
