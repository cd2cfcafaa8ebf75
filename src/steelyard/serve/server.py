"""One server process: everything assembled, started in order, and stopped in the opposite one.

Start: tune the allocator, open the arena and the journals, exec the zygote (inside the backend), build the
machines and drivers, offer the node to the control machine (its first decision starts the replicas), listen.
Stop, on SIGTERM, SIGINT or SIGHUP: accept no connection and no request, answer what was admitted, end the
replicas, close the journals.
"""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import uvloop
from msgspec.structs import replace

from steelyard import __version__
from steelyard.backend.base import Backend, BackendEvent, Sink
from steelyard.backend.cpu import usable_core_ids
from steelyard.backend.local import LocalBackend, LocalLimits
from steelyard.control.machine import ControlMachine
from steelyard.core.commands import RecordDecision, ReleaseOutputs
from steelyard.core.errors import SteelyardError
from steelyard.core.events import (
    ServiceDraining,
    ServiceLoaded,
    ServiceResumed,
    ServiceUnloaded,
    WindowReported,
)
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, Service, need_parts
from steelyard.journal.records import CONTROL, VERSION, Header, machine_name
from steelyard.profile.tables import StageTimes, service_times
from steelyard.runtime.base import WidthRule
from steelyard.serve.account import Account
from steelyard.serve.base import Deployment
from steelyard.serve.control_driver import ControlDriver
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.malloc import keep_large_blocks
from steelyard.serve.intake import LiveIntake
from steelyard.serve.link.front_ends import FrontEnds
from steelyard.serve.listening import Listening
from steelyard.serve.loading import LiveRepository, Switch
from steelyard.serve.planner import PlannerProcess, PlannerTask, make_task_policy
from steelyard.serve.recorder import JournalFile, Recorder
from steelyard.serve.service_driver import MachinePump, ServiceDriver
from steelyard.serve.settings import ServeSettings
from steelyard.serve.wiring import takers, wirings
from steelyard.worker import tensors
from steelyard.worker.arena import Arena

DECISIONS_BYTES_MAX = 64 << 20
"""Size at which the decisions file ends: about 100,000 decisions."""

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that end the server in order; the last one comes when its terminal is closed."""

Say = Callable[[str], None]


def run(
    deployment: Deployment,
    times: Sequence[StageTimes],
    widths: Mapping[tuple[str, str, str], tuple[WidthRule, ...]],
    settings: ServeSettings,
    *,
    say: Say = lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
) -> int:
    """Serve until told to stop (`STOPPING`), then drain; the exit status.

    Args:
        deployment: what to serve.
        times: service times of every stage.
        widths: by (service, stage, variant), how to use several cores, as profiled.
        settings: ports, limits, files.
        say: told what a person at the terminal wants to know.
    """
    keep_large_blocks()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Server(deployment, times, widths, settings, say).run())


class Server:
    """The parts of one running server; `run` is its whole life."""

    def __init__(
        self,
        deployment: Deployment,
        times: Sequence[StageTimes],
        widths: Mapping[tuple[str, str, str], tuple[WidthRule, ...]],
        settings: ServeSettings,
        say: Say,
    ) -> None:
        self._deployment = deployment
        self._times = tuple(times)
        self._widths = widths
        self._settings = settings
        self._say = say
        self._services = {name: deployed.served.service for name, deployed in deployment.services.items()}
        self._log = EventLog()
        self._stop = asyncio.Event()
        self._drained: dict[str, asyncio.Event] = {name: asyncio.Event() for name in self._services}

    async def run(self) -> int:
        """Start, serve until told to stop, drain; 0 when every admitted request was answered.

        Raises:
            SteelyardError: an option is wrong, or a file, the arena or a port cannot be had.
        """
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` ignores it
                loop.add_signal_handler(number, self._stop.set)
        task = PlannerTask(
            self._deployment.policy, dict(self._deployment.policy_options), self._services, self._times
        )
        policy = make_task_policy(task)  # a wrong option is an error before anything is started
        async with AsyncExitStack() as stack:
            stack.callback(self._log.close)
            loop.set_exception_handler(self._log.loop_error)
            arena = self._open_arena()
            stack.callback(arena.close)
            recorder = self._open_journals()
            stack.callback(self._close_journals, recorder)
            planner = PlannerProcess(task)
            control: list[ControlDriver] = []

            def sink(event: BackendEvent) -> None:
                front_ends.before(event)
                control[0].on_backend(event)

            def free(request: Request) -> None:
                if request.id.front_end:
                    front_ends.free(request)
                else:
                    tensors.free(request.tensors, arena)

            def release(command: ReleaseOutputs) -> None:
                front_ends.release(command)

            backend = self._make_backend(arena, sink, loop)
            stack.push_async_callback(backend.close)
            stack.push_async_callback(planner.close)
            pump = self._pumps(loop, recorder)
            account = Account(self._services, clock=time.monotonic)
            machines = {name: self._machine(service) for name, service in self._services.items()}
            drivers = {
                name: self._service_driver(
                    name,
                    pump(machine_name(name), machine),
                    backend,
                    account,
                    control,
                    free=free,
                    release=release,
                )
                for name, machine in machines.items()
            }
            control.append(
                ControlDriver(
                    pump(CONTROL, ControlMachine(self._services, policy, window_s=self._settings.window_s)),
                    backend,
                    drivers,
                    planner=planner,
                    watch=account,
                    on_decision=self._log_decision,
                )
            )
            served = {
                name: replace(deployed.served, outputs=deployed.outputs)
                for name, deployed in self._deployment.services.items()
            }
            repository = self._repository(
                machines,
                drivers,
                control[0],
                lambda: front_ends.show(),  # noqa: PLW0108 - they do not exist yet
            )
            intake = LiveIntake(
                arena, served, machines, drivers, backend, time.monotonic, repository, account.statistics
            )
            front_ends = FrontEnds(
                intake, backend, backend.release, on_status=account.on_status, log=self._log
            )
            account.front_ends = front_ends.status
            listening = Listening(self._settings, intake, front_ends, account, self._log, self._say)
            stack.push_async_callback(listening.stop)
            stack.callback(repository.stop)
            return await self._serve(intake, backend, drivers, control[0], listening)

    async def _serve(
        self,
        intake: LiveIntake,
        backend: Backend,
        drivers: Mapping[str, ServiceDriver],
        control: ControlDriver,
        listening: Listening,
    ) -> int:
        """From the first decision to the last answer."""
        control.handle(backend.node())  # replicas start while front ends do
        ticking = asyncio.create_task(self._tick(control))
        try:
            await listening.start()
            # What exists now lives until the end. A full collection would walk all of it, for 35 ms in which
            # nobody is answered.
            gc.collect()
            gc.freeze()
            await self._announce(intake, backend)
            await self._stop.wait()
            intake.is_open = False
            listening.stop_accepting()
            return await self._drain(drivers)
        finally:
            gc.unfreeze()
            ticking.cancel()
            control.stop()

    def _open_arena(self) -> Arena:
        try:
            return Arena("fe0", self._settings.arena_bytes)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SteelyardError(
                f"cannot set {self._settings.arena_bytes} bytes aside for requests: {reason}"
            ) from None

    def _make_backend(self, arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop) -> LocalBackend:
        stages = {
            (name, stage): deployed.stages[stage].specs
            for name, deployed in self._deployment.services.items()
            for stage in deployed.stages
        }
        items = {
            (name, stage): found
            for name, service in self._services.items()
            for stage, found in takers(service).items()
        }
        core_ids = usable_core_ids()[: self._deployment.cores]
        return LocalBackend(
            core_ids,
            stages,
            self._widths,
            arena,
            sink,
            loop=loop,
            limits=LocalLimits(
                lends=self._deployment.lends,
                needs_parts=need_parts(self._services.values(), len(core_ids)),
            ),
            takers=items,
            slo_s={name: service.slo_s for name, service in self._services.items()},
        )

    def _machine(self, service: Service) -> ServiceMachine:
        times = {stage.stage: service_times(stage) for stage in self._times if stage.service == service.name}
        return ServiceMachine(service, times)

    def _pumps(self, loop: asyncio.AbstractEventLoop, recorder: Recorder) -> Callable[..., MachinePump]:
        def call_at(at_s: float, function: Callable[[], None]) -> asyncio.TimerHandle:
            # The loop's clock is coarse and counts from elsewhere, so timers are set by their distance.
            return loop.call_later(max(0.0, at_s - time.monotonic()), function)

        return lambda name, machine: MachinePump(
            name,
            machine,
            clock=time.monotonic,
            call_at=call_at,
            record=recorder.record if recorder.wants(name) else None,
        )

    def _service_driver(
        self,
        name: str,
        pump: MachinePump,
        backend: Backend,
        account: Account,
        control: list[ControlDriver],
        *,
        free: Callable[[Request], None],
        release: Callable[[ReleaseOutputs], None],
    ) -> ServiceDriver:
        def report(event: WindowReported) -> None:
            account.on_window(event.window)
            control[0].handle(event)

        deployed = self._deployment.services[name]
        gives = {stage: known.signature for stage, known in deployed.stages.items()}
        return ServiceDriver(
            pump,
            backend,
            wirings=wirings(self._services[name], deployed.served.signature, gives),
            free=free,
            report=report,
            on_end=account.on_end,
            on_drained=self._drained[name].set,
            on_batch=partial(account.on_batch, name),
            release=release,
        )

    def _repository(
        self,
        machines: Mapping[str, ServiceMachine],
        drivers: Mapping[str, ServiceDriver],
        control: ControlDriver,
        on_change: Callable[[], None],
    ) -> LiveRepository:
        def switch(name: str) -> Switch:
            return Switch(
                drain=lambda: drivers[name].handle(ServiceDraining()),
                resume=lambda: drivers[name].handle(ServiceResumed()),
                drained=self._drained[name],
                give_up=lambda: control.handle(ServiceUnloaded(name)),
                plan=lambda: control.handle(ServiceLoaded(name)),
                is_ready=lambda: machines[name].is_ready,
            )

        switches = ((name, switch(name)) for name in self._services)
        return LiveRepository(switches, wait_s_max=self._settings.drain_s_max, on_change=on_change)

    def _open_journals(self) -> Recorder:
        times: dict[str, dict[str, Any]] = {}
        for stage in self._times:
            times.setdefault(stage.service, {})[stage.stage] = msgspec.to_builtins(stage)
        header = Header(
            version=VERSION,
            services=self._services,
            service_times=times,
            policy=self._deployment.policy,
            policy_options=self._deployment.policy_options,
            window_s=self._settings.window_s,
            software=f"steelyard {__version__}",
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        journal, decisions = self._settings.journal, self._settings.decisions
        make = partial(JournalFile, header=header, on_failure=self._log_journal_end)
        return Recorder(
            make(journal) if journal else None,
            make(decisions, bytes_max=DECISIONS_BYTES_MAX) if decisions else None,
        )

    async def _tick(self, control: ControlDriver) -> None:
        next_s = time.monotonic()
        while True:
            next_s = max(
                next_s + self._settings.window_s, time.monotonic()
            )  # a late window is not made up for
            await asyncio.sleep(next_s - time.monotonic())
            # In a turn of its own: the loop logs an exception in it, and the next window comes all the same.
            asyncio.get_running_loop().call_soon(control.close_window)

    async def _announce(self, intake: LiveIntake, backend: Backend) -> None:
        self._say(f"cores: {len(backend.node().core_ids)}; {backend.mechanism}")
        self._log.event(
            "started", version=__version__, policy=self._deployment.policy, mechanism=backend.mechanism
        )
        waiting = set(self._services)
        while waiting and not self._stop.is_set():
            for name in [name for name in waiting if intake.is_ready(name)]:
                waiting.remove(name)
                self._say(f"ready: {name} (SLO {self._services[name].slo_s * 1000:g} ms)")
                self._log.event("ready", service=name)
            if waiting:
                await asyncio.sleep(0.02)

    async def _drain(self, drivers: Mapping[str, ServiceDriver]) -> int:
        self._say("stopping: answering what was admitted")
        for driver in drivers.values():
            driver.handle(ServiceDraining())
        try:
            async with asyncio.timeout(self._settings.drain_s_max):
                await asyncio.gather(*(drained.wait() for drained in self._drained.values()))
        except TimeoutError:
            self._log.event("drain_timeout", level="error", seconds=self._settings.drain_s_max)
            return 1
        return 0

    def _close_journals(self, recorder: Recorder) -> None:
        recorder.close()
        self._log.event("stopped", journal_dropped=recorder.dropped)

    def _log_decision(self, command: RecordDecision) -> None:
        self._log.event("decision", kind=command.kind, policy=command.policy, reason=command.reason)

    def _log_journal_end(self, text: str) -> None:
        self._log.event("journal_failed", level="error", text=text)
