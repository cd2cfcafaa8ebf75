"""What the protocol tells of server and models: health, metadata, statistics; and what an unknown path gets.

Paths with a request's weight are known when the server starts, so a request is routed by one look into a
dictionary of whole paths; text about what is wrong is made only for those that miss it.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import NamedTuple

import msgspec

from steelyard.runtime.base import TensorSpec
from steelyard.serve.base import Intake, ServedService
from steelyard.serve.edge.answers import MODEL_VERSION
from steelyard.serve.edge.model_config import model_config
from steelyard.serve.edge.replies import RefusedError, Reply, json_reply, raw_json, refusal
from steelyard.serve.edge.statistics import statistics_json
from steelyard.serve.statistics import ServiceStatistics

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
)
_GENERATE = ("generate", "generate_stream")


class Call(NamedTuple):
    """A request for a page: its body, decompressed, and whether its client is on this host."""

    body: bytes = b""
    local: bool = False


Page = Callable[[Call], Reply | Awaitable[Reply]]
Verbs = Mapping[str, Page]
"""What a path answers, by verb."""


def model_paths(service: str) -> tuple[str, str]:
    """The two paths of a service: with and without its version."""
    return f"/v2/models/{service}", f"/v2/models/{service}/versions/{MODEL_VERSION}"


def make_pages(intake: Intake) -> dict[str, Verbs]:
    """Every path that only tells something, percent-decoded."""
    services = intake.services
    server = {"name": "steelyard", "version": version("steelyard"), "extensions": EXTENSIONS}
    pages: dict[str, Page] = {
        "/v2": _constant(server),
        "/v2/models": lambda _: json_reply(200, {"models": _open_services(intake)}),
        "/v2/models/stats": lambda _: _statistics(intake, services),
        "/v2/health/live": _constant({"live": True}),
        "/v2/health/ready": lambda _: _server_ready(intake),
    }
    for name, served in services.items():
        for path in model_paths(name):
            pages[path] = _of_open(intake, name, _constant(_metadata(name, served)))
            pages[f"{path}/config"] = _of_open(intake, name, _constant(model_config(served)))
            pages[f"{path}/ready"] = _model_ready(intake, name)
            pages[f"{path}/stats"] = _model_statistics(intake, name)
    return {path: {"GET": page} for path, page in pages.items()}


def missing_page(path: str, services: Mapping[str, ServedService]) -> Reply:
    """Why nothing is at `path`: 404 naming what there is, or 501 for what is not served."""
    parts = path.split("/")
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4:
        return refusal(404, f"there is nothing at {path[:200]!r}")
    rest = path.removeprefix("/v2/models/")
    # A service's name may itself hold slashes (clients quote them), so the longest name that fits is meant.
    name = max((known for known in services if f"{rest}/".startswith(f"{known}/")), key=len, default=None)
    if name is None:
        return unknown_model(parts[3], services)
    tail = rest[len(name) + 1 :].split("/")
    if tail[0] == "versions" and len(tail) > 1 and tail[1] != MODEL_VERSION:
        return refusal(404, f"model '{name}' has no version {tail[1][:200]!r}; it has '{MODEL_VERSION}'")
    if tail[-1] in _GENERATE:
        return refusal(501, f"{path[:200]!r} is a part of the protocol that this server does not serve")
    return refusal(404, f"there is nothing at {path[:200]!r}")


def unknown_model(name: str, services: Mapping[str, ServedService]) -> Reply:
    """404, with the names that there are."""
    known = ", ".join(f"'{service}'" for service in services) or "none"
    return refusal(404, f"unknown model {name[:200]!r}; known models: {known}")


def wrong_verb(path: str, method: str, allowed: tuple[str, ...]) -> Reply:
    """405, with the verbs that the path takes."""
    reply = refusal(405, f"{path[:200]!r} takes {' or '.join(allowed)}, not {method[:20]}")
    verbs = (*allowed, "HEAD") if "GET" in allowed else allowed
    reply.headers.append((b"allow", ", ".join(verbs).encode()))
    return reply


def unloaded(name: str) -> RefusedError:
    """What a service that is not loaded says to whatever is asked of it."""
    return RefusedError(404, f"model '{name}' is unloaded", reason="unloaded")


def _constant(value: object) -> Page:
    body = msgspec.json.encode(value)
    return lambda _: raw_json(200, body)


def _of_open(intake: Intake, name: str, page: Page) -> Page:
    """The page, while the service is loaded."""
    return lambda call: page(call) if intake.repository.is_open(name) else unloaded(name).reply()


def _open_services(intake: Intake) -> list[str]:
    return [name for name in intake.services if intake.repository.is_open(name)]


def _server_ready(intake: Intake) -> Reply:
    ready = all(intake.is_ready(name) for name in _open_services(intake))
    # `live` too: the published text of the protocol lists the field under that name by mistake.
    return json_reply(200 if ready else 503, {"ready": ready, "live": True})


def _model_ready(intake: Intake, name: str) -> Page:
    def page(_: Call) -> Reply:
        ready = intake.repository.is_open(name) and intake.is_ready(name)
        return json_reply(200 if ready else 503, {"name": name, "ready": ready})

    return page


def _model_statistics(intake: Intake, name: str) -> Page:
    return lambda _: _statistics(intake, [name])


async def _statistics(intake: Intake, names: Mapping[str, object] | list[str]) -> Reply:
    found = []
    for name in names:
        given = intake.statistics(name)
        statistics = given if isinstance(given, ServiceStatistics) else await given
        found.append(statistics_json(name, statistics, now_s=intake.now_s(), unix_now_s=time.time()))
    return json_reply(200, {"model_stats": found})


def _metadata(name: str, served: ServedService) -> dict[str, object]:
    signature = served.signature
    return {
        "name": name,
        "versions": [MODEL_VERSION],
        "platform": signature.platform,
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.dtype, "shape": spec.shape}
