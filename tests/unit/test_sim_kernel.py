"""The simulated clock's total order."""

from hypothesis import given
from hypothesis import strategies as st

from steelyard.sim.kernel import Kernel, Kind


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from(Kind))))
def test_order_is_time_then_kind_then_sequence(things: list[tuple[float, Kind]]) -> None:
    kernel: Kernel[int] = Kernel()
    for number, (at_s, kind) in enumerate(things):
        kernel.schedule(at_s, kind, number)
    taken = [kernel.take().what for _ in range(len(kernel))]
    assert taken == sorted(range(len(things)), key=lambda number: (*things[number], number))


def test_the_past_is_now() -> None:
    kernel: Kernel[str] = Kernel(start_s=5.0)
    kernel.schedule(1.0, Kind.WAKE, "late")
    assert kernel.take().at_s == 5.0
    assert kernel.now_s == 5.0
