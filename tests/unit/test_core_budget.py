"""What a window says of the latency that its requests had left when they came."""

import pytest

from steelyard.core.commands import ReportWindow
from steelyard.core.events import RequestArrived, WindowClosed
from steelyard.core.service import ServiceMachine
from steelyard.testing.builders import TableTimes, make_request, make_service, times_by_stage


def least_budgets(machine: ServiceMachine, *slos_s: float, now_s: float) -> list[float | None]:
    for index, slo_s in enumerate(slos_s):
        request = make_request(int(now_s * 100) + index, now_s, slo_s=slo_s)
        machine.handle(RequestArrived(request), now_s=now_s)
    commands = machine.handle(WindowClosed(), now_s=now_s + 0.1)
    return [c.window.budget_s_min for c in commands if isinstance(c, ReportWindow)]


def test_a_window_shows_the_least_budget_of_its_own_arrivals() -> None:
    service = make_service(slo_s=0.5)
    machine = ServiceMachine(service, times_by_stage(service, TableTimes({1: 0.01})))
    # 0.3 s were lost on the way of the second, which leaves 0.2 s
    assert least_budgets(machine, 0.5, 0.2, 0.4, now_s=1.0) == [pytest.approx(0.2)]
    assert least_budgets(machine, now_s=2.0) == [None]
    assert least_budgets(machine, 0.5, now_s=3.0) == [pytest.approx(0.5)]
