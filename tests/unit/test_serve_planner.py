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
        pass

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
    solve_s_max: float = 30.0,
) -> None:
    """Run a scenario that asks for decisions at times of its choice."""

    async def main() -> None:
        planner = PlannerProcess(PlannerTask(policy, {}, {"ocr": SERVICE}, (TIMES,)), solve_s_max=solve_s_max)

        async def ask(now_s: float) -> Solved | SolveFailed:
            answer: asyncio.Future[Solved | SolveFailed] = asyncio.get_running_loop().create_future()
            planner.solve(Solve(int(now_s), snapshot(now_s)), answer.set_result)
            async with asyncio.timeout(60):
                return await answer

        try:
            await scenario(ask)
        finally:
            await planner.close()

    asyncio.run(main())


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
        assert isinstance(await ask(4.0), Solved)
        assert await ask(2.0) == SolveFailed(2, "gave up after 3 s")
        assert isinstance(await ask(5.0), Solved)

    play("odd", scenario, solve_s_max=3.0)


def test_modules_of_the_current_directory_are_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "struct.py").write_text("raise SystemExit('not the one you want')\n")
    monkeypatch.chdir(tmp_path)

    async def scenario(ask: Ask) -> None:
        assert isinstance(await ask(1.0), Solved)

    play("static", scenario)
