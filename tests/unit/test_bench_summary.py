"""The summary of docs/results.md: its verdicts follow the records, and a missing record is called missing."""

from collections.abc import Mapping
from typing import Any

import summary_page


def line(said: str, records: Mapping[str, Any]) -> list[str]:
    """The cells of the line whose claim begins with `said`."""
    lines = [row for row in summary_page.summary(records.get).splitlines() if row.startswith(f"| [{said}")]
    assert len(lines) == 1, said
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_without_records_nothing_is_claimed() -> None:
    rows = summary_page.summary(lambda _name: None).splitlines()[2:]
    assert len(rows) == len(summary_page.CLAIMS)
    assert all(row.endswith("| not measured yet | – |") for row in rows)


def test_one_unanswered_request_and_the_claim_does_not_hold() -> None:
    record = {"kills": 3, "offered": 40, "unanswered": 0}
    assert line("A killed worker", {"kill": record})[1] == "holds"
    record["unanswered"] = 1
    assert line("A killed worker", {"kill": record})[1:] == [
        "**does not hold**",
        "3 kills, 1 of 40 requests unanswered",
    ]


def test_a_goal_reached_at_one_size_only_holds_in_part() -> None:
    def of(small: float, large: float) -> dict[str, Any]:
        return {"small": {"cpu_ratio_deciding": small}, "large": {"cpu_ratio_deciding": large}}

    goal = "Edge and decision"  # 1.6 is kept, 1.61 is not
    assert line(goal, {"edge": of(1.6, 1.6)})[1] == "holds"
    found = line(goal, {"edge": of(1.61, 1.6)})
    assert found[1:] == ["in part", "1.61 × at 3 KB, 1.60 × at 600 KB, interpreted"]
    found = line(goal, {"edge": of(1.6, 1.0), "edge_compiled": of(1.2, 1.7)})
    assert found[1:] == [
        "in part",
        "1.60 × at 3 KB, 1.00 × at 600 KB, interpreted; 1.20 × at 3 KB, 1.70 × at 600 KB, compiled",
    ]


def test_a_record_from_before_a_figure_was_taken_leaves_the_claim_open() -> None:
    record = {"small": {"cpu_ratio": 0.9}, "large": {"cpu_ratio": 0.5}}
    assert line("Edge and decision", {"edge": record})[1:] == ["not measured yet", "–"]


def test_a_setting_is_won_by_the_better_of_our_builds() -> None:
    def row(server: str, slo_ms: float, rate_rps: float | None) -> dict[str, Any]:
        return {"server": server, "model": "small", "slo_ms": slo_ms, "rate_rps": rate_rps}

    rows = [
        row("steelyard", 10.0, 90.0),
        row("steelyard, compiled", 10.0, 110.0),
        row("other", 10.0, 100.0),
        row("steelyard", 50.0, None),
        row("other", 50.0, None),
    ]
    # At 10 ms 110 > 100; at 50 ms nobody has a rate, so nobody wins.
    assert line("More requests", {"peers": {"rows": rows}})[1:] == [
        "in part",
        "the highest rate in 1 of 2 settings",
    ]
