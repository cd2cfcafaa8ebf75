"""What the edges (HTTP now, gRPC later) need from the server behind them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from steelyard.core.commands import Complete, Discard, Fail, Reject, Shed
from steelyard.core.types import Frozen, Request, RequestId, Service, TensorRef
from steelyard.profile.types import DeclaredLatency
from steelyard.runtime.base import Signature, VariantSpec
from steelyard.serve.repository import Repository
from steelyard.serve.statistics import ServiceStatistics
from steelyard.worker.arena import Arena

End = Complete | Reject | Shed | Fail | Discard
OnEnd = Callable[[End], None]


class ServedService(Frozen, frozen=True):
    """A service as its clients see it.

    Attributes:
        service: limits, SLO, name.
        signature: inputs and outputs.
        buckets: for input name -> (dimension, ascending sizes); the first size that fits is the shape bucket.
        classes: latency bound in seconds by SLO class, as a request's `slo_class` names it.
        outputs: for the name of an output in `signature` -> (stage that makes it, its name there); empty: the
            outputs of the last stage, under their own names.
    """

    service: Service
    signature: Signature
    buckets: dict[str, tuple[int, tuple[int, ...]]] = {}
    classes: dict[str, float] = {}
    outputs: dict[str, tuple[str, str]] = {}


class DeployedStage(Frozen, frozen=True):
    """What it takes to make a stage's replicas.

    Attributes:
        model: its name in the spec file; the stage's, of Python glue.
        specs: of its variants, in the spec file's order.
        signature: that the variants share; without inputs and outputs where a Python class states none.
        declared: latencies by variant that the spec states.
        assumed: by variant, where nobody has stated or can measure any: for Python glue without a signature.
        buckets: as those of `ServedService`, by the model's own inputs.
        bucket: the one whose times count, whatever a request's is; None: the request's.
    """

    model: str
    specs: tuple[VariantSpec, ...]
    signature: Signature
    declared: dict[str, DeclaredLatency] = {}
    assumed: dict[str, DeclaredLatency] = {}
    buckets: dict[str, tuple[int, tuple[int, ...]]] = {}
    bucket: int | None = None


class DeployedService(Frozen, frozen=True):
    """A service ready to be served.

    Attributes:
        served: limits and SLO, and what its clients see.
        stages: in topological order.
        outputs: where what clients get comes from, (stage, tensor) by the client's name for it; empty: all
            outputs of the last stage, under their own names.
    """

    served: ServedService
    stages: dict[str, DeployedStage]
    outputs: dict[str, tuple[str, str]] = {}


class Deployment(Frozen, frozen=True):
    """A spec file, checked and resolved: every path exists, every model loads, every name is known.

    Attributes:
        services: by name.
        policy: a registered policy's name, with `+ours` for the shared data plane.
        policy_options: the policy's own.
        cores: how many of the process's cores may be used; None: all of affinity and quota.
        lends: replicas that share a core may use what the others leave of it.
        source: the spec file's path, for messages.
    """

    services: dict[str, DeployedService]
    policy: str = "steelyard"
    policy_options: dict[str, Any] = {}
    cores: int | None = None
    lends: bool = True
    source: str = ""


class Intake(Protocol):
    """The server as an edge sees it; every call is made on the serving loop."""

    front_end: int
    arena: Arena
    services: Mapping[str, ServedService]
    repository: Repository

    def now_s(self) -> float:
        """The monotonic clock that deadlines are on."""
        ...

    def next_id(self) -> RequestId:
        """An id that no request has had: edges of one process share the front end."""
        ...

    def is_ready(self, service: str) -> bool:
        """Whether each stage of the service has a ready replica, and the server is not stopping."""
        ...

    def statistics(self, service: str) -> ServiceStatistics | Awaitable[ServiceStatistics]:
        """What became of the service's requests so far; to look at."""
        ...

    def submit(self, request: Request, on_end: OnEnd) -> None:
        """Hand a request over. `on_end` is called exactly once, perhaps before this returns.

        Outputs named in `Complete.answers` may be read (see `read`) during `on_end` only: copy them there.
        The request's tensors in `arena` are freed by the server, not by the edge.
        """
        ...

    def cancel(self, request_id: RequestId) -> None:
        """The client has gone. `on_end` is called with `Discard` unless the request has ended already."""
        ...

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of an output."""
        ...
