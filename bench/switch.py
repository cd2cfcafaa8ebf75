"""Warm switches of the variant: what the first batch after one costs against later ones of the same variant.

A switch is the name of another resident variant in the next batch: it has no call of its own, so its cost is
what its first batch takes longer. Two recognisers of PP-OCR, `small` and `tiny`, lie in one worker.

*Worker*: a batch always in flight, another variant every `RUN` batches, on one core and on two. Of the first
batch after a switch and of those after it: from sending to the worker's start, and the service time.
*Server*: `steelyard serve`, one caller who sends its next lines when the last ones are read, and every `RUN`
requests changes what it asks for: the least accuracy that only `small` has, or core time that only `tiny`
keeps to, `CORE_SHARE` of what `small` has taken. Of the answers: latency at the caller, and service time as
they say it.

For scale, `cold_ms`: a replica that has to be started with the variant first.

Where it runs: driver, or caller and front end, at nice 0; worker at nice 5; one machine.

    python bench/switch.py [--switches 200] [--rows 2] [--no-record]
"""

import argparse
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from _record import write

from steelyard.backend.cpu import usable_core_ids
from steelyard.client import Client, ClientError, Retries
from steelyard.core.errors import ModelError
from steelyard.demo.pages.glue import LINE_HEIGHT, LINE_WIDTH
from steelyard.demo.pages.models import prepare_models
from steelyard.demo.pages.spec import READER, write_spec
from steelyard.demo.processes import serving
from steelyard.demo.tour import profiled
from steelyard.profiler.batches import BatchMaker
from steelyard.profiler.profile import local_backend
from steelyard.profiler.station import Station
from steelyard.profiler.subject import Subject
from steelyard.runtime.base import Array, Signature, VariantSpec
from steelyard.runtime.inspect import inspect

SEED = 17
ACCURACIES = {"small": 0.963, "tiny": 0.922}
"""Variants, and what makes the server tell them apart; measured on pages (bench/results/pages.json)."""
RUN = 5
"""Batches between two switches, the first one counted."""
WARM_UP = 10
"""Switches that do not count."""
COLD_STARTS = 5
SLO = "2s"
SERVICE = "lines"
CORE_SHARE = 0.6
"""`tiny` takes about 0.3 of the core time of `small`: between the two, where noise moves neither across."""

Times = dict[str, dict[bool, dict[str, list[float]]]]
"""Seconds by variant, whether it is the first after a switch, and what was timed."""


async def on_worker(files: Mapping[str, Path], *, switches: int, rows: int, cores: int) -> dict[str, Any]:
    """Switch a worker between its variants, `switches` times."""
    core_ids = usable_core_ids()[-cores:]
    specs = [
        VariantSpec(name, "onnx", str(files[name]), batch_rows_max=rows, cores_max=cores, eager=True)
        for name in ACCURACIES
    ]
    signature = inspect(specs[:1])[0]
    assert isinstance(signature, Signature), signature
    maker = BatchMaker(Subject(READER, specs[0], signature, rows), np.random.default_rng(SEED))
    batch = maker.make(0, rows)
    station = Station(specs, {}, maker.arena, local_backend(core_ids))
    times, failed, cold_s = _times(), 0, []
    try:
        replica_id = (await station.start(tuple(ACCURACIES), core_ids)).replica_id
        for index in range(-WARM_UP, switches):
            variant = tuple(ACCURACIES)[index % 2]
            for place in range(RUN):
                try:
                    run = await station.run(replica_id, variant, batch)
                except ModelError:
                    failed += 1
                    continue
                if index >= 0:
                    of_place = times[variant][place == 0]
                    of_place["dispatch"].append(run.dispatch_s)
                    of_place["service"].append(run.service_s)
        await station.stop(replica_id)
        for _ in range(COLD_STARTS):
            ready = await station.start(("small",), core_ids)
            cold_s.append(ready.cold_start_s)
            await station.stop(ready.replica_id)
    finally:
        await station.close()
        maker.arena.close()
    return {
        "cores": cores,
        "switches": switches,
        "batches": switches * RUN,
        "failed": failed,
        "cold_ms": 1000 * float(np.median(cold_s)),
        "variants": summary(times),
    }


def on_server(files: Mapping[str, Path], *, switches: int, rows: int) -> dict[str, Any]:
    """The same seen by a caller of a server, who changes what it asks for."""
    rng = np.random.default_rng(SEED)
    lines = {
        "line": rng.integers(0, 256, (rows, LINE_HEIGHT, LINE_WIDTH, 3), np.uint8),
        "angle": np.zeros(rows, np.int64),
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        spec = folder / "lines.yaml"
        write_spec(spec, _spec(files, rows))
        options = ("--profiles", str(folder / "profiles"))
        profiled(spec, folder, "--quick", *options)
        with (
            serving(spec, policy="steelyard", log=folder / "server.log", options=options) as server,
            Client(server.url, retries=Retries(attempts_max=1)) as client,
        ):
            return asked(client, lines, switches=switches)


def asked(client: Client, lines: Mapping[str, Array], *, switches: int) -> dict[str, Any]:
    """Ask for one variant and the other in turn; switches are counted as answers say that there were some."""
    times, last = _times(), ""
    found = {"switches": 0, "requests": 0, "failed": 0, "by_the_other": 0}
    small_core_ms: deque[float] = deque(maxlen=2 * RUN)
    for index in range(-WARM_UP, switches):
        wanted = tuple(ACCURACIES)[index % 2]
        for _ in range(RUN):
            is_small = wanted == "small"
            accuracy = ACCURACIES["small"] if is_small else None
            core_ms = None if is_small else CORE_SHARE * float(np.median(small_core_ms))
            sent_s = time.perf_counter()
            try:
                answer = client.infer(SERVICE, lines, min_accuracy=accuracy, max_core_ms=core_ms)
            except ClientError:
                found["failed"] += index >= 0
                continue
            latency_s = time.perf_counter() - sent_s
            assert answer.core_ms is not None
            assert answer.service_ms is not None
            if answer.variant == "small":
                small_core_ms.append(answer.core_ms)
            is_first, last = answer.variant != last, answer.variant
            if index >= 0:
                found["requests"] += 1
                found["by_the_other"] += answer.variant != wanted
                found["switches"] += is_first
                times[answer.variant][is_first]["latency"].append(latency_s)
                times[answer.variant][is_first]["service"].append(answer.service_ms / 1000)
    return {**found, "variants": summary(times)}


def _spec(files: Mapping[str, Path], rows: int) -> dict[str, Any]:
    variants = {
        name: {"onnx": str(files[name]), "accuracy": accuracy, "batch_max": rows, "cores_max": 1}
        for name, accuracy in ACCURACIES.items()
    }
    return {
        "version": 1,
        "cluster": {"cores": 1},
        "models": {READER: {"variants": variants}},
        "services": {SERVICE: {"slo": {"latency": SLO}, "pipeline": {"read": {"model": READER}}}},
    }


def _times() -> Times:
    return defaultdict(lambda: {True: defaultdict(list), False: defaultdict(list)})


def summary(times: Times) -> dict[str, Any]:
    """Milliseconds by variant and what was timed: median and 0.99 quantile, first batches against later."""
    return {
        variant: {
            what: {
                **{
                    f"{name}_{quantile}": 1000 * float(np.quantile(places[is_first][what], level))
                    for name, is_first in (("first", True), ("later", False))
                    for quantile, level in (("p50", 0.5), ("p99", 0.99))
                },
                "added": 1000 * float(np.median(places[True][what]) - np.median(places[False][what])),
            }
            for what in places[False].keys() & places[True].keys()
        }
        for variant, places in sorted(times.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--switches", type=int, default=200, help="of each of the three runs, >= 2")
    parser.add_argument("--rows", type=int, default=2, help="lines a batch")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    files = prepare_models(Path.home() / ".cache" / "steelyard" / "demo").readers
    sizes = {"switches": options.switches, "rows": options.rows}
    workers = [
        uvloop.run(on_worker(files, cores=cores, **sizes))
        for cores in (1, 2)
        if cores <= len(usable_core_ids())
    ]
    server = on_server(files, **sizes)
    for found in (*workers, server):
        print({key: value for key, value in found.items() if key != "variants"})
        for variant, timed in found["variants"].items():
            for what, ms in timed.items():
                print(f"  {variant} {what}:", {key: round(value, 3) for key, value in ms.items()})
    if not options.no_record:
        result = {"rows": options.rows, "run": RUN, "workers": workers, "server": server}
        write("switch", result, seed=SEED)
    raise SystemExit(any(found["failed"] for found in (*workers, server)))


if __name__ == "__main__":
    main()
