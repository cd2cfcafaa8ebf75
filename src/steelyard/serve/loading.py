"""Loading and unloading services while the server runs; implements `serve.repository.Repository`.

The rules of this file:
- Unloading drains: the service takes no further request, answers those it admitted, and only then gives its
  replicas up. Loading is the way back: the policy plans for the service again, as at the server's start, and
  requests are taken when it is ready.
- One change of a service at a time; who asks for another waits for it, except that unloading ends a loading:
  nothing has been admitted yet, and it may be one that never gets ready. A change goes on if whoever asked
  for it leaves, or waits no longer: it is the server's then, not the client's.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable

from steelyard.serve.repository import RepositoryEntry, RepositoryError

POLL_S = 0.02


class Switch:
    """What it takes to load and unload one service.

    Args:
        drain: make it take no further request.
        resume: make it take requests again.
        drained: set when a draining service has answered its last request.
        give_up: let the control plane end its replicas and plan without it.
        plan: let the control plane plan with it again.
        is_ready: whether every stage has a ready replica.
    """

    def __init__(
        self,
        *,
        drain: Callable[[], None],
        resume: Callable[[], None],
        drained: asyncio.Event,
        give_up: Callable[[], None],
        plan: Callable[[], None],
        is_ready: Callable[[], bool],
    ) -> None:
        self._drain = drain
        self._resume = resume
        self._drained = drained
        self._give_up = give_up
        self._plan = plan
        self.is_ready = is_ready

    async def unload(self) -> None:
        """Drain, then give up the replicas."""
        self._drain()
        await self._drained.wait()
        self._give_up()

    async def load(self) -> None:
        """Plan again, and admit again when it is ready."""
        self._plan()
        while not self.is_ready():
            await asyncio.sleep(POLL_S)
        self._drained.clear()
        self._resume()


class LiveRepository:
    """The services of one server; see `serve.repository.Repository`.

    Args:
        switches: by service.
        wait_s_max: how long a call waits for its change.
        on_change: told that a service's state is not what it was, before whoever asked for it is.
    """

    def __init__(
        self,
        switches: Iterable[tuple[str, Switch]],
        *,
        wait_s_max: float,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._switches = dict(switches)
        self._wait_s_max = wait_s_max
        self._on_change = on_change
        self._loaded = set(self._switches)  # or to be
        self._open = set(self._switches)
        self._changes: dict[str, asyncio.Task[None]] = {}

    def index(self) -> list[RepositoryEntry]:
        """Every service."""
        return [self._entry(name) for name in self._switches]

    def is_open(self, service: str) -> bool:
        """Whether the service takes requests."""
        return service in self._open

    async def load(self, service: str) -> None:
        """Serve it again; see `Repository.load`."""
        if service not in self._loaded:
            await self._turn(service)
        if service not in self._loaded:
            self._loaded.add(service)
            self._change(service, self._load(service))
        loading = await self._end_of_change(service, "is still loading", self._wait_s_max)
        if loading is not None and loading.cancelled():
            raise RepositoryError(f"service '{service}' was unloaded before it was ready")
        _refuse_failed(service, "loaded", loading)

    async def unload(self, service: str) -> None:
        """Answer what was admitted and end its replicas; see `Repository.unload`."""
        await self._turn(service, ends_loading=True)
        if service in self._loaded:
            if service not in self._open:
                self._changes[service].cancel()
            self._loaded.discard(service)
            self._open.discard(service)
            self._change(service, self._switches[service].unload())
        unloading = await self._end_of_change(service, "still has requests to answer", self._wait_s_max)
        _refuse_failed(service, "unloaded", unloading)

    def stop(self) -> None:
        """Begin and finish nothing more."""
        for task in self._changes.values():
            task.cancel()

    async def _load(self, service: str) -> None:
        try:
            await self._switches[service].load()
        except Exception:
            self._loaded.discard(service)  # it may be tried again
            raise
        self._open.add(service)

    def _entry(self, name: str) -> RepositoryEntry:
        if name in self._loaded:
            ready = name in self._open and self._switches[name].is_ready()
            return RepositoryEntry(name, "READY" if ready else "LOADING", "" if ready else "no ready replica")
        return RepositoryEntry(name, "UNLOADING" if self._is_changing(name) else "UNAVAILABLE", "unloaded")

    def _change(self, service: str, steps: Coroutine[object, object, None]) -> None:
        task = self._changes[service] = asyncio.get_running_loop().create_task(steps)
        task.add_done_callback(lambda _: self._on_change())
        self._on_change()

    def _is_changing(self, service: str) -> bool:
        task = self._changes.get(service)
        return task is not None and not task.done()

    async def _turn(self, service: str, *, ends_loading: bool = False) -> None:
        """Wait until no change is under way: of those who wait for one to end, the first begins the next.

        Args:
            service: whose changes.
            ends_loading: a loading that is under way need not end by itself.

        Raises:
            RepositoryError: it takes too long.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._wait_s_max
        while self._is_changing(service) and not (ends_loading and service in self._loaded):
            await self._end_of_change(service, "is changing", give_up_s - loop.time())

    async def _end_of_change(self, service: str, otherwise: str, wait_s: float) -> asyncio.Task[None] | None:
        """Wait for the change under way, if there is one, and return it.

        Raises:
            RepositoryError: it takes longer.
        """
        if not self._is_changing(service):
            return None
        change = self._changes[service]
        done, _ = await asyncio.wait([change], timeout=wait_s)
        if not done:
            raise RepositoryError(f"service '{service}' {otherwise} after {self._wait_s_max:g} s")
        return change


def _refuse_failed(service: str, what: str, change: asyncio.Task[None] | None) -> None:
    """Tell who asked for a change of a bug that ended it.

    Raises:
        RepositoryError: one did.
    """
    if change is not None and not change.cancelled() and (error := change.exception()) is not None:
        raise RepositoryError(f"service '{service}' could not be {what}: {error!r}") from error
