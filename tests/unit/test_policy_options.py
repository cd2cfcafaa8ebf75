import pytest

from steelyard.core.errors import SpecError
from steelyard.policies.options import duration_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("400ms", 0.4),
        ("15s", 15.0),
        ("2m", 120.0),
        ("24h", 86_400.0),
        ("1.5 s", 1.5),
        (".5s", 0.5),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_read_as_the_spec_writes_it(text: str, seconds: float) -> None:
    assert duration_s("hpa", {"period": text}, "period", 1.0) == pytest.approx(seconds)


def test_a_missing_duration_is_the_default() -> None:
    assert duration_s("hpa", {}, "period", 15.0, least_s=20.0) == 15.0


@pytest.mark.parametrize("value", [15, 15.0, "15", "15 seconds", "-1s", "", None, True, "1s2m"])
def test_what_is_not_a_duration_is_refused(value: object) -> None:
    with pytest.raises(SpecError, match="policy hpa: option period: want a duration such as 15s or 2m, got"):
        duration_s("hpa", {"period": value}, "period", 15.0)


def test_a_duration_has_limits() -> None:
    with pytest.raises(SpecError, match="option period: want 1s to 60s, got 2m"):
        duration_s("hpa", {"period": "2m"}, "period", 15.0, least_s=1.0, most_s=60.0)
