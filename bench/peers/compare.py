"""Steelyard beside MLServer, LitServe, BentoML and Ray Serve: same models, same core, same load.

Each server in turn gets one core to itself, the generator the other one. For every model and objective: the
highest Poisson rate whose p99 stays within the objective, what a request costs there in CPU time of all its
processes, p99 at half of that rate, and memory. First every setting of a server's grid is tuned once,
shortly; then rounds go through all servers, each with the setting that was its best. `--quick` takes one
objective a model, no further rounds unless told, and the first setting of a grid; with `--pick` the one that
gave most in a short closed loop, in this run or in one before it. Beside them: ONNX
Runtime alone in a closed loop on the same core, and Steelyard at saturation with its front end on the
generator's core.

Nothing else should run on the machine. It continues where it was interrupted; first it says how long it is
likely to take.

    python bench/peers [--rounds 2] [--quick [--pick]] [--dry] [--servers A,B] [--models A,B] [--slos 25,50]
        [--compiled PYTHON]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _record

from peers import apart, bare, tree
from peers.cell import Cores, Lengths, running
from peers.environments import PACKAGES, cache_folder, environment, is_compiled, versions
from peers.models import NAMES, Model, prepare
from peers.servers import COMPILED, CONTENDERS, STEELYARD
from peers.store import Key, Store
from peers.summary import best_settings, rows
from peers.wire import WIRES

RUNS = Path(__file__).resolve().parent.parent.parent / "out" / "peers.jsonl"
BARE = "onnxruntime"
CALLERS = {"small": 48, "gemm": 64, "ocr": 32}
"""Callers of the closed loop, by model: enough for a full batch to wait while another runs."""
ATTEMPTS_MAX = 2
"""Of a cell: Ray gives up its own start when its first processes take more than half a minute."""
START_S, RAYS_START_S, AROUND, PICK_S, YARDSTICK_S = 20.0, 70.0, 1.6, 25.0, 160.0
"""For the estimate: a server's start, Ray's, what a run takes beyond its length, repetitions included, a
setting's closed loop with its start, and a model's yardsticks."""


class Form(NamedTuple):
    """How much is measured.

    Attributes:
        name: of the record, and of what its lines have in common.
        slos_ms: objectives, by model.
        tuning: lengths of the tuning round, of so many `settings` of each grid.
        rounds: lengths of later rounds; None where tuning is all.
    """

    name: str
    slos_ms: Mapping[str, tuple[float, ...]]
    settings: int
    tuning: Lengths
    rounds: Lengths | None

    @property
    def all_slos_ms(self) -> list[float]:
        """Objectives of any model."""
        return sorted({slo_ms for slos_ms in self.slos_ms.values() for slo_ms in slos_ms})

    def cell_s(self, server: str, objectives: int) -> float:
        """About how long a cell of the longest kind takes, seconds."""
        lengths = self.rounds or self.tuning
        runs_s = lengths.runs_max * lengths.window_s + lengths.saturation_s
        held_s = objectives * (lengths.held_s + 2 * lengths.window_s)
        return (RAYS_START_S if server == "ray" else START_S) + AROUND * (runs_s + held_s)


FULL = Form(
    "peers",
    dict.fromkeys(NAMES, (25.0, 50.0, 100.0)),
    9,
    Lengths(1.5, 1.0, 4, tolerance=0.1),
    Lengths(3.0, 1.5, 5, held_s=10.0),
)
QUICK = Form(
    "peers_quick",
    {"small": (25.0,), "gemm": (50.0,), "ocr": (100.0,)},
    1,
    Lengths(2.5, 1.5, 6, held_s=8.0),
    Lengths(2.5, 1.5, 4, held_s=8.0),
)


class Bench:
    """Runs what is missing, cell by cell.

    Args:
        form: how much.
        models: by name.
        pythons: interpreter of each server's environment.
        codes: what is measured, by server: a commit or versions.
        store: where lines go; Steelyard's profiles of the models lie beside it, measured by this run.
        cores: of server and generator.
    """

    def __init__(
        self,
        form: Form,
        models: Mapping[str, Model],
        pythons: Mapping[str, Path],
        codes: Mapping[str, str],
        store: Store,
        cores: Cores,
    ) -> None:
        self._form = form
        self._models = models
        self._pythons = pythons
        self._codes = codes
        self._store = store
        self._cores = cores
        self._profiles = store.folder / f"{form.name}-profiles-{codes.get(STEELYARD, '')[:12]}"

    def pick(self) -> None:
        """Every setting of every grid shortly in a closed loop, servers in turn."""
        for name, model in self._models.items():
            for place in range(max(len(CONTENDERS[server].settings) for server in self._pythons)):
                for server in self._pythons:
                    order = self._order(server, model)
                    if place < len(order) > 1:
                        key = Key(self._codes[server], server, name, 0.0, "pick", 0, sorted(order)[place])
                        self._saturated(key, server, CALLERS[name], slo_s=max(self._form.slos_ms[name]) / 1e3)

    def _order(self, server: str, model: Model) -> list[int]:
        """The settings of a server's grid, those first that gave most when picked, or are likely to suit."""
        likely = range(len(CONTENDERS[server].settings))
        order = list(likely) if model.gains else [1, 0, *likely[2:]]
        picked = self._store.found(server=server, model=model.name, phase="pick")
        rates = {key.setting: line["found"]["rps"] for key, line in picked}
        return sorted(order, key=lambda setting: -rates.get(setting, 0.0))

    def tune(self) -> None:
        """Every setting of every grid once, settings in turn, the most promising first."""
        for place in range(self._form.settings):
            for name, model in self._models.items():
                for server in self._pythons:
                    order = self._order(server, model)
                    if place < len(order):
                        slos_ms = self._form.slos_ms[name]
                        self._cell("tune", 0, server, name, order[place], slos_ms, self._form.tuning)

    def round(self, number: int) -> None:
        """Every server once with its best settings, and the yardsticks; servers in turn."""
        form = self._form
        for model in self._models:
            self._yardstick(number, model)
            for server in self._pythons:
                best = best_settings(self._store, server, model, form.slos_ms[model])
                for setting in dict.fromkeys(best.values()):
                    slos_ms = [slo_ms for slo_ms, chosen in best.items() if chosen == setting]
                    if form.rounds:
                        self._cell("round", number, server, model, setting, slos_ms, form.rounds)
            for server in (STEELYARD, COMPILED):
                if server in self._pythons:
                    self._apart(number, server, model)

    def left_s(self, rounds: int, *, pick: bool) -> float:
        """About how long all this takes, less what is known already, seconds."""
        form, left_s = self._form, YARDSTICK_S * len(self._models)
        for model in self._models:
            for server in self._pythons:
                slos_ms = form.slos_ms[model]
                settings = min(form.settings, len(CONTENDERS[server].settings))
                done = [key.phase for key, _ in self._store.found(server=server, model=model)]
                known = sum(phase != "pick" for phase in done) / len(slos_ms)
                cells = settings + (rounds if form.rounds else 0) - known
                left_s += max(0.0, cells) * form.cell_s(server, len(slos_ms))
                grid = len(CONTENDERS[server].settings) - done.count("pick")
                left_s += pick * grid * (form.cell_s(server, 0) - form.cell_s("", 0) + PICK_S)
        return left_s

    def _cell(
        self,
        phase: str,
        number: int,
        server: str,
        model: str,
        setting: int,
        slos_ms: Sequence[float],
        lengths: Lengths,
    ) -> None:
        """One start of a server for all objectives, or one for each if it is told which."""
        groups = [[slo_ms] for slo_ms in slos_ms] if CONTENDERS[server].knows_slo else [list(slos_ms)]
        for group in groups:
            keys = [
                Key(self._codes[server], server, model, slo_ms, phase, number, setting) for slo_ms in group
            ]
            for _ in range(ATTEMPTS_MAX):
                if self._store.missing(keys):
                    self._measure(keys, lengths)

    def _measure(self, keys: Sequence[Key], lengths: Lengths) -> None:
        key, begin_s = keys[0], time.perf_counter()
        setting = CONTENDERS[key.server].settings[key.setting]
        model, python = self._models[key.model], self._pythons[key.server]
        slos_s = [each.slo_ms / 1e3 for each in keys]
        at_half = key.phase == "round" or self._form.rounds is None
        try:
            with running(
                key.server, model, setting, python, self._cores, lengths, slo_s=slos_s[0],
                profiles=self._profiles,
            ) as cell:  # fmt: skip
                ready = {"s": round(time.perf_counter() - begin_s, 1), "cpu_s": tree.cpu_s(cell.root)}
                saturation = cell.saturate(CALLERS[key.model], lengths.saturation_s)
                search = cell.search(saturation["rps"], slos_s, self._known_rates(keys))
                found = [cell.judged(search, slo_s, at_half=at_half) for slo_s in slos_s]
                pss_mb = tree.pss_bytes(cell.root) / 1e6
        except (RuntimeError, OSError, ValueError) as error:
            self._failed(keys, error)
            return
        beside = {"setting": setting, "saturation": saturation, "pss_mb": pss_mb, "runs": cell.runs}
        for each, what in zip(keys, found, strict=True):
            self._store.add(each, found=what, ready=ready, **beside)
            rate = "none" if what["rate_rps"] is None else f"{what['rate_rps']:.0f}/s"
            self._say(each, f"{rate}, p99 {what['p99_ms']} ms", time.perf_counter() - begin_s)

    def _known_rates(self, keys: Sequence[Key]) -> dict[float, float]:
        """By objective in seconds, what was found when these settings were tuned."""
        known = {}
        for key in keys:
            wanted = key._replace(phase="tune", round=0)._asdict()
            for _, line in self._store.found(**wanted):
                if line["found"]["rate_rps"]:
                    known[key.slo_ms / 1e3] = line["found"]["rate_rps"]
        return known

    def _yardstick(self, number: int, model: str) -> None:
        key = Key(self._codes[BARE], BARE, model, 0.0, "round", number, 0)
        if self._store.missing([key]):
            begin_s = time.perf_counter()
            found = bare.measure(self._models[model], self._cores.server, self._form.tuning.saturation_s / 2)
            self._store.add(key, found=found)
            self._say(key, f"{max(found.values()):.0f}/s", time.perf_counter() - begin_s)

    def _apart(self, number: int, server: str, model: str) -> None:
        (_, alone), *_ = self._store.found(server=BARE, model=model)
        batch = int(max(alone["found"], key=lambda batch: float(alone["found"][batch])))
        for place, way in enumerate(apart.ways(self._models[model], CALLERS[model])):
            key = Key(self._codes[server], apart.NAME, model, 0.0, "round", number, place)
            if not self._store.missing([key]):
                continue
            lengths, begin_s = self._form.rounds or self._form.tuning, time.perf_counter()
            try:
                with running(
                    server, self._models[model], way.setting, self._pythons[server], self._cores, lengths,
                    slo_s=apart.SLO_S, profiles=self._profiles, apart=True,
                ) as cell:  # fmt: skip
                    found = apart.turns(cell, way, self._cores, batch, lengths.saturation_s)
            except (RuntimeError, OSError, ValueError) as error:
                self._failed([key], error)
                continue
            self._store.add(key, found=found, setting=way.setting, rows=way.rows)
            said = f"{way.rows} rows a request, {found['share']:.0%}"
            self._say(key, said, time.perf_counter() - begin_s)

    def _saturated(self, key: Key, server: str, callers: int, *, slo_s: float) -> None:
        """Throughput of a closed loop, after a shorter one that warms up."""
        if not self._store.missing([key]):
            return
        lengths, begin_s = self._form.rounds or self._form.tuning, time.perf_counter()
        setting = CONTENDERS[server].settings[key.setting]
        try:
            with running(
                server, self._models[key.model], setting, self._pythons[server], self._cores, lengths,
                slo_s=slo_s, profiles=self._profiles,
            ) as cell:  # fmt: skip
                cell.saturate(callers, lengths.saturation_s / 2)
                found = cell.saturate(callers, lengths.saturation_s * 2)
        except (RuntimeError, OSError, ValueError) as error:
            self._failed([key], error)
            return
        self._store.add(key, found=found, setting=setting)
        self._say(key, f"{found['rps']:.0f}/s, {found['cpu_us']:.0f} µs", time.perf_counter() - begin_s)

    def _failed(self, keys: Sequence[Key], error: Exception) -> None:
        for key in keys:
            self._store.add(key, error=f"{type(error).__name__}: {error}")
            self._say(key, f"failed: {str(error)[-300:]}", 0.0)

    def _say(self, key: Key, what: str, took_s: float) -> None:
        place = f"{key.phase} {key.round}, {key.model}, {key.slo_ms:g} ms, {key.server} {key.setting}"
        print(f"{place}: {what} ({took_s:.0f} s)", flush=True)

    def record(self) -> dict[str, Any]:
        """All there is, as it goes into the record."""
        servers, names, store = list(self._pythons), list(self._models), self._store
        yardsticks = []
        for model in names:
            alone = [line["found"] for _, line in store.found(server=BARE, model=model)]
            if alone:
                medians = {b: statistics.median(each[b] for each in alone) for b in alone[0]}
                batch = max(medians, key=lambda b: medians[b])
                row = {
                    "model": model,
                    "one_rps": medians["1"],
                    "best_rps": medians[batch],
                    "batch": int(batch),
                }
                yardsticks.append(row | {"apart": apart.summary(store, model)})
        return {
            "server_core": self._cores.server,
            "client_core": self._cores.client,
            "slos_ms": self._form.all_slos_ms,
            "window_s": (self._form.rounds or self._form.tuning).window_s,
            "held_s": (self._form.rounds or self._form.tuning).held_s,
            "servers": {
                name: {
                    "code": self._codes[name],
                    "said": CONTENDERS[name].said,
                    "wires": sorted({WIRES[setting["wire"]].said for setting in CONTENDERS[name].settings}),
                    "picked": [
                        {"model": key.model, "setting": line["setting"]}
                        | {name: round(line["found"][name], 1) for name in ("rps", "cpu_us")}
                        for key, line in store.found(server=name, phase="pick")
                    ],
                }
                for name in servers
            },
            "rows": list(rows(store, servers, names, self._form.all_slos_ms)),
            "yardsticks": yardsticks,
            "failed": [[*key, line["error"][-300:]] for key, line in store.failed()],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, help="after the one that tunes; default 2, none with --quick")
    parser.add_argument("--quick", action="store_true", help="one objective, one setting")
    parser.add_argument("--pick", action="store_true", help="first a short closed loop of every setting")
    parser.add_argument("--dry", action="store_true", help="print only, store no record")
    others = [name for name in CONTENDERS if name != COMPILED]
    parser.add_argument("--servers", default=",".join(others), help="some of them")
    parser.add_argument(
        "--compiled",
        type=Path,
        metavar="PYTHON",
        help="of an environment with a compiled build of this commit: one more server",
    )
    parser.add_argument("--models", default=",".join(NAMES), help="some of them")
    parser.add_argument(
        "--slos", help="objectives, ms, of every model; default all of 25,50,100; one with --quick"
    )
    parser.add_argument("--seconds", type=float, help="of a run, to try things out")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where lines are kept")
    options = parser.parse_args()
    form = QUICK if options.quick else FULL
    rounds = (0 if options.quick else 2) if options.rounds is None else options.rounds
    if not rounds:
        form = form._replace(rounds=None)
    if options.slos:
        form = form._replace(slos_ms=dict.fromkeys(NAMES, tuple(map(float, options.slos.split(",")))))
    if options.seconds:
        short = Lengths(options.seconds, options.seconds / 2, 3, offered_min=20, held_s=options.seconds)
        form = form._replace(name="peers_tried", tuning=short, rounds=form.rounds and short)
    core_ids = sorted(os.sched_getaffinity(0))
    cores = Cores(core_ids[0], core_ids[-1])
    if cores.server == cores.client:
        sys.exit("two cores are needed: one for the servers, one for the generator")
    folder = cache_folder()
    models = {
        name: model for name, model in prepare(folder / "models").items() if name in options.models.split(",")
    }
    pythons, codes = {}, {}
    made = _record.environment()
    codes[BARE] = f"onnxruntime {made['packages']['onnxruntime']}"
    for server in options.servers.split(","):
        if server in PACKAGES:
            pythons[server] = environment(server, folder)
            codes[server] = ", ".join(
                f"{name} {found}" for name, found in versions(server, pythons[server]).items()
            )
        else:
            pythons[server] = Path(sys.executable)
            codes[server] = made["commit"] + (" with changes" if made["dirty"] else "")
    if options.compiled:
        if not is_compiled(options.compiled):
            sys.exit(f"{options.compiled}: its steelyard is not a compiled build; docs/simulator.md says how")
        pythons[COMPILED] = options.compiled
        codes[COMPILED] = f"{made['commit']} compiled"
    bench = Bench(form, models, pythons, codes, Store(options.runs, form.name, codes.values()), cores)
    print(f"about {bench.left_s(rounds, pick=options.pick) / 60:.0f} minutes", flush=True)
    if options.pick:
        bench.pick()
    bench.tune()
    for number in range(1, rounds + 1 if form.rounds else 2):
        bench.round(number)
    record = bench.record()
    for row in record["rows"]:
        print(row)
    print(record["yardsticks"])
    if not (options.dry or options.seconds):
        _record.write(form.name, record, seed=1)


if __name__ == "__main__":
    main()
