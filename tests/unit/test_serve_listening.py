"""The order in which a server begins to listen, and from when on it says that it is ready."""

import asyncio
from types import SimpleNamespace
from typing import Any

from steelyard.serve.edge.logs import EventLog
from steelyard.serve.listening import Listening
from steelyard.serve.settings import ServeSettings


class SlowFrontEnds:
    """Front ends whose processes have started when `started` is set."""

    def __init__(self) -> None:
        self.asked, self.started = asyncio.Event(), asyncio.Event()
        self.shown: list[bool] = []
        self.intake: Any = SimpleNamespace(is_open=False, services={})

    async def start(self, welcome: object, count: int) -> None:
        self.asked.set()
        await self.started.wait()

    def show(self) -> None:
        self.shown.append(self.intake.is_open)

    async def stop(self, *, linger_s: float) -> None:
        assert linger_s >= 0


async def page(scope: object, receive: object, send: object) -> None:
    """Never asked."""


async def begin() -> None:
    said: list[str] = []
    front_ends: Any = SlowFrontEnds()
    account: Any = SimpleNamespace(app=page, on_status=lambda *_: None)
    log = EventLog()
    settings = ServeSettings(http_port=0, grpc_port=None, metrics_port=None)
    listening = Listening(settings, front_ends.intake, front_ends, account, log, said.append)
    starting = asyncio.create_task(listening.start())
    async with asyncio.timeout(20):
        await front_ends.asked.wait()
        assert [line.rpartition("(")[2] for line in said] == ["metrics, status)"]
        assert not front_ends.intake.is_open
        front_ends.started.set()
        await starting
    assert front_ends.intake.is_open
    assert front_ends.shown == [True]
    await listening.stop()
    log.close()


def test_metrics_listen_first_and_nothing_is_ready_before_all_of_it_listens() -> None:
    asyncio.run(begin())
