"""Values that every layer shares: requests, tensors by reference, and what a service consists of.

The rule of this file: values are frozen, plain and serialisable. They are `msgspec.Struct`s, so the journal,
the links between processes and the tests all speak one codec (`docs/adr/0002`). No bytes of a tensor ever
appear here: a `Tensor` says where its bytes lie, and the core decides without looking at them.

Units are suffixes: `_s` seconds (monotonic clock), `_rps` a second; `rows` counts leading-dimension rows.
"""

from collections.abc import Collection
from typing import Literal, NamedTuple, Protocol

import msgspec


class Frozen(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Base of every value: immutable, compared by content, not tracked by the garbage collector."""


class RequestId(NamedTuple):
    """Identity of a request: which front end took it, and its number there."""

    front_end: int
    sequence: int


class TensorRef(NamedTuple):
    """Where a tensor's bytes lie: `length` bytes at `offset` of `arena`; a stale `generation` is refused."""

    arena: str
    offset: int
    length: int
    generation: int


class Tensor(NamedTuple):
    """A named tensor by reference; `dtype` is the Open Inference Protocol's word (`FP32`, `BYTES` ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    ref: TensorRef


class Request(Frozen, frozen=True):
    """One inference request as the edge stamped it.

    Attributes:
        id: front end and sequence number.
        service: the name that clients call.
        rows: leading dimension, >= 1; rates, batches and capacity count rows, violations count requests.
        batch_key: signature of names, dtypes and non-batch dimensions; only equal keys share a batch.
        arrived_s: when the edge had read the whole request.
        deadline_s: absolute; the earliest of the SLO's and the request's own bounds.
        bucket: index of the shape bucket whose service times apply (0 where a variant has no buckets).
        slo_class: name of the SLO class, empty for the service's own.
        min_accuracy: lower bound on the accuracy of the answer, in [0, 1].
        max_core_ms: upper bound on core-milliseconds spent on this request.
        tensors: the inputs, by reference.
        elapsed_s: seconds that had passed for its client when it arrived; the deadline has them taken off.
    """

    id: RequestId
    service: str
    rows: int
    batch_key: str
    arrived_s: float
    deadline_s: float
    bucket: int = 0
    slo_class: str = ""
    min_accuracy: float | None = None
    max_core_ms: float | None = None
    tensors: tuple[Tensor, ...] = ()
    elapsed_s: float = 0.0


class Variant(Frozen, frozen=True):
    """One loadable answerer of a stage.

    Attributes:
        name: unique in its model.
        accuracy: in [0, 1]; None where nobody has measured or declared it.
        batch_rows_max: rows in one batch, >= 1; 1 for a model without a dynamic leading axis.
        cores_max: most cores one replica can use, >= 1.
        cold_start_s: seconds from `StartReplica` to `ReplicaReady`, as profiled.
        resize_s: seconds from `ResizeReplica` to cores in force, as profiled.
        load_s: seconds from `LoadVariant` to `VariantLoaded` in a live replica; None: as a cold start.
        memory_bytes: of one replica that has it resident; 0 where nobody has said.
        device: what it runs on: `cpu`, or a kind of device that a node offers, of which a replica takes one.
    """

    name: str
    accuracy: float | None = None
    batch_rows_max: int = 1
    cores_max: int = 1
    cold_start_s: float = 0.5
    resize_s: float = 0.001
    load_s: float | None = None
    memory_bytes: int = 0
    device: str = "cpu"


class Input(NamedTuple):
    """An input of a stage: what it is called there, and the `tensor` of `stage` (empty: of the request)."""

    name: str
    stage: str
    tensor: str


Comparison = Literal["<", "<=", "==", "!=", ">=", ">"]


class Condition(NamedTuple):
    """Which rows or items of `stage` go on: those whose `tensor` compares so with `value`."""

    stage: str
    tensor: str
    comparison: Comparison
    value: float


class Items(Frozen, frozen=True):
    """How many items a row of the stage before has: to plan and to simulate without traffic.

    Attributes:
        mean: by variant of the stage that makes them; "" for every other one.
        distribution: of the count, with that mean.
    """

    mean: dict[str, float]
    distribution: Literal["fixed", "poisson", "geometric"] = "poisson"


class Stage(Frozen, frozen=True):
    """One stage of a service's pipeline: a model with its variants, in the order of the spec.

    A stage's rows are the rows of the request, or the *items* that the stage `items_of` makes of each of its
    own rows. How many there are is known when a batch of that stage is done (`BatchCompleted.items`).

    Attributes:
        name: unique in its service.
        variants: those that can answer it.
        after: the stages whose results it needs, all of them; empty: it takes the request's own inputs.
        fan_out: rows it is given for each row of the request: as planned where it takes items, else exactly
            (a whole number then).
        items_of: the stage whose items are its rows; empty: the request's rows are.
        each: the output of that stage which has one element an item; empty where a condition alone selects.
        when: which items are taken; None: all.
        items: how many there are, where it takes items.
        inputs: where each input comes from; empty: the request's own, under their own names.
    """

    name: str
    variants: tuple[Variant, ...]
    after: tuple[str, ...] = ()
    fan_out: float = 1
    items_of: str = ""
    each: str = ""
    when: Condition | None = None
    items: Items | None = None
    inputs: tuple[Input, ...] = ()


class PathAccuracy(NamedTuple):
    """Accuracy measured end to end for one choice of variants, by stage; stages left out do not matter."""

    variants: dict[str, str]
    accuracy: float


class Objective(Frozen, frozen=True):
    """What a policy that can choose variants aims at, within the SLO; at most one of the first two is given.

    Attributes:
        accuracy_floor: least mean accuracy: then as few cores as possible.
        cost_max_cores: most cores: then as accurate as possible. With neither and no weights: as accurate as
            the service's cores allow.
        weights: of accuracy (+, in [0, 1]), cores (-, each) and switches (-, each replica that changes its
            variant), added up.
    """

    accuracy_floor: float | None = None
    cost_max_cores: float | None = None
    weights: tuple[float, float, float] | None = None


class SloClass(Frozen, frozen=True):
    """A class of requests: its own latency bound, and its share of the cores when they are short."""

    slo_s: float
    weight: float = 1.0


class Service(Frozen, frozen=True):
    """What a service promises and consists of; constant while it runs.

    Attributes:
        name: the model name that clients call.
        slo_s: latency bound, seconds > 0.
        quantile: share of requests that must meet it, in (0, 1).
        stages: in topological order.
        request_rows_max: rows a single request may have; more is refused by the edge.
        queue_rows_max: rows that may wait in one stage; more is rejected.
        reply_s: seconds from a batch's end to the client's last byte, subtracted from every deadline.
        retries_max: how often a request is tried again after the loss of its worker.
        cores_min: least cores of the service, all replicas together.
        cores_max: most cores of the service; None: the cluster's.
        weight: share of the cluster's cores when they are short.
        answers: the stages whose outputs make the answer; empty: the last one.
        path_accuracies: measured accuracies of combinations of variants; where none fits, the product of the
            stages' accuracies is an estimate, and called so.
        objective: what to do about accuracy; None: as accurate as the cores allow.
        classes: by name, as a request's `slo_class` names them.
    """

    name: str
    slo_s: float
    stages: tuple[Stage, ...]
    quantile: float = 0.99
    request_rows_max: int = 256
    queue_rows_max: int = 4096
    reply_s: float = 0.001
    retries_max: int = 2
    cores_min: float = 1.0
    cores_max: float | None = None
    weight: float = 1.0
    answers: tuple[str, ...] = ()
    path_accuracies: tuple[PathAccuracy, ...] = ()
    objective: Objective | None = None
    classes: dict[str, SloClass] = {}


def need_parts(services: Collection[Service], cores: float) -> bool:
    """Whether a stage must do with a part of a core: stages are more than the cores that they may have."""
    limits = [(service.cores_max, len(service.stages)) for service in services]
    return sum(stages for _, stages in limits) > cores or any(
        most is not None and most < stages for most, stages in limits
    )


class ServiceTimes(Protocol):
    """Measured service times of one stage's variants; see `steelyard.profile` for the implementation.

    Both methods are called on the request path: they must be pure, deterministic and cheap (memoised).
    `cores` may be fractional; `rows` and `cores` beyond what was measured are extrapolated.
    """

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Median seconds to run one batch of `rows` rows on `cores` cores."""
        ...

    def service_time_s_p99(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """0.99 quantile of the same."""
        ...
