"""What each step of an inference costs the edge, in CPU microseconds: timed alone, in this process.

The steps are those of a request that comes in one piece and is like an earlier one; `new` ones are what it
costs to be unlike all of them. What a real server needs beyond their sum is the socket's and the loop's, and
the connection's own (edge.py).
"""

import time
import timeit
from collections.abc import Callable
from typing import Any

RUNS, REPEATS = 300, 5


def cpu_us(action: Callable[[], object]) -> float:
    """The least CPU time of several repetitions, a call."""
    taken_s = timeit.repeat(action, number=RUNS, repeat=REPEATS, timer=time.process_time)
    return min(taken_s) / RUNS * 1e6


def steps(app: Any, sent: bytes, ended: Callable[[Any], Any]) -> dict[str, float]:
    """Time the steps of one request.

    Args:
        app: our edge.
        sent: the request, as it comes from a socket.
        ended: what its end is, from its id.
    """
    from uvicorn.server import ServerState

    from steelyard.serve.edge.http_head import InferHead, InferHeads
    from steelyard.serve.edge.inputs import free
    from steelyard.serve.edge.reply_heads import ReplyHeads
    from steelyard.serve.edge.requests import made_request, stored_tensors

    inferences = app.inferences
    intake, arena = inferences.intake, inferences.intake.arena
    heads = InferHeads(inferences.routes, inferences.settings.body_bytes_max)
    end = sent.index(b"\r\n\r\n") + 4
    head, body = heads.find(sent[:end]), memoryview(sent)[end:]
    assert head is not None
    json_length = head.json_length
    assert json_length is not None
    layout, tensors_bytes = head.layout(body), body[json_length:]
    assert layout is not None
    tensors = stored_tensors(layout, arena, tensors_bytes)
    replies: list[Any] = []
    exchange = inferences.exchange(head.route, intake.next_id(), head.name, replies.append)
    exchange.asked = layout
    finished = ended(exchange.request_id)
    reply_heads = ReplyHeads(ServerState())

    def answer() -> None:
        replies.clear()
        exchange.on_end(finished)

    def begin() -> None:
        heads.find(sent[: sent.find(b"\r\n\r\n") + 4])
        inferences.exchange(head.route, intake.next_id(), head.name, replies.append)

    def new_head() -> None:
        InferHeads(inferences.routes, inferences.settings.body_bytes_max).find(sent[:end])

    def new_json() -> None:
        InferHead(head.route, {b"inference-header-content-length": b"%d" % json_length}, head.length).layout(
            body
        )

    answer()
    found = {
        "find the HTTP head": cpu_us(begin),
        "find the JSON": cpu_us(lambda: head.layout(body)),
        "store the tensors, and free them": cpu_us(
            lambda: free(stored_tensors(layout, arena, tensors_bytes), arena)
        ),
        "make the request": cpu_us(
            lambda: made_request("", layout, exchange.request_id, intake.now_s(), tensors)
        ),
        "encode the answer": cpu_us(answer),
        "write the answer's HTTP head": cpu_us(lambda: reply_heads.head(replies[0], ends=False)),
        "new HTTP head": cpu_us(new_head),
        "new JSON": cpu_us(new_json),
    }
    free(tensors, arena)
    return {step: round(us, 2) for step, us in found.items()}
