"""The live view, drawn from statuses as a server gives them."""

import io

import pytest
from rich.console import Console

from steelyard.demo.account import Sample
from steelyard.demo.processes import ReplicaStatus, ServiceStatus
from steelyard.demo.view import Stand, View, line, panel, sparkline


def status(
    requests: int, violations: int = 0, *, cores: float = 1.0, p99_ms: float | None = 50.0
) -> ServiceStatus:
    counters = {"requests": requests, "completed": requests, "late": violations}
    counters |= dict.fromkeys(("shed", "rejected", "failed", "cancelled"), 0)
    return ServiceStatus(
        replicas=[ReplicaStatus(1, "ready", cores)],
        cores=cores,
        core_seconds=0.0,
        counters=counters,
        cold_starts=1,
        resizes=0,
        queue_rows=0,
        p50_ms=20.0,
        p99_ms=p99_ms,
        rate_rps=42.0,
    )


STAND = Stand(
    "steelyard", 140.0, 50.0, [Sample(0.0, status(10)), Sample(6.0, status(110, 5, cores=2.0, p99_ms=150.0))]
)


def test_sparkline_spans_from_zero_to_the_top() -> None:
    # Eight blocks: 0/7 -> the first, 3.5/7 -> the fifth (0.5 * 8 = 4), 7/7 -> the last.
    assert sparkline([0, 3.5, 7]) == "▁▅█"
    assert sparkline([0, 200], top=100) == "▁█"
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline([1.0] * 500)) == 44


@pytest.mark.parametrize("width", [80, 120])
def test_the_panel_shows_the_five_quantities(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(panel(STAND))
    text = captured.get()
    # 5 violations of the 100 requests since the trace began.
    for part in ("42 lines/s", "150 ms of 140 ms", "cores", "replicas", "5 (5.0%)", "6 of 50 s"):
        assert part in text
    assert max(map(len, text.splitlines())) <= width


def test_a_line_says_the_same() -> None:
    assert line(STAND) == ("    6 s   42.0 lines/s  p99 150 ms  cores 2  replicas 1  violations 5")


def test_without_a_terminal_a_line_now_and_then() -> None:
    output = io.StringIO()
    with View(Console(file=output, width=120)) as view:
        for at_s in (0.0, 0.5, 4.9, 5.1, 6.0, 10.2):
            view.show(Stand("t", 140.0, 50.0, [Sample(at_s, status(1))]))
    # At 0 s, then 5 s or more later each time.
    assert [row.split()[0] for row in output.getvalue().splitlines()] == ["0", "5", "10"]


def test_on_a_terminal_the_panel_is_redrawn_in_place() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with console.capture() as captured, View(console) as view:
        view.show(STAND)
        view.show(STAND)
    assert captured.get().count("lines/s") >= 2
