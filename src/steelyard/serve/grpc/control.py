"""Every call of the protocol but inference: the HTTP edge's pages, asked and answered in messages.

The rule of this file: nothing is decided here. A request becomes the path and the JSON body that HTTP would
have, and the page's JSON becomes the answer, so both encodings say the same, errors included. Fields that a
message does not have are left out. A name in a message is never more than a name: one that would lead to
another page, such as `digits/config`, is an unknown model's.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from google.protobuf import json_format

from steelyard.core.errors import InputError
from steelyard.serve.base import Intake
from steelyard.serve.edge.control_pages import (
    REGION_PATH,
    REPOSITORY_PATH,
    TRACE,
    find_control_page,
    make_control_pages,
)
from steelyard.serve.edge.pages import Call, make_pages, missing_page, unknown_model
from steelyard.serve.edge.replies import RefusedError, Reply
from steelyard.serve.edge.shared_memory import Regions
from steelyard.serve.grpc.refusals import refused

Fields = dict[str, Any]
READY = frozenset((200, 503))
"""Statuses that tell whether something is ready; others tell that it is not there."""


class ControlCalls:
    """The pages behind the control calls.

    Args:
        intake: the server behind the edge.
        regions: those that clients of this edge register.
    """

    def __init__(self, intake: Intake, regions: Regions) -> None:
        self._intake = intake
        self._regions = regions
        self._pages = make_control_pages(intake, regions) | make_pages(intake)

    async def call(self, method: str, request: Any, response: Any, *, local: bool) -> Any:
        """Answer one call.

        Args:
            method: its name.
            request: its message.
            response: the class of its answer.
            local: the client is on this host.

        Raises:
            RefusedError: it is refused.
        """
        fields = await CALLS[method](Pages(self, local), request)
        return json_format.ParseDict(fields, response(), ignore_unknown_fields=True)

    def check_model(self, name: str) -> None:
        """Raises RefusedError if there is no such service."""
        if name not in self._intake.services:
            raise refused(unknown_model(name, self._intake.services))

    async def page(self, verb: str, path: str, body: bytes, *, local: bool) -> Reply:
        """What the page at a path answers, a refusal as such."""
        verbs = self._pages.get(path) or find_control_page(path, self._intake, self._regions)
        if verbs is None:
            return missing_page(path, self._intake.services)
        try:
            answer = verbs[verb](Call(body, local))
            return answer if isinstance(answer, Reply) else await answer
        except RefusedError as error:
            return error.reply()
        except InputError as error:
            return RefusedError(400, str(error)).reply()

    def is_ready(self, service: str) -> bool | None:
        """Whether a service is ready, or with an empty name all that are loaded; None: there is no such."""
        if not service:
            return all(map(self.is_ready, filter(self._intake.repository.is_open, self._intake.services)))
        if service not in self._intake.services:
            return None
        return self._intake.repository.is_open(service) and self._intake.is_ready(service)


class Pages:
    """The pages as one client sees them."""

    def __init__(self, calls: ControlCalls, local: bool) -> None:
        self._calls = calls
        self._local = local

    async def get(self, path: str, statuses: frozenset[int] = frozenset((200,))) -> Any:
        """The JSON of a page. Raises RefusedError unless its status is one of those."""
        return self._decoded(await self._calls.page("GET", path, b"", local=self._local), statuses)

    def of_model(self, name: str, version: str, what: str = "") -> str:
        """The path of a model's page. Raises RefusedError if there is no such model."""
        self._calls.check_model(name)
        of_version = f"/versions/{quote(version, safe='')}" if version else ""
        return f"/v2/models/{name}{of_version}{what}"

    def repository(self, name: str, action: str) -> str:
        """The path at which a model is loaded or unloaded. Raises RefusedError if there is no such model."""
        self._calls.check_model(name)
        return f"{REPOSITORY_PATH}{name}/{action}"

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a page answers to a body. Raises RefusedError unless its status is 200."""
        reply = await self._calls.page("POST", path, msgspec.json.encode(body), local=self._local)
        return self._decoded(reply, frozenset((200,)))

    def _decoded(self, reply: Reply, statuses: frozenset[int]) -> Any:
        if reply.status not in statuses:
            raise refused(reply)
        return msgspec.json.decode(reply.body or b"{}")


async def _server_live(pages: Pages, _: Any) -> Fields:
    return {"live": (await pages.get("/v2/health/live"))["live"]}


async def _server_ready(pages: Pages, _: Any) -> Fields:
    return {"ready": (await pages.get("/v2/health/ready", READY))["ready"]}


async def _model_ready(pages: Pages, asked: Any) -> Fields:
    found = await pages.get(pages.of_model(asked.name, asked.version, "/ready"), READY)
    return {"ready": found["ready"]}


async def _server_metadata(pages: Pages, _: Any) -> Fields:
    return dict(await pages.get("/v2"))


async def _model_metadata(pages: Pages, asked: Any) -> Fields:
    return dict(await pages.get(pages.of_model(asked.name, asked.version)))


async def _model_config(pages: Pages, asked: Any) -> Fields:
    return {"config": await pages.get(pages.of_model(asked.name, asked.version, "/config"))}


async def _model_statistics(pages: Pages, asked: Any) -> Fields:
    path = pages.of_model(asked.name, asked.version, "/stats") if asked.name else "/v2/models/stats"
    return dict(await pages.get(path))


async def _repository_index(pages: Pages, asked: Any) -> Fields:
    return {"models": await pages.post("/v2/repository/index", {"ready": asked.ready})}


async def _model_load(pages: Pages, asked: Any) -> Fields:
    # That there are parameters is what counts: models come from the spec file.
    parameters = dict.fromkeys(asked.parameters, "")
    await pages.post(pages.repository(asked.model_name, "load"), {"parameters": parameters})
    return {}


async def _model_unload(pages: Pages, asked: Any) -> Fields:
    await pages.post(pages.repository(asked.model_name, "unload"), {})
    return {}


async def _region_status(pages: Pages, asked: Any) -> Fields:
    path = f"{REGION_PATH}{asked.name}/status" if asked.name else "/v2/systemsharedmemory/status"
    return {"regions": {one["name"]: one for one in await pages.get(path)}}


async def _register_region(pages: Pages, asked: Any) -> Fields:
    if not asked.name:
        raise RefusedError(400, "a shared memory region needs a name")
    body = {"key": asked.key, "offset": asked.offset, "byte_size": asked.byte_size}
    await pages.post(f"{REGION_PATH}{asked.name}/register", body)
    return {}


async def _unregister_region(pages: Pages, asked: Any) -> Fields:
    path = f"{REGION_PATH}{asked.name}/unregister" if asked.name else "/v2/systemsharedmemory/unregister"
    await pages.post(path, {})
    return {}


async def _cuda_of_all(_: Pages, asked: Any) -> Fields:
    """There are no regions; clients that begin with forgetting all of them are right already."""
    return await _no_cuda(_, asked) if asked.name else {}


async def _no_cuda(_: Pages, __: Any) -> Fields:
    raise RefusedError(501, "CUDA shared memory is not served: use system shared memory")


async def _trace_setting(pages: Pages, asked: Any) -> Fields:
    path = pages.of_model(asked.model_name, "", "/trace/setting") if asked.model_name else "/v2/trace/setting"
    changes = {
        name: list(given.value) if isinstance(TRACE.get(name), list) else ",".join(given.value)
        for name, given in asked.settings.items()
        if given.value  # none: as it was when the server started, which it is
    }
    found = await (pages.post(path, changes) if changes else pages.get(path))
    values = {name: value if isinstance(value, list) else [value] for name, value in found.items()}
    return {"settings": {name: {"value": value} for name, value in values.items()}}


async def _log_settings(pages: Pages, asked: Any) -> Fields:
    changes = {
        name: getattr(given, given.WhichOneof("parameter_choice") or "", None)
        for name, given in asked.settings.items()
    }
    found = await (pages.post("/v2/logging", changes) if changes else pages.get("/v2/logging"))
    fields = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return {"settings": {name: {fields[type(value)]: value} for name, value in found.items()}}


CALLS: dict[str, Callable[[Pages, Any], Awaitable[Fields]]] = {
    "ServerLive": _server_live,
    "ServerReady": _server_ready,
    "ModelReady": _model_ready,
    "ServerMetadata": _server_metadata,
    "ModelMetadata": _model_metadata,
    "ModelConfig": _model_config,
    "ModelStatistics": _model_statistics,
    "RepositoryIndex": _repository_index,
    "RepositoryModelLoad": _model_load,
    "RepositoryModelUnload": _model_unload,
    "SystemSharedMemoryStatus": _region_status,
    "SystemSharedMemoryRegister": _register_region,
    "SystemSharedMemoryUnregister": _unregister_region,
    "CudaSharedMemoryStatus": _cuda_of_all,
    "CudaSharedMemoryRegister": _no_cuda,
    "CudaSharedMemoryUnregister": _cuda_of_all,
    "TraceSetting": _trace_setting,
    "LogSettings": _log_settings,
}
"""The control calls, by name."""
