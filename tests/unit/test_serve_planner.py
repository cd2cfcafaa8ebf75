"""The planner's process: answers, failures, overruns, and a current directory that is in the way."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.commands import Solve
from steelyard.core.events import Solved, SolveFailed
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Service, Stage, Variant
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.serve.planner import PlannerProcess, PlannerTask

pytestmark = pytest.mark.slow

SERVICE = Service("ocr", 0.1, (Stage("read", (Variant("small"),)),))
TIMES = StageTimes("ocr", "read", declared={"small": DeclaredLatency(table=((1, 1.0, 20.0, 22.0),))})
ODD = """
import threading
from steelyard.core.plan import Decision
from steelyard.policies.base import PolicyEntry

class Odd:
    name, solve_s, reacts = "odd", 0.0, False

    def __init__(self, context):
        if "gate" in context.options:
            open(context.options["gate"]).read()

    def react(self, snapshot):
        return None

    def decide(self, snapshot):
        match snapshot.now_s:
            case 1.0: raise ValueError("no plan today")
            case 2.0: threading.Event().wait()
            case 3.0: return Decision(None, float("inf"), "never again")
        return Decision(None, snapshot.now_s + 1.0, "as it is")

ENTRY = PolicyEntry(Odd, "what a policy should not do")
"""

Ask = Callable[[float], Coroutine[Any, Any, Solved | SolveFailed]]
"""Asks for a decision at a time, and waits for it."""


def snapshot(now_s: float) -> ClusterSnapshot:
    view = ServiceView("ocr", (), (), None, ())
    return ClusterSnapshot(now_s, 0.1, (NodeView("local", 2.0, 2.0),), (view,))


def play(
    policy: str,
    scenario: Callable[[Ask], Coroutine[Any, Any, None]],
    *,
    solve_s_max: float = 60.0,
    options: dict[str, object] | None = None,
) -> None:
    """Run a scenario that asks for decisions at times of its choice."""

    async def main() -> None:
        task = PlannerTask(policy, options or {}, {"ocr": SERVICE}, (TIMES,))
        planner = PlannerProcess(task, solve_s_max=solve_s_max)

        async def ask(now_s: float) -> Solved | SolveFailed:
            answer: asyncio.Future[Solved | SolveFailed] = asyncio.get_running_loop().create_future()
            planner.solve(Solve(int(now_s), snapshot(now_s)), answer.set_result)
            async with asyncio.timeout(100):
                return await answer

        try:
            await scenario(ask)
        finally:
            await planner.close()

    asyncio.run(main())


async def solved(ask: Ask, now_s: float) -> Solved:
    """A decision of a planner that may have to start first, on a machine of any speed."""
    while isinstance(found := await ask(now_s), SolveFailed):
        assert found.message.startswith("the planner process has not started")
    return found


@pytest.fixture
def _odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with a policy of its own."""
    (tmp_path / "odd.py").write_text(ODD)
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[steelyard.policies]\nodd = odd:ENTRY\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.usefixtures("_odd")
def test_a_decide_that_fails_is_answered_and_the_next_one_works() -> None:
    async def scenario(ask: Ask) -> None:
        assert await ask(1.0) == SolveFailed(1, "ValueError: no plan today")
        infinite = await ask(3.0)  # a journal could not hold it
        assert isinstance(infinite, SolveFailed)
        assert "not finite" in infinite.message
        solved = await ask(4.0)
        assert isinstance(solved, Solved)
        assert (solved.solve_id, solved.decision.reason, solved.decision.next_at_s) == (4, "as it is", 5.0)

    play("odd", scenario)


@pytest.mark.usefixtures("_odd")
def test_a_decide_that_hangs_is_given_up_and_the_planner_started_anew() -> None:
    async def scenario(ask: Ask) -> None:
        await solved(ask, 4.0)
        assert await ask(2.0) == SolveFailed(2, "gave up after 2 s")
        await solved(ask, 5.0)

    play("odd", scenario, solve_s_max=2.0)


@pytest.mark.usefixtures("_odd")
def test_a_planner_that_is_slow_to_start_goes_on_starting(tmp_path: Path) -> None:
    """Only one is let in: were it killed, the next one would wait for ever."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async def scenario(ask: Ask) -> None:
        assert await ask(4.0) == SolveFailed(4, "the planner process has not started after 0.5 s")
        await asyncio.to_thread(gate.write_bytes, b"")
        await solved(ask, 5.0)

    play("odd", scenario, solve_s_max=0.5, options={"gate": str(gate)})


@pytest.mark.usefixtures("_odd")
def test_decisions_take_turns_and_those_that_are_obsolete_are_left_out() -> None:
    """Asked for one upon the other, as by services that are loaded and unloaded."""

    async def scenario(ask: Ask) -> None:
        await solved(ask, 4.0)
        under_way = asyncio.create_task(ask(5.0))
        await asyncio.sleep(0)  # its task begins
        await asyncio.sleep(0)
        first, second, third = await asyncio.gather(under_way, ask(6.0), ask(7.0))
        assert isinstance(first, Solved)
        assert second == SolveFailed(6, "another decision was asked for meanwhile")
        assert isinstance(third, Solved)
        assert (first.decision.next_at_s, third.decision.next_at_s) == (6.0, 8.0)
        assert (await solved(ask, 8.0)).decision.next_at_s == 9.0

    play("odd", scenario)


def test_modules_of_the_current_directory_are_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "struct.py").write_text("raise SystemExit('not the one you want')\n")
    monkeypatch.chdir(tmp_path)

    async def scenario(ask: Ask) -> None:
        assert isinstance(await ask(1.0), Solved)

    play("static", scenario)
