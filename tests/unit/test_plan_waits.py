from math import inf, log

import numpy as np
import pytest

from steelyard.core.errors import SpecError
from steelyard.plan.tails import wait_quantile_s
from steelyard.plan.waits import WAITS, Load, wait_model


def load(rate: float = 10.0, *rows: int, loss: float = 0.01) -> Load:
    ones = np.ones(len(rows))
    return Load(
        rate * ones, np.array(rows), 0.1 * ones, 0.1 * ones, np.array([2] * len(rows)), loss * ones, ones
    )


def test_no_wait() -> None:
    assert wait_model("none").wait_s(load(10.0, 1, 4)).tolist() == [0.0, 0.0]


def test_a_batch_that_fills_evenly() -> None:
    # three more at one every 100 ms
    assert wait_model("fill").wait_s(load(10.0, 1, 4)).tolist() == pytest.approx([0.0, 0.3])
    assert wait_model("fill").wait_s(load(0.0, 1, 4)).tolist() == [0.0, inf]


def test_each_gap_at_its_quantile() -> None:
    # -ln 0.01 = 4.605 mean gaps each
    found = wait_model("exponential").wait_s(load(10.0, 1, 2, 4))
    assert found.tolist() == pytest.approx([0.0, log(100) / 10, 3 * log(100) / 10])


def test_all_gaps_together_at_their_quantile() -> None:
    # one gap is exponential; the 0.99 quantile of Gamma(3) is 8.406, far less than 3 x 4.605
    found = wait_model("gamma").wait_s(load(10.0, 1, 2, 4))
    assert found.tolist() == pytest.approx([0.0, log(100) / 10, 0.8406], rel=1e-3)


def test_a_busy_replica() -> None:
    found = wait_model("tail").wait_s(load(12.0, 1, 2))
    expected = wait_quantile_s(12.0, 0.1, 2, 0.01, rows=np.array([1, 2]), single_s=0.1)
    assert found.tolist() == expected.tolist()
    assert wait_model("tail").busy
    assert not any(model.busy for name, model in WAITS.items() if name != "tail")


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="no wait model 'gama': did you mean gamma"):
        wait_model("gama")
    with pytest.raises(SpecError, match="known are none, fill, exponential, gamma, tail"):
        wait_model("xyz")
