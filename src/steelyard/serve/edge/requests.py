"""From a checked inference to a request of the server's: its tensors move into the arena here."""

from steelyard.core.types import Request, RequestId, Tensor
from steelyard.serve.edge.codec import Inference
from steelyard.serve.edge.inputs import store
from steelyard.serve.edge.replies import RETRY_AFTER_S, RefusedError
from steelyard.worker.arena import Arena, slots_bytes


def stored_request(
    service: str, asked: Inference, request_id: RequestId, arrived_s: float, arena: Arena
) -> Request:
    """The request that an inference stands for, ready to be submitted.

    Args:
        service: its name.
        asked: what was asked of it.
        request_id: unique among those of the front end.
        arrived_s: when it arrived, on the clock that deadlines are on.
        arena: the front end's own.

    Raises:
        InputError: shared memory could not be read; nothing is kept.
        RefusedError: the arena is full, or could never hold it; nothing is kept.
    """
    return made_request(service, asked, request_id, arrived_s, stored_tensors(asked, arena))


def stored_tensors(
    asked: Inference, arena: Arena, tensors_bytes: memoryview | None = None
) -> tuple[Tensor, ...]:
    """The tensors of an inference, in the arena; see `store`.

    Raises:
        InputError: shared memory could not be read; nothing is kept.
        RefusedError: the arena is full, or could never hold them; nothing is kept.
    """
    tensors = store(asked.inputs, arena, tensors_bytes)
    if tensors is None:
        needed_bytes = slots_bytes(given.length for given in asked.inputs)
        if needed_bytes > arena.bytes_max:  # another moment would not do
            raise RefusedError(
                413,
                f"the request's tensors take {needed_bytes} bytes of memory, each a power of two; the server "
                f"has {arena.bytes_max} for requests (option --arena)",
            )
        text = "the server's memory for requests is full"
        raise RefusedError(503, text, reason="memory_full", retry_after_s=RETRY_AFTER_S)
    return tensors


def made_request(
    service: str, asked: Inference, request_id: RequestId, arrived_s: float, tensors: tuple[Tensor, ...]
) -> Request:
    """The request that an inference stands for, its tensors being stored."""
    return Request(
        id=request_id,
        service=service,
        rows=asked.rows,
        batch_key=asked.batch_key,
        arrived_s=arrived_s,
        deadline_s=arrived_s + asked.bound_s,
        bucket=asked.bucket,
        slo_class=asked.slo_class,
        min_accuracy=asked.min_accuracy,
        max_core_ms=asked.max_core_ms,
        tensors=tensors,
        elapsed_s=asked.elapsed_s,
    )
