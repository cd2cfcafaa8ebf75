"""What becomes of an inference request, whichever way its bytes come: through ASGI or straight from a socket.

The rule of this file: whatever is wrong with a request is an `InputError` (400) or a `RefusedError`, and is
turned into an answer before the request is submitted; afterwards the server's `End` decides.
"""

from collections.abc import Callable

from steelyard.core.errors import InputError
from steelyard.core.types import Request, RequestId, Tensor, TensorRef
from steelyard.serve.base import Intake
from steelyard.serve.edge.body import Body
from steelyard.serve.edge.bounds import header_bounds
from steelyard.serve.edge.codec import Inference, Route, header_length
from steelyard.serve.edge.exchange import Exchange, OnReply
from steelyard.serve.edge.http_head import InferHead
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.pages import model_paths, unloaded
from steelyard.serve.edge.receive import BodyReader
from steelyard.serve.edge.replies import RefusedError
from steelyard.serve.edge.requests import made_request, stored_request, stored_tensors
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.edge.shared_memory import Regions

OnStatus = Callable[[str, int], None]


class Inferences:
    """Checks, stores and submits the inference requests of one edge.

    Args:
        intake: the server behind the edge.
        settings: limits and choices.
        log: where failed requests are logged; nowhere if None.
        on_status: told the service and status of each inference request at its end (for metrics).

    Attributes:
        overload_status: for rejected and shed requests.
        routes: by path, percent-decoded.
        bodies: the bodies being received.
        regions: the shared memory that clients have registered.
    """

    def __init__(
        self, intake: Intake, settings: EdgeSettings, log: EventLog | None, on_status: OnStatus | None
    ) -> None:
        self.intake = intake
        self.settings = settings
        self.overload_status: int = settings.overload_status
        self.bodies = BodyReader(settings)
        self.regions = Regions()
        self.routes: dict[str, Route] = {}
        for name, served in intake.services.items():
            route = Route(served)
            self.routes.update((f"{path}/infer", route) for path in model_paths(name))
        self._log = log
        self._on_status = on_status

    def exchange(self, route: Route, request_id: RequestId, name: str, on_reply: OnReply) -> Exchange:
        """A request whose body may yet have to come; see `Exchange`."""
        return Exchange(self, route, request_id, name, on_reply)

    def request(
        self,
        exchange: Exchange,
        arrived_s: float,
        body: Body,
        headers: dict[bytes, bytes],
        regions: Regions | None,
    ) -> Request:
        """Check and store a request that came through ASGI.

        Args:
            exchange: the request's; hears what was asked.
            arrived_s: when its last byte came.
            body: all of it, decompressed.
            headers: names in lower case.
            regions: shared memory; None: not for this client.

        Raises:
            InputError: it is not what the service takes.
            RefusedError: it is too large, or memory is full.
        """
        self._check_open(exchange.route)
        length = header_length(headers.get(b"inference-header-content-length"))
        self.check_json_size(body.left if length is None else length)
        asked = exchange.route.parse(body, length, header_bounds(headers), regions)
        exchange.asked = asked.without_inputs()
        return stored_request(exchange.route.name, asked, exchange.request_id, arrived_s, self.intake.arena)

    def direct_request(
        self, exchange: Exchange, head: InferHead, data: memoryview, is_local: bool
    ) -> Request:
        """Check and store a request whose whole body is `data`; as `request`.

        Args:
            exchange: the request's; hears what was asked.
            head: the request's.
            data: its body.
            is_local: its connection begins on this host, so its client may use shared memory.
        """
        arrived_s = self.intake.now_s()
        self._check_open(head.route)
        layout = head.layout(data)
        if layout is None:
            self.check_json_size(len(data) if head.json_length is None else head.json_length)
            body = Body((data,))
            may_share = not self.regions or (is_local and not head.is_forwarded)
            regions = self.regions if may_share else None
            asked = head.route.parse(body, head.json_length, head.bounds, regions)
            exchange.asked = asked.without_inputs()
            tensors = stored_tensors(asked, self.intake.arena)
        else:
            asked = exchange.asked = layout
            tensors = stored_tensors(asked, self.intake.arena, data[head.json_length :])
        return made_request(head.route.name, asked, exchange.request_id, arrived_s, tensors)

    def placed_request(self, exchange: Exchange, asked: Inference, tensors: tuple[Tensor, ...]) -> Request:
        """A request that was checked before its tensors came to where they are stored.

        Raises:
            RefusedError: the service was unloaded meanwhile.
        """
        self._check_open(exchange.route)
        exchange.asked = asked
        return made_request(exchange.route.name, asked, exchange.request_id, self.intake.now_s(), tensors)

    def check_json_size(self, size: int) -> None:
        """Refuse JSON that would keep the loop for too long.

        Raises:
            RefusedError: 413.
        """
        limit = self.settings.json_bytes_max
        if size > limit:
            text = f"the JSON has {size} bytes, the limit is {limit}: send large tensors as binary data"
            raise RefusedError(413, text)

    def _check_open(self, route: Route) -> None:
        if not self.intake.repository.is_open(route.name):
            raise unloaded(route.name)

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of an output."""
        return self.intake.read(ref)

    def closed(self, exchange: Exchange, status: int, text: str) -> None:
        """Count and log the end of an inference request."""
        if self._on_status is not None:
            self._on_status(exchange.route.name, status)
        if self._log is not None and (status != 200 or self.settings.log_requests):
            self._log.request(status, request_id=exchange.name, service=exchange.route.name, text=text)


def refused(error: InputError | RefusedError) -> RefusedError:
    """What is wrong with a request, as the refusal that its client gets."""
    return error if isinstance(error, RefusedError) else RefusedError(400, str(error))
