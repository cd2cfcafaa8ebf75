"""One cell: a server with one model and one setting, from its start to its end.

The server has one core to itself, the generator the other. A cell that cannot be trusted is no cell: a
thread of the server that may leave its core, or an answer that is not ONNX Runtime's, ends it with an
error. A run whose generator was late is void and done again, twice at most, unless it held its objective all
the same: latency counts from when a request was due, so a late generator makes it longer. Moments at which
the machine itself stood still do not count, for any server (`stalls`). What a search has found with short
runs must hold for a longer one.
"""

import base64
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from peers import tree
from peers.models import Model, answers
from peers.search import FAILURES, Search
from peers.servers import CONTENDERS, Start, launched
from peers.stalls import watched
from peers.wire import WIRES, Answer, Wire

READY_S_MAX = 90.0
PAYLOADS = 4
VOID_MAX = 2
SETTLE_S_MAX = 10.0
FEWER = 6
"""A closed loop that is refused is tried again with so many times fewer callers."""
FAR = 1.25
"""A request later than this times the longest objective is hopeless."""
HELD_SHARES = (1.0, 0.95, 0.9, 0.85, 0.75, 0.6, 0.45, 0.3)
"""Of the rate that was found: what longer runs try, until one holds."""


class Cores(NamedTuple):
    """Which core carries the server, and which the generator."""

    server: int
    client: int


class Lengths(NamedTuple):
    """How long things last.

    Attributes:
        window_s: of one open-loop run.
        saturation_s: of a closed loop.
        runs_max: of the search, for one objective; each further one adds half as many.
        tolerance: of the search.
        offered_min: a window is lengthened until so many requests are expected, to at most four times its
        length.
        held_s: a rate found must hold for so long; 0: the search's own run is enough.
    """

    window_s: float
    saturation_s: float
    runs_max: int
    tolerance: float = 0.04
    offered_min: int = 200
    held_s: float = 0.0


class Generator:
    """The generator's process, spoken to in JSON lines."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            RuntimeError: the generator has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the generator has ended; see its standard error")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def generator(
    transport: str, port: int, messages: Sequence[bytes], folder: Path, core: int, stalls: Sequence[Path]
) -> Iterator[Generator]:
    """A generator on its core; `stalls` are the files of the watchers."""
    payloads = folder / "payloads"
    payloads.mkdir()
    for index, message in enumerate(messages):
        (payloads / f"{index:02}").write_bytes(message)
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "peers.generator"]
    command += [transport, str(port), str(payloads), *map(str, stalls)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield Generator(process)
        finally:
            process.kill()


class Cell:
    """A running server and its generator; see `running`."""

    def __init__(
        self, root: int, port: int, model: Model, wire: Wire, load: Generator, lengths: Lengths
    ) -> None:
        self.root = root
        self.port = port
        self.model = model
        self._wire = wire
        self.load = load
        self._lengths = lengths
        self._seed = 0
        self._quick_s = math.inf
        self.runs: list[dict[str, Any]] = []

    def wait_ready(self, log: Path) -> None:
        """Return when it answers, and answers what ONNX Runtime does."""
        give_up_s = time.monotonic() + READY_S_MAX
        while (found := self.load.ask(do="ask"))["status"] != 200:
            if time.monotonic() > give_up_s or not Path(f"/proc/{self.root}/exe").exists():
                raise RuntimeError(f"not ready ({found['status']}); its log ends: {log.read_text()[-1500:]}")
            time.sleep(0.1)
        answer = Answer(base64.b64decode(found["content"]), found["json_length"])
        row = self._wire.read(self.model, answer)
        (expected,) = answers(self.model, self.model.rows(PAYLOADS)[:1])
        if not np.allclose(row, expected, rtol=1e-3, atol=1e-3):
            raise RuntimeError(f"answers {row[:5]}, ONNX Runtime {expected[:5]}")

    def saturate(self, callers: int, seconds: float) -> dict[str, float]:
        """Throughput of a closed loop and a request's cost there; of fewer callers if so many are refused."""
        best = self._closed(callers, seconds)
        while best["refused"] and callers > 1:
            callers = max(1, callers // FEWER)
            found = self._closed(callers, seconds)
            if found["rps"] > best["rps"] or not best["rps"]:
                best = found
            if not found["refused"]:
                break
        return best

    def _closed(self, callers: int, seconds: float) -> dict[str, float]:
        before_s, start_s = tree.cpu_s(self.root), time.perf_counter()
        found = self.load.ask(do="closed", connections=callers, seconds=seconds)
        used_s, took_s = tree.cpu_s(self.root) - before_s, time.perf_counter() - start_s
        self.settle()
        answered = found["answered"]
        return {
            "callers": callers,
            "rps": answered / seconds,
            "refused": found["refused"],
            "cpu_us": used_s / max(answered, 1) * 1e6,
            "busy": used_s / took_s,
        }

    def settle(self) -> None:
        """Return when nothing is queued any more: when requests are answered about as fast as ever."""
        give_up_s = time.monotonic() + SETTLE_S_MAX
        while time.monotonic() < give_up_s:
            found = [self.load.ask(do="ask") for _ in range(3)]
            typical_s = statistics.median(each["seconds"] for each in found)
            self._quick_s = min(self._quick_s, typical_s)
            if typical_s < 3 * self._quick_s + 0.005 and all(each["status"] == 200 for each in found):
                return

    def offer(
        self, rate_rps: float, late_s: float | None, *, within_s: float = 0.0, seconds: float | None = None
    ) -> dict[str, Any]:
        """One open-loop run; its p99 is None where more than a hundredth was not answered.

        Args:
            rate_rps: of Poisson arrivals.
            late_s: the run is given up when more than a hundredth of it is later than that; None: never.
            within_s: a void run whose p99 is no longer than this counts.
            seconds: its length; None as `Lengths` says.
        """
        lengths = self._lengths
        if seconds is None:
            seconds = min(max(lengths.window_s, lengths.offered_min / rate_rps), 4 * lengths.window_s)
        for _ in range(VOID_MAX + 1):
            self._seed += 1
            before_s = tree.cpu_s(self.root)
            run = self.load.ask(do="open", rate_rps=rate_rps, seconds=seconds, seed=self._seed, late_s=late_s)
            run["cpu_us"] = (tree.cpu_s(self.root) - before_s) / max(run["all_completed"], 1) * 1e6
            run["seconds"] = seconds
            self.runs.append(run)
            self.settle()
            if not run["void"] or _p99_s(run) <= within_s:
                break
        return run

    def connect(self, connections: int) -> None:
        """Open so many connections over HTTP, which the next open-loop run finds."""
        self.load.ask(do="connect", connections=connections)

    def hold(self, rate_rps: float, seconds: float) -> dict[str, Any]:
        """One long run that is never given up."""
        self._seed += 1
        return self.load.ask(do="open", rate_rps=rate_rps, seconds=seconds, seed=self._seed, late_s=None)

    def search(
        self, saturation_rps: float, slos_s: Sequence[float], first_rps: Mapping[float, float] | None = None
    ) -> Search:
        """Runs until the highest rate of every objective is known."""
        runs_max = self._lengths.runs_max + (len(slos_s) - 1) * self._lengths.runs_max // 2
        search = Search(
            max(saturation_rps, 1.0),
            slos_s,
            runs_max=runs_max,
            tolerance=self._lengths.tolerance,
            first_rps=first_rps,
        )
        while (rate_rps := search.next_rate()) is not None:
            run = self.offer(rate_rps, FAR * max(slos_s), within_s=min(slos_s))
            search.record(rate_rps, _p99_s(run))
        return search

    def judged(self, search: Search, slo_s: float, *, at_half: bool) -> dict[str, Any]:
        """An objective's line: rate, what a request costs there, and p99 at half of it if asked for."""
        rate_rps, _ = search.bracket(slo_s)
        best = None if rate_rps is None else self._held(rate_rps, slo_s)
        if best is None:
            slow = self.offer(min(float(run["rate_rps"]) for run in self.runs), None)
            return {"rate_rps": None, "p99_ms": slow["p99_ms"], "at_rps": slow["rate_rps"]}
        line = {
            "rate_rps": best["rate_rps"],
            "p99_ms": best["p99_ms"],
            "refused": sum(best["errors"].values()),
            "cpu_us": round(best["cpu_us"], 1),
            "seconds": best["seconds"],
            "counted": best["counted"],
        }
        if at_half:
            half = self.offer(best["rate_rps"] / 2, None)
            line["half"] = {name: half[name] for name in ("p50_ms", "p99_ms", "cpu_us", "void")}
        return line

    def _held(self, rate_rps: float, slo_s: float) -> dict[str, Any] | None:
        """The run at the highest rate, from this one downwards, that a longer run holds; None if none does.

        As in the search, a failure must repeat itself.
        """
        seconds = self._lengths.held_s
        if not seconds:
            return next(run for run in self.runs if run["rate_rps"] == rate_rps and _p99_s(run) <= slo_s)
        for share in HELD_SHARES:
            for _ in range(FAILURES):
                run = self.offer(share * rate_rps, FAR * slo_s, within_s=slo_s, seconds=seconds)
                if _p99_s(run) <= slo_s:
                    return run
        return None


@contextmanager
def running(
    name: str,
    model: Model,
    setting: Mapping[str, Any],
    python: Path,
    cores: Cores,
    lengths: Lengths,
    *,
    slo_s: float,
    profiles: Path | None = None,
    apart: bool = False,
) -> Iterator[Cell]:
    """A server that answers rightly and stays where it was put.

    Args:
        name: of `CONTENDERS`.
        model: what it serves.
        setting: of its grid.
        python: of its environment.
        cores: where it and the generator run.
        lengths: of runs.
        slo_s: the objective, for a server that wants to know.
        profiles: where Steelyard keeps what it measured of a model; None lets every start measure anew.
        apart: what does not confine itself to the server's core moves to the generator's: of Steelyard, all
            but the workers.

    Raises:
        RuntimeError: it does not become ready, answers wrongly, or leaves its cores.
    """
    contender, wire = CONTENDERS[name], WIRES[setting["wire"]]
    with tempfile.TemporaryDirectory(prefix="peer-") as place:
        folder = Path(place)
        start = Start(python, model, setting, slo_s, folder, profiles or folder / "profiles")
        allowed = {cores.server, cores.client} if apart else {cores.server}
        messages = [wire.message(model, row) for row in model.rows(PAYLOADS)]
        with (
            launched(contender, start, allowed) as (root, port),
            watched(set(cores), folder) as stalls,
            generator(wire.transport, port, messages, folder, cores.client, stalls) as load,
        ):
            cell = Cell(root, port, model, wire, load, lengths)
            cell.wait_ready(folder / "log")
            if apart:
                _part(root, cores)
            yield cell
            if found := tree.strays(root, allowed):
                raise RuntimeError(f"{name} left its cores: {'; '.join(found)}")


def _p99_s(run: Mapping[str, Any]) -> float:
    p99_ms: float | None = run["p99_ms"]
    return math.inf if p99_ms is None else p99_ms / 1e3


def _part(root: int, cores: Cores) -> None:
    """Move every thread that may run on both cores to the generator's."""
    for pid in tree.family(root):
        for task in Path(f"/proc/{pid}/task").iterdir():
            if os.sched_getaffinity(int(task.name)) != {cores.server}:
                os.sched_setaffinity(int(task.name), {cores.client})
