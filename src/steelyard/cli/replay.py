"""Traces as `--trace` names them, one for each service that has arrivals.

`SERVICE=FILE` is a service's own trace: its lines that name that service or none. `FILE` alone is for all:
lines that name a service are that service's; those that name none are the only service's. Each service's part
is scaled by itself: thinning the whole could leave nothing of one of them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from steelyard.cli.trace import open_trace, scaled
from steelyard.config.source import nearest
from steelyard.core.errors import TraceError
from steelyard.core.types import Service
from steelyard.sim.clients import budget_s
from steelyard.workload.trace import ArrivalTrace, CountTrace, Mark, Trace


def traces_of(
    arguments: Sequence[str],
    services: Mapping[str, Service],
    classes: Mapping[str, Mapping[str, float]],
    *,
    gaps: str = "silence",
    cut: str | None = None,
    scale: float = 1.0,
    on_notice: Callable[[str], None] = lambda _: None,
) -> dict[str, Trace]:
    """The trace of each service that one of the arguments is for.

    Args:
        arguments: of `--trace`.
        services: by name.
        classes: latency bound in seconds, by service and SLO class.
        gaps: see `open_trace`.
        cut: see `open_trace`.
        scale: factor on every count.
        on_notice: takes a line about seconds without data.

    Raises:
        TraceError: a file cannot be used, is for no service or for one twice, or a request in it is none that
            its service takes.
    """
    found: dict[str, Trace] = {}
    for argument in arguments:
        service, file = _named(argument, tuple(services))
        trace = open_trace(file, gaps=gaps, cut=cut)
        if trace.gaps:
            taken = "the last known count" if gaps == "hold" else "silence"
            seconds = f"{len(trace.gaps)} second{'' if len(trace.gaps) == 1 else 's'}"
            on_notice(f"{file}: {seconds} without data, taken as {taken} (--trace-gaps)")
        for name, part in _parts(trace, service, file, tuple(services)).items():
            if name in found:
                raise TraceError(f"--trace: two traces for service {name}; want one")
            _check_marks(part, services[name], classes.get(name, {}), file)
            found[name] = scaled(part, scale)
    return found


def _named(argument: str, services: tuple[str, ...]) -> tuple[str | None, Path]:
    """The service and the file of an argument; a file's own name may have an equals sign."""
    name, equals, file = argument.partition("=")
    if not equals or (name not in services and Path(argument).exists()):
        return None, Path(argument)
    if name not in services:
        raise TraceError(f"--trace: unknown service {name}{nearest(name, services)}")
    if not file:
        raise TraceError(f"--trace: want a file after {argument}")
    return name, Path(file)


def _parts(trace: Trace, service: str | None, file: Path, services: tuple[str, ...]) -> dict[str, Trace]:
    """The trace by service."""
    named = tuple(dict.fromkeys(mark.service for mark in _marks(trace)))
    if not named:  # a slice of exact times in which nobody arrives: as long as it says, all the same
        return dict.fromkeys([service] if service is not None else services, trace)
    if service is not None:
        part = _only(trace, ("", service))
        if part is None:
            raise TraceError(f"{file}: no arrivals for {service}; it has {', '.join(named)}")
        return {service: part}
    for name in named:
        if name and name not in services:
            raise TraceError(f"{file}: unknown service {name}{nearest(name, services)}")
    if "" in named and len(services) > 1:
        raise TraceError(
            f"--trace: {file} has arrivals of no service: want SERVICE={file}, one of {', '.join(services)}"
        )
    parts = {name or services[0]: _only(trace, ("", name)) for name in named}
    return {name: part for name, part in parts.items() if part is not None}


def _marks(trace: Trace) -> tuple[Mark, ...]:
    if isinstance(trace, CountTrace):
        return tuple(trace.by_mark)
    return tuple(dict.fromkeys(arrival.mark for arrival in trace.requests))


def _only(trace: Trace, services: tuple[str, ...]) -> Trace | None:
    """What a trace has for these services; as long as the whole."""
    if isinstance(trace, CountTrace):
        by_mark = {mark: counts for mark, counts in trace.by_mark.items() if mark.service in services}
        return CountTrace(by_mark, trace.gaps) if by_mark else None
    kept = tuple(arrival for arrival in trace.requests if arrival.mark.service in services)
    return ArrivalTrace(kept, trace.seconds, trace.gaps) if kept else None


def _check_marks(trace: Trace, service: Service, classes: Mapping[str, float], file: Path) -> None:
    """Every kind of request in the trace is one that the service takes."""
    for mark in _marks(trace):
        try:
            budget_s(service, mark, classes)
        except TraceError as error:
            raise TraceError(f"{file}: {error}") from None
