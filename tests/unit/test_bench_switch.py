"""What the first batch after a switch is compared with, and how the page says it."""

import pytest
from switch import summary
from switch_page import switch


def test_first_batches_are_held_against_later_ones_of_the_same_variant() -> None:
    # Medians 12 and 10 ms: 2 more. The 0.99 quantile of two values lies 0.99 of the way between them.
    times = {"small": {True: {"service": [0.012]}, False: {"service": [0.008, 0.012]}}}
    ms = summary(times)["small"]["service"]
    assert ms == pytest.approx(
        {"first_p50": 12.0, "first_p99": 12.0, "later_p50": 10.0, "later_p99": 11.96, "added": 2.0}
    )


def test_a_variant_that_never_came_first_has_no_figures() -> None:
    assert summary({"tiny": {True: {}, False: {"service": [0.01]}}}) == {"tiny": {}}


def test_the_page_has_a_row_for_each_place_variant_and_time() -> None:
    ms = {"first_p50": 12.0, "later_p50": 10.0, "added": 2.0, "first_p99": 15.0, "later_p99": 14.0}
    timed = {"variants": {"small": {"service": ms, "dispatch": ms}}, "failed": 0, "switches": 200}
    record = {
        "rows": 2,
        "run": 5,
        "workers": [{**timed, "cores": 1, "batches": 1000, "cold_ms": 251.6}],
        "server": {**timed, "variants": {"small": {"latency": ms}}, "requests": 999},
    }
    lines = switch(record).splitlines()
    assert lines[0].startswith(
        "worker, 1 core: 200 switches, 1000 batches, 0 failed; server, 1 core: 200 switches, 999"
    )
    assert lines[0].endswith("Starting a replica for the variant instead takes 252 ms.")
    assert lines[4] == "| worker, 1 core: small | sent to started | 12.00 | 10.00 | 2.00 | 15.00 | 14.00 |"
    assert [line.split("|")[2].strip() for line in lines[4:]] == [
        "sent to started",
        "service time",
        "latency at the caller",
    ]
