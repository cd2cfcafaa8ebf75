from hypothesis import given
from hypothesis import strategies as st

from steelyard.plan.problem import tabulate
from steelyard.plan.sponge import SpongeChoice, closed_form, enumerate_choices

# 64 + 64 b / c ms, in units that are exact in binary
TABLE = tabulate(lambda rows, cores: (1 + rows / cores) / 16, 8, 4)


def test_the_fewest_cores_then_the_smallest_batch() -> None:
    # 0.9 s - 0.1 s; 10 requests. One core, b = 1: 10 x 0.125 = 1.25; 2: 5 x 0.1875 = 0.94; 4: 3 x 0.3125 =
    # 0.94; 5: 2 x 0.375 = 0.75: fits.
    assert enumerate_choices(TABLE, 10, 1.0, 0.1) == SpongeChoice(1, 5)
    # 0.25 s less. One core: 10 in one batch are not allowed (8 at most): no. Two cores, b = 1: 0.9375; 2:
    # 0.625; 3: 4 x 0.15625 = 0.625; 4: 3 x 0.1875 = 0.5625; 5: 2 x 0.21875 = 0.4375: fits 0.55.
    assert enumerate_choices(TABLE, 10, 1.0, 0.35) == SpongeChoice(2, 5)


def test_nothing_queued_takes_nothing() -> None:
    assert enumerate_choices(TABLE, 0, 1.0, 2.0) == closed_form(TABLE, 0, 1.0, 2.0) == SpongeChoice(1, 1)


def test_a_budget_that_the_network_has_used_up_is_infeasible() -> None:
    assert enumerate_choices(TABLE, 10, 1.0, 0.85) is None


sixteenths = st.integers(1, 64).map(lambda n: n / 16)


@given(
    st.lists(st.lists(sixteenths, min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(0, 40),
    st.integers(1, 100),
    st.integers(0, 20),
)
def test_the_walk_equals_the_closed_form(
    times: list[list[float]], rate: int, tens: int, network: int
) -> None:
    # Sums of sixteenths are exact; the bound, 0.9 T - d, is kept off them by a 32nd.
    table = tuple(map(tuple, times))
    slo_s, network_s = (tens * 0.125 + 1 / 32) / 0.9, network / 16
    assert enumerate_choices(table, rate, slo_s, network_s) == closed_form(table, rate, slo_s, network_s)
