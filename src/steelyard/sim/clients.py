"""The simulated clients of one service: its trace, one request after the other.

Requests are made when they arrive, from chunks of the trace (`workload.arrivals`), so that memory holds only
those that are open. Their deadline is the earliest of the service's bound, their class's and their own.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, count, repeat

import numpy as np

from steelyard.core.errors import TraceError
from steelyard.core.events import RequestArrived
from steelyard.core.types import Request, RequestId, Service
from steelyard.sim.account import Account
from steelyard.workload.arrivals import Arrivals, Chunk
from steelyard.workload.trace import Mark

BATCH_KEY = "x"
"""All requests of a service may share batches: a trace says nothing of shapes."""

_request_id: Callable[[tuple[int, int]], RequestId] = partial(tuple.__new__, RequestId)
"""As `RequestId._make`, without a call of Python's for each of them."""


class Clients:
    """Makes the requests of one service.

    Args:
        service: whose.
        arrivals: its trace.
        classes: latency bound in seconds by SLO class.
        account: is told of the times in advance.
        front_end: first part of the requests' ids.

    Raises:
        TraceError: a mark names an unknown class, or more rows than a request may have.
    """

    def __init__(
        self,
        service: Service,
        arrivals: Arrivals,
        classes: Mapping[str, float],
        account: Account,
        *,
        front_end: int,
    ) -> None:
        self._service = service
        self._arrivals = arrivals
        self._account = account
        self._front_end = front_end
        self._budgets_s = np.array([budget_s(service, mark, classes) for mark in arrivals.marks])
        self._rows = np.array([mark.rows for mark in arrivals.marks])
        self._classes = np.array([mark.slo_class for mark in arrivals.marks], dtype=object)

    def requests(self, rng: np.random.Generator) -> Iterator[RequestArrived]:
        """All requests in the order of arrival."""
        return chain.from_iterable(map(self._of_chunk, self._arrivals.chunks(rng)))

    def _of_chunk(self, chunk: Chunk) -> Iterator[RequestArrived]:
        """Made one by one as they are asked for, by `map` alone: this is on the path of every request."""
        first = self._account.expect(chunk.times_s)
        deadlines_s = chunk.times_s + self._budgets_s[chunk.marks]
        requests = map(
            Request,
            map(_request_id, zip(repeat(self._front_end), count(first))),
            repeat(self._service.name),
            self._rows[chunk.marks].tolist(),
            repeat(BATCH_KEY),
            chunk.times_s.tolist(),
            deadlines_s.tolist(),
            repeat(0),
            self._classes[chunk.marks].tolist(),
        )
        return map(RequestArrived, requests)


def budget_s(service: Service, mark: Mark, classes: Mapping[str, float]) -> float:
    """Seconds from a request's arrival to its deadline: the earliest of its bounds.

    Raises:
        TraceError: the mark names an unknown class, or more rows than a request may have.
    """
    if not 1 <= mark.rows <= service.request_rows_max:
        raise TraceError(
            f"service {service.name}: want 1 to {service.request_rows_max} rows in a request, got {mark.rows}"
        )
    bounds_s = [service.slo_s]
    if mark.slo_class:
        if mark.slo_class not in classes:
            known = ", ".join(classes) or "none"
            raise TraceError(
                f"service {service.name}: unknown SLO class {mark.slo_class!r}; there are: {known}"
            )
        bounds_s = [classes[mark.slo_class]]
    if mark.latency_s is not None:
        bounds_s.append(mark.latency_s)
    return min(bounds_s)
