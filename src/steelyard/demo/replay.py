"""One run of the demo: a server under one policy, the client replaying the surge, the view in between."""

import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen

import msgspec
from rich.console import Console

from steelyard.core.errors import SteelyardError
from steelyard.demo.account import Sample, record
from steelyard.demo.client import Job, Reading
from steelyard.demo.plan import Surge
from steelyard.demo.processes import Server, serving, started
from steelyard.demo.view import Stand, View
from steelyard.metrics.runs import RunSeries

_SAMPLE_EVERY_S = 0.5
_AFTER_S_MAX = 60.0
"""How long the client may take after the trace: its own limit on a request is half of this."""


def replay(
    spec: Path,
    policy: str,
    job: Job,
    surge: Surge,
    *,
    label: str,
    title: str,
    folder: Path,
    options: tuple[str, ...],
    console: Console,
) -> RunSeries:
    """Serve `spec` under `policy`, replay the surge once, and give the run's record.

    Raises:
        SteelyardError: server or client failed; the message names the log.
    """
    log = folder / f"server-{policy}.log"
    with serving(spec, policy=policy, log=log, options=options) as server:
        job_file, result_file = folder / f"job-{policy}.json", folder / f"reading-{policy}.json"
        job_file.write_bytes(msgspec.json.encode(msgspec.structs.replace(job, url=server.url)))
        with (folder / f"client-{policy}.log").open("wb") as errors:
            command = _client_command(job_file, result_file)
            with started(command, stdout=PIPE, stderr=errors) as client:
                samples = _watch(
                    server,
                    client,
                    job.service,
                    Stand(title, surge.slo_ms, len(surge.counts), [], job.task),
                    console,
                )
                if client.wait(_AFTER_S_MAX) != 0:
                    raise SteelyardError(f"the client failed; its log: {errors.name}")
        after = server.status(job.service)
    reading = msgspec.json.decode(result_file.read_bytes(), type=Reading)
    if reading.load.void:
        late_ms = reading.load.lateness_ms["p99"]
        console.print(
            f"  void: the client itself was late (p99 {late_ms} ms); the machine is busy with other work",
            soft_wrap=True,
        )
        label += " (void)"
    return record(policy, job.service, job.seed, reading, samples, after, label=label)


def _watch(
    server: Server, client: Popen[bytes], service: str, stand: Stand, console: Console
) -> list[Sample]:
    """Sample and show the server's status from the start of the trace to its end."""
    assert client.stdout is not None
    if client.stdout.readline() != b"started\n":
        raise SteelyardError("the client ended before it had sent anything")
    start_s = time.monotonic()
    samples: list[Sample] = []
    with View(console) as view:
        while not samples or samples[-1].at_s < stand.seconds:
            at_s = time.monotonic() - start_s
            samples.append(Sample(at_s, server.status(service)))
            view.show(stand._replace(samples=samples))
            if client.poll():  # failed; one that is done early is fine
                break
            time.sleep(max(0.0, min(at_s + _SAMPLE_EVERY_S, stand.seconds) - (time.monotonic() - start_s)))
    return samples


def _client_command(job: Path, result: Path) -> list[str]:
    return [sys.executable, "-m", "steelyard.demo.client", str(job), str(result)]
