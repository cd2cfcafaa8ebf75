"""The small GET answers of the protocol: server, health, models; and what an unknown path or verb gets.

The paths that take a request are known when the server starts, so a request is routed by one look into a
dictionary of whole paths; text about what is wrong is made only for those that miss it.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import version

import msgspec

from steelyard.runtime.base import TensorSpec
from steelyard.serve.base import Intake, ServedService
from steelyard.serve.edge.answers import MODEL_VERSION
from steelyard.serve.edge.replies import Reply, json_reply, raw_json, refusal

Page = Callable[[], Reply]

EXTENSIONS = ("binary_tensor_data",)
_LATER = ("repository", "systemsharedmemory", "cudasharedmemory", "trace", "logging")
_LATER_OF_MODEL = ("config", "stats", "trace", "generate", "generate_stream", "load", "unload")


def model_paths(service: str) -> tuple[str, str]:
    """The two paths of a service: with and without its version."""
    return f"/v2/models/{service}", f"/v2/models/{service}/versions/{MODEL_VERSION}"


def make_pages(intake: Intake) -> dict[str, Page]:
    """Every path that answers GET, percent-decoded."""
    services = intake.services
    server = {"name": "steelyard", "version": version("steelyard"), "extensions": EXTENSIONS}
    pages: dict[str, Page] = {
        "/v2": _constant(server),
        "/v2/models": _constant({"models": list(services)}),
        "/v2/health/live": _constant({"live": True}),
        "/v2/health/ready": lambda: _server_ready(intake),
    }
    for name, served in services.items():
        for path in model_paths(name):
            pages[path] = _constant(_metadata(name, served))
            pages[f"{path}/ready"] = _model_ready(intake, name)
    return pages


def missing_page(path: str, services: Mapping[str, ServedService]) -> Reply:
    """Why nothing is at `path`: 404 naming what there is, or 501 for a part of the protocol not served."""
    parts = path.split("/")
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4:
        later = len(parts) > 2 and parts[1] == "v2" and parts[2] in _LATER
        return _not_served(path) if later else refusal(404, f"there is nothing at {path[:200]!r}")
    if parts[3] == "stats" and "stats" not in services:
        return _not_served(path)
    rest = path.removeprefix("/v2/models/")
    # A service's name may itself hold slashes (clients quote them), so the longest name that fits is meant.
    name = max((known for known in services if f"{rest}/".startswith(f"{known}/")), key=len, default=None)
    if name is None:
        known = ", ".join(f"'{service}'" for service in services) or "none"
        return refusal(404, f"unknown model {parts[3][:200]!r}; known models: {known}")
    tail = rest[len(name) + 1 :].split("/")
    if tail[0] == "versions" and len(tail) > 1 and tail[1] != MODEL_VERSION:
        return refusal(404, f"model '{name}' has no version {tail[1][:200]!r}; it has '{MODEL_VERSION}'")
    if tail[-1] in _LATER_OF_MODEL or (len(tail) > 1 and tail[-2] in _LATER_OF_MODEL):
        return _not_served(path)
    return refusal(404, f"there is nothing at {path[:200]!r}")


def wrong_verb(path: str, method: str, allowed: str) -> Reply:
    """405, with the verb that the path takes."""
    reply = refusal(405, f"{path[:200]!r} takes {allowed}, not {method[:20]}")
    reply.headers.append((b"allow", allowed.encode()))
    return reply


def _not_served(path: str) -> Reply:
    return refusal(501, f"{path[:200]!r} is a part of the protocol that this server does not serve yet")


def _constant(value: object) -> Page:
    body = msgspec.json.encode(value)
    return lambda: raw_json(200, body)


def _server_ready(intake: Intake) -> Reply:
    ready = all(intake.is_ready(name) for name in intake.services)
    # `live` too: the published text of the protocol lists the field under that name by mistake.
    return json_reply(200 if ready else 503, {"ready": ready, "live": True})


def _model_ready(intake: Intake, name: str) -> Page:
    def page() -> Reply:
        ready = intake.is_ready(name)
        return json_reply(200 if ready else 503, {"name": name, "ready": ready})

    return page


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
