"""The KServe SDK against both edges, in a process and an environment of its own.

tritonclient's clients run in the tests (tests/contract, tests/e2e). The KServe SDK brings 450 MB of packages
along, so it is here: its REST and gRPC clients ask for health and send tensors of every datatype they have,
of ranks 0 to 5, to services that echo: in JSON or typed contents, and in binary. What comes back must be
equal bit for bit.

    python bench/conformance.py [--environment DIR] [--seed 1] [--quick] [--dry]

DIR is where the environment is made, or one that has the SDK already.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import _record

from steelyard.serve.edge import make_app
from steelyard.serve.edge.tensors import KINDS
from steelyard.testing.grpc import running_grpc
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


def compare(python: Path, seed: int) -> dict[str, dict[str, int]]:
    """Tensors that came back as they went, by protocol and datatype."""
    services = {}
    for dtype in KINDS:
        for rank in range(6):
            name, tensors = f"{dtype.lower()}{rank}", {"x": (dtype, (-1,) * rank)}
            services[name] = served(name, tensors, tensors, batchable=False)
    intakes = [ComputingIntake(services, lambda arrays: arrays, arena_bytes=1 << 22) for _ in range(2)]
    script = Path(__file__).with_name("conformance_kserve.py")
    with running_server(make_app(intakes[0])) as http, running_grpc(intakes[1]) as grpc:
        places = (f"http://127.0.0.1:{http.port}", f"127.0.0.1:{grpc.port}")
        done = subprocess.run(
            [str(python), "-W", "ignore", str(script), *places, str(seed)],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
    for intake in intakes:
        intake.close()
    if done.returncode:
        raise SystemExit(f"the KServe SDK is not content:\n{done.stderr}")
    compared: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
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
        compared: dict[str, Counter[str]] = {"http": Counter(), "grpc": Counter()}
        for seed in seeds:
            for protocol, counts in compare(python, seed).items():
                compared[protocol].update(counts)
        results = {"kserve": versions(python), "environment_s": round(made_s, 1), "tensors": compared}
    print(json.dumps(results))
    if not (arguments.dry or arguments.quick):
        _record.write("conformance", results, seed=arguments.seed)


if __name__ == "__main__":
    main()
