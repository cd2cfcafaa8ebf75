"""The simulated clock's total order."""

from hypothesis import given
from hypothesis import strategies as st

from steelyard.sim.kernel import Kernel, Kind


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from(Kind))))
def test_order_is_time_then_kind_then_sequence(things: list[tuple[float, Kind]]) -> None:
    kernel = Kernel()
    done: list[int] = []
    for number, (at_s, kind) in enumerate(things):
        kernel.schedule(at_s, kind, done.append, number)
    kernel.run()
    assert done == sorted(range(len(things)), key=lambda number: (*things[number], number))


def test_the_past_is_now() -> None:
    kernel = Kernel(start_s=5.0)
    done: list[str] = []
    kernel.schedule(1.0, Kind.WAKE, done.append, "late")
    kernel.run()
    assert done == ["late"]
    assert kernel.now_s == 5.0


def test_what_is_scheduled_meanwhile_takes_its_place() -> None:
    kernel = Kernel()
    done: list[str] = []
    kernel.schedule(1.0, Kind.WINDOW, done.append, "window")
    kernel.schedule(1.0, Kind.WAKE, lambda _: kernel.schedule(0.5, Kind.REPLICA, done.append, "gone"), None)
    kernel.run()
    assert done == ["gone", "window"]  # both at 1.0: a replica's end goes before a window


def test_after_stop_nothing_happens() -> None:
    kernel = Kernel()
    done: list[int] = []
    kernel.schedule(1.0, Kind.END, lambda _: kernel.stop(), None)
    kernel.schedule(2.0, Kind.COMPLETION, done.append, 1)
    kernel.run()
    assert (done, kernel.now_s, kernel.due) == ([], 1.0, 1)


def test_time_does_not_pass_over_what_is_due() -> None:
    kernel = Kernel(start_s=-5.0)
    assert kernel.advance(-1.0)
    kernel.schedule(0.0, Kind.WAKE, lambda _: None, None)
    assert not kernel.advance(0.0)
    assert kernel.now_s == -1.0
    kernel.stop()
    assert not kernel.advance(-0.5)
