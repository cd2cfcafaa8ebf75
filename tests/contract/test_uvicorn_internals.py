"""What the HTTP edge relies on in uvicorn beyond its documented interface, name by name.

The edge extends uvicorn's protocol (`serve/edge/asgi.py`), reads the state its server shares with connections
(`listen.py`, `reply_heads.py`), and so is tied to the minor versions that it was tested with. A version that
has moved one of these names fails here, by name, before it fails as a connection that hangs. Of httptools,
uvloop and grpcio only the documented interface is used.
"""

import asyncio
import inspect
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

VERSION = version("uvicorn")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """An application that nobody asks."""


@pytest.fixture(name="protocol")
def _protocol() -> Iterator[HttpToolsProtocol]:
    loop = asyncio.new_event_loop()
    config = uvicorn.Config(app, log_config=None)
    config.load()
    yield HttpToolsProtocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    loop.close()


def missing(owner: object, names: str) -> list[str]:
    return [name for name in names.split() if not hasattr(owner, name)]


def test_the_installed_version_is_one_that_was_tested() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    ranges = {found.name: found.specifier for found in map(Requirement, project["dependencies"])}
    assert VERSION in ranges["uvicorn"]
    assert "0.999" not in ranges["uvicorn"], "the range is bounded at a minor version"


def test_what_is_read_of_a_connection_is_there(protocol: HttpToolsProtocol) -> None:
    names = "app client cycle headers loop parser pipeline server timeout_keep_alive timeout_keep_alive_task"
    assert missing(protocol, f"{names} transport") == [], f"uvicorn {VERSION}, see serve/edge/asgi.py"
    assert missing(protocol.parser, "should_upgrade") == []
    assert protocol.timeout_keep_alive_task is None
    assert len(protocol.pipeline) == 0


def test_what_is_read_of_a_request_under_way_is_there() -> None:
    written = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("keep_alive", "response_complete"):
        assert f"self.{name} =" in written, f"uvicorn {VERSION}, see serve/edge/asgi.py"


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("connection_made", ["transport"]),
        ("connection_lost", ["exc"]),
        ("data_received", ["data"]),
        ("eof_received", []),
        ("on_message_begin", []),
        ("on_headers_complete", []),
        ("on_message_complete", []),
        ("pause_writing", []),
        ("resume_writing", []),
        ("shutdown", []),
        ("send_400_response", ["text"]),
        ("timeout_keep_alive_handler", []),
        ("_unset_keepalive_if_required", []),
        ("_unsupported_upgrade_warning", []),
    ],
)
def test_what_is_called_or_extended_takes_what_it_took(method: str, given: list[str]) -> None:
    found: Callable[..., Any] | None = getattr(HttpToolsProtocol, method, None)
    assert found is not None, f"uvicorn {VERSION} has no HttpToolsProtocol.{method}: see serve/edge/asgi.py"
    inspect.signature(found).bind(None, *given)


def test_the_server_keeps_its_state_where_it_did() -> None:
    config = uvicorn.Config(app, log_config=None, server_header=False)
    config.load()
    server = uvicorn.Server(config)
    assert missing(config, "encoded_headers loaded_app") == []
    assert missing(server, "capture_signals serve server_state should_exit startup") == []
    assert missing(server.server_state, "connections default_headers tasks") == []
    inspect.signature(server.startup).bind(sockets=[])
    inspect.signature(server.serve).bind(sockets=[])
    assert config.encoded_headers == []
    assert httptools_impl.STATUS_LINE[404] == b"HTTP/1.1 404 Not Found\r\n"


def test_default_headers_are_made_anew_with_those_of_the_configuration() -> None:
    # What `HttpListener.stop_accepting` appends must be in every later answer: the server makes a new list
    # each second, of the date and `encoded_headers`.
    config = uvicorn.Config(app, log_config=None, server_header=False)
    config.load()
    server = uvicorn.Server(config)
    config.encoded_headers.append((b"connection", b"close"))

    asyncio.run(server.on_tick(0))
    headers = server.server_state.default_headers
    assert [name for name, _ in headers] == [b"date", b"connection"]
    asyncio.run(server.on_tick(10))
    assert server.server_state.default_headers is not headers
