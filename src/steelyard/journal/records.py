"""What a journal consists of: one header, then one record for each event that a machine was told."""

from typing import Any

import msgspec

from steelyard.core.commands import Command
from steelyard.core.events import Event
from steelyard.core.plan import ServicePlan
from steelyard.core.types import Frozen, Service

VERSION = 1
"""Grows with each change that older readers would misread."""

CONTROL = "control"
"""Name of the control machine in records."""


def machine_name(service: str) -> str:
    """Name of a service's machine in records."""
    return f"service/{service}"


class Header(Frozen, frozen=True, tag="header"):
    """What it takes to build the machines again.

    Attributes:
        version: of the format.
        services: by name.
        plans: the plan each service's machine was built with, by service; a missing one had none.
        service_times: by service and stage, as plain JSON values; whoever writes and replays agrees on them.
        policy: the policy's name, empty for a journal without a control machine.
        policy_options: the policy's own.
        window_s: the sensing window.
        software: name and version of the writer.
        started_at: wall-clock time of the start, ISO 8601; the rest of the journal is monotonic seconds.
    """

    version: int
    services: dict[str, Service]
    plans: dict[str, ServicePlan] = msgspec.field(default_factory=dict)
    service_times: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    policy: str = ""
    policy_options: dict[str, Any] = msgspec.field(default_factory=dict)
    window_s: float = 0.1
    software: str = ""
    started_at: str = ""


class Record(Frozen, frozen=True, tag="record"):
    """One call of a machine's `handle`.

    Attributes:
        machine: `service/<name>` or `control`.
        sequence: number of the call of this machine, from 0 on; a gap means that records were dropped.
        now_s: as handed to the machine.
        event: what it was told.
        commands: what it answered, in order.
    """

    machine: str
    sequence: int
    now_s: float
    event: Event
    commands: tuple[Command, ...]
