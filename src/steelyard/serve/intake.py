"""The server as its edges see it: services by name, one arena, one clock; see `serve.base.Intake`."""

import itertools
from collections.abc import Callable, Mapping

from steelyard.backend.base import Backend
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, RequestId
from steelyard.serve.base import OnEnd, ServedService
from steelyard.serve.repository import Repository
from steelyard.serve.service_driver import ServiceDriver
from steelyard.serve.statistics import ServiceStatistics
from steelyard.worker.arena import Arena


class LiveIntake:
    """Hands requests to the service drivers; implements `serve.base.Intake`."""

    def __init__(
        self,
        arena: Arena,
        services: Mapping[str, ServedService],
        machines: Mapping[str, ServiceMachine],
        drivers: Mapping[str, ServiceDriver],
        backend: Backend,
        clock: Callable[[], float],
        repository: Repository,
        statistics: Callable[[str], ServiceStatistics],
        *,
        front_end: int = 0,
    ) -> None:
        self.front_end = front_end
        self.arena = arena
        self.services = services
        self.repository = repository
        self.is_open = False
        """Whether the server listens wherever it was asked to, and is not stopping."""
        self._machines = machines
        self._drivers = drivers
        self.now_s = clock
        """The monotonic clock that deadlines are on."""
        self.read = backend.read
        """The bytes of an output."""
        self.statistics = statistics
        """What became of a service's requests so far."""
        self._sequence = itertools.count(1)

    def next_id(self) -> RequestId:
        """The next of this front end."""
        return RequestId(self.front_end, next(self._sequence))

    def is_ready(self, service: str) -> bool:
        """Whether each stage has a ready replica and the server is open: who hears so may use every port."""
        return self.is_open and self._machines[service].is_ready

    def submit(self, request: Request, on_end: OnEnd) -> None:
        """Hand a request to its service."""
        self._drivers[request.service].submit(request, on_end)

    def cancel(self, request_id: RequestId) -> None:
        """Tell every service: only one knows the request, and a client that leaves is rare."""
        for driver in self._drivers.values():
            driver.cancel(request_id)
