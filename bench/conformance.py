"""Stock clients against the HTTP edge, each in a process and, where it needs one, an environment of its own.

tritonclient's clients run in the tests (tests/contract, tests/e2e). The KServe SDK brings 450 MB of packages
along, so it is here: its REST client asks for health and sends tensors of every datatype it has, of ranks 0
to 5, in JSON and in binary, to services that echo; what comes back must be equal bit for bit.

    python bench/conformance.py [--environment DIR] [--seed 1] [--quick] [--dry]

DIR is where the environment is made, or one that has the SDK already.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _record

from steelyard.serve.edge import make_app
from steelyard.serve.edge.tensors import KINDS
from steelyard.testing.http import running_server
from steelyard.testing.intake import ComputingIntake, served

SECONDS_MAX = 600.0


def environment(folder: Path) -> Path:
    """The Python of an environment with the SDK, made if there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=SECONDS_MAX)
        command = [str(python), "-m", "pip", "install", "--quiet", "kserve"]
        subprocess.run(command, check=True, timeout=SECONDS_MAX)
    return python


def versions(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('kserve'))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def compare(python: Path, seed: int) -> dict[str, int]:
    """Tensors that came back as they went, by datatype."""
    services = {}
    for dtype in KINDS:
        for rank in range(6):
            name, tensors = f"{dtype.lower()}{rank}", {"x": (dtype, (-1,) * rank)}
            services[name] = served(name, tensors, tensors, batchable=False)
    intake = ComputingIntake(services, lambda arrays: arrays, arena_bytes=1 << 22)
    script = Path(__file__).with_name("conformance_kserve.py")
    with running_server(make_app(intake)) as server:
        done = subprocess.run(
            [str(python), "-W", "ignore", str(script), f"http://127.0.0.1:{server.port}", str(seed)],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
    intake.close()
    if done.returncode:
        raise SystemExit(f"the KServe SDK is not content:\n{done.stderr}")
    compared: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--environment", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed instead of five")
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start_s = time.perf_counter()
        python = environment(arguments.environment or Path(folder) / "kserve")
        made_s = time.perf_counter() - start_s
        seeds = range(arguments.seed, arguments.seed + (1 if arguments.quick else 5))
        compared: dict[str, Any] = {}
        for seed in seeds:
            for datatype, count in compare(python, seed).items():
                compared[datatype] = compared.get(datatype, 0) + count
        results = {"kserve": versions(python), "environment_s": round(made_s, 1), "tensors": compared}
    print(json.dumps(results))
    if not (arguments.dry or arguments.quick):
        _record.write("conformance", results, seed=arguments.seed)


if __name__ == "__main__":
    main()
