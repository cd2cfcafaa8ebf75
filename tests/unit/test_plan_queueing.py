from math import inf, log

import pytest

from steelyard.plan.queueing import fill_wait_s, themis_fill_wait_ms


def test_themis_waits_for_the_rest_of_the_batch() -> None:
    assert themis_fill_wait_ms(1, 0.0) == 0.0
    assert themis_fill_wait_ms(4, 20.0) == 150.0  # 3 more at one every 50 ms
    assert themis_fill_wait_ms(2, 0.0) == inf


def test_one_gap_of_a_poisson_stream_is_exponential() -> None:
    assert fill_wait_s(2, 10.0, 0.99) == pytest.approx(log(100) / 10)  # -ln(1 - 0.99) / 10
    assert fill_wait_s(1, 10.0, 0.99) == 0.0
    assert fill_wait_s(3, 0.0, 0.99) == inf
