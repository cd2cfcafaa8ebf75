"""Parts of the server that only show when something is wrong."""

import asyncio
from types import SimpleNamespace
from typing import Any

from steelyard.serve.server import Server
from steelyard.serve.settings import ServeSettings


def test_a_window_that_fails_is_not_the_last_one() -> None:
    windows: list[int] = []
    errors: list[BaseException] = []

    def close_window() -> None:
        windows.append(len(windows))
        if len(windows) == 1:
            raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        server: Any = SimpleNamespace(_settings=ServeSettings(window_s=0.001))
        ticking = asyncio.create_task(Server._tick(server, SimpleNamespace(close_window=close_window)))  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            while len(windows) < 3:
                await asyncio.sleep(0)
        ticking.cancel()

    asyncio.run(main())
    assert [type(error) for error in errors] == [ZeroDivisionError]
