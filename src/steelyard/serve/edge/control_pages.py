"""The protocol's pages that take a body: model repository, shared memory; trace and logging settings.

The rule of this file: what cannot be done is said, not ignored. Models come from the spec file alone, and
what is traced and logged is chosen when the server starts, so requests to change those are 400 and 501;
requests that change nothing are answered with what there is.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from steelyard.core.errors import InputError
from steelyard.serve.base import Intake
from steelyard.serve.edge.answers import MODEL_VERSION
from steelyard.serve.edge.pages import Call, Page, Verbs, model_paths, unknown_model
from steelyard.serve.edge.replies import RETRY_AFTER_S, RefusedError, Reply, json_reply
from steelyard.serve.edge.shared_memory import Regions
from steelyard.serve.edge.shown import shown
from steelyard.serve.repository import RepositoryError

T = TypeVar("T")

REGION_PATH = "/v2/systemsharedmemory/region/"
REPOSITORY_PATH = "/v2/repository/models/"
NAME_CHARS_MAX = 255

TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""Triton's defaults: nothing is traced."""
LOGGING = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


class _IndexAsked(msgspec.Struct):
    ready: bool = False


class _LoadAsked(msgspec.Struct):
    parameters: dict[str, Any] = {}


class _RegionAsked(msgspec.Struct):
    key: str
    byte_size: int
    offset: int = 0


def make_control_pages(intake: Intake, regions: Regions) -> dict[str, Verbs]:
    """Those whose path is known beforehand, percent-decoded."""
    pages: dict[str, Verbs] = {
        "/v2/repository/index": {"POST": lambda call: _index(intake, call)},
        "/v2/systemsharedmemory/status": {"GET": lambda call: _status(regions, None, call)},
        "/v2/systemsharedmemory/unregister": {"POST": lambda call: _unregister(regions, None, call)},
        "/v2/cudasharedmemory/status": {"GET": lambda _: json_reply(200, [])},
        "/v2/cudasharedmemory/unregister": {"POST": lambda _: json_reply(200, {})},
        "/v2/trace/setting": _settings("trace", TRACE),
        "/v2/logging": _settings("log", LOGGING),
    }
    for name in intake.services:
        for path in model_paths(name):
            pages[f"{path}/trace/setting"] = pages["/v2/trace/setting"]
    return pages


def find_control_page(path: str, intake: Intake, regions: Regions) -> Verbs | None:
    """Those with a name in their path that a client chooses; None if there is nothing there."""
    if path.startswith(REGION_PATH):
        name, _, action = path.removeprefix(REGION_PATH).rpartition("/")
        return _region_page(name, action, regions) if name else None
    if path.startswith("/v2/cudasharedmemory/region/"):
        verb = "GET" if path.endswith("/status") else "POST"
        return {verb: lambda _: _no_cuda()}
    if path.startswith(REPOSITORY_PATH):
        name, _, action = path.removeprefix(REPOSITORY_PATH).rpartition("/")
        if name and action in ("load", "unload"):
            return {"POST": _repository_page(name, action == "load", intake)}
    return None


def _index(intake: Intake, call: Call) -> Reply:
    asked = _decoded(call.body, _IndexAsked)
    found = [
        {"name": one.name, "version": MODEL_VERSION, "state": one.state, "reason": one.reason}
        for one in intake.repository.index()
        if not asked.ready or one.state == "READY"
    ]
    return json_reply(200, found)


def _repository_page(name: str, load: bool, intake: Intake) -> Page:
    async def page(call: Call) -> Reply:
        if name not in intake.services:
            return unknown_model(name, intake.services)
        for parameter in _decoded(call.body, _LoadAsked).parameters:
            if load:
                raise InputError(f"parameter {shown(parameter)} is not taken: models come from the spec file")
        try:
            await (intake.repository.load(name) if load else intake.repository.unload(name))
        except RepositoryError as error:
            raise RefusedError(503, str(error), retry_after_s=RETRY_AFTER_S) from None
        return json_reply(200, {"name": name, "load": load})

    return page


def _region_page(name: str, action: str, regions: Regions) -> Verbs | None:
    match action:
        case "status":
            return {"GET": lambda call: _status(regions, name, call)}
        case "unregister":
            return {"POST": lambda call: _unregister(regions, name, call)}
        case "register":
            return {"POST": lambda call: _register(regions, name, call)}
    return None


def _status(regions: Regions, name: str | None, call: Call) -> Reply:
    _refuse_remote(call)
    return json_reply(200, regions.status(name))


async def _unregister(regions: Regions, name: str | None, call: Call) -> Reply:
    _refuse_remote(call)
    regions.unregister(name)
    if regions.spread is not None:
        await regions.spread(name or "", None)
    return json_reply(200, {})


async def _register(regions: Regions, name: str, call: Call) -> Reply:
    _refuse_remote(call)
    if len(name) > NAME_CHARS_MAX:
        raise InputError(f"the name of a shared memory region has at most {NAME_CHARS_MAX} characters")
    asked = _decoded(call.body, _RegionAsked)
    regions.register(name, asked.key, asked.offset, asked.byte_size)
    if regions.spread is not None:
        try:
            await regions.spread(name, (asked.key, asked.offset, asked.byte_size))
        except InputError:
            regions.unregister(name)
            raise
    return json_reply(200, {})


def _refuse_remote(call: Call) -> None:
    if not call.local:
        raise RefusedError(400, "shared memory is only for clients on the server's host")


def _no_cuda() -> Reply:
    raise RefusedError(400, "CUDA shared memory is not served: use system shared memory")


def _settings(what: str, values: Mapping[str, Any]) -> Verbs:
    def change(call: Call) -> Reply:
        for name, value in _decoded(call.body, dict[str, Any]).items():
            if name not in values:
                raise InputError(f"unknown {what} setting {shown(name)}; there are: {', '.join(values)}")
            if value is not None and value != values[name]:
                raise RefusedError(501, f"{what} setting '{name}' cannot be changed while the server runs")
        return json_reply(200, values)

    return {"GET": lambda _: json_reply(200, values), "POST": change}


def _decoded(body: bytes, kind: type[T]) -> T:
    """The body as JSON of this kind; nothing at all is an empty object.

    Raises:
        InputError: it is something else.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body is not what is taken here: {str(error).splitlines()[0]}") from None
