"""The report's numbers as HTML: a card a label, a table of all runs. All text from outside is escaped.

Over several seeds: requests and what became of them are sums, the share of violations is of those sums,
quantiles are the median of the runs' own, core-seconds and counts of replicas are means a run.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.report.palette import Style

CARDS_MAX = 6
_COLUMNS = (
    ("run", ""),
    ("requests", "in the trace, all seeds"),
    ("violations", "late, shed, rejected or failed"),
    ("share", "of requests that were not cancelled"),
    ("late", "answered after the SLO"),
    ("p50, ms", "of completed requests"),
    ("p99, ms", "of completed requests"),
    ("core-seconds", "reserved, a run"),
    ("accuracy", "of what was answered"),
    ("cold starts", "replicas started, a run"),
    ("resizes", "in place, a run"),
)
_SPREAD = ("least – most", "share of violations, by seed")


class Group(NamedTuple):
    """All runs of one label on one service."""

    service: str
    label: str
    runs: tuple[RunSummary, ...]

    @property
    def ratio(self) -> float:
        """Violations over requests that were not cancelled, of the sums."""
        requests = sum(run.requests - run.cancelled for run in self.runs)
        return sum(run.violations for run in self.runs) / requests if requests else 0.0

    @property
    def core_seconds(self) -> float:
        """Reserved, mean of the runs."""
        return fmean(run.core_seconds for run in self.runs)


def groups_of(runs: Sequence[RunSeries]) -> list[Group]:
    """Runs by (service, label), in the order in which they first appear."""
    found: dict[tuple[str, str], list[RunSummary]] = {}
    for run in runs:
        found.setdefault((run.summary.service, run.label), []).append(run.summary)
    return [Group(service, label, tuple(own)) for (service, label), own in found.items()]


def cards(groups: Sequence[Group], style: Mapping[str, Style]) -> str:
    """The share of violations and what was reserved for it; nothing where the cards would be many."""
    if len(groups) > CARDS_MAX:
        return ""
    several = len({group.service for group in groups}) > 1
    made = [
        f'<div class="card" style="--run:{style[group.label].colour}"><h3>{_name(group, several)}</h3>'
        f'<p class="big">{group.ratio:.2%}</p><p>violations</p>'
        f'<p class="big">{group.core_seconds:,.1f}</p><p>core-seconds</p></div>'
        for group in groups
    ]
    return f'<div class="cards">{"".join(made)}</div>'


def table(groups: Sequence[Group], style: Mapping[str, Style]) -> str:
    """One line a label; the spread over seeds where there are several."""
    spread = any(len(group.runs) > 1 for group in groups)
    several = len({group.service for group in groups}) > 1
    columns = [*_COLUMNS[:4], *([_SPREAD] if spread else []), *_COLUMNS[4:]]
    head = "".join(f'<th title="{html.escape(meaning)}">{name}</th>' for name, meaning in columns)
    rows = "".join(
        f'<tr><th scope="row"><i style="background:{style[group.label].colour}"></i>'
        f"{_name(group, several)}</th>"
        + "".join(f"<td>{cell}</td>" for cell in _cells(group, spread))
        + "</tr>"
        for group in groups
    )
    kind = ' class="tight"' if spread else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _name(group: Group, several: bool) -> str:
    return html.escape(f"{group.service}: {group.label}" if several else group.label)


def _cells(group: Group, spread: bool) -> list[str]:
    def total(count: Callable[[RunSummary], int]) -> str:
        return f"{sum(map(count, group.runs)):,}"

    shares = [run.violation_ratio for run in group.runs]
    between = [f"{min(shares):.2%} – {max(shares):.2%}"] if spread else []
    accuracy = [run.accuracy_mean for run in group.runs if run.accuracy_mean is not None]
    return [
        total(lambda run: run.requests),
        total(lambda run: run.violations),
        _share(group.ratio),
        *between,
        total(lambda run: run.late),
        _middle([run.latency_ms.get("p50") for run in group.runs]),
        _middle([run.latency_ms.get("p99") for run in group.runs]),
        f"{group.core_seconds:,.1f}",
        f"{fmean(accuracy):.1%}" if accuracy else "–",
        _mean([run.cold_starts for run in group.runs]),
        _mean([run.resizes for run in group.runs]),
    ]


def _share(ratio: float) -> str:
    """With the digits that tell small shares apart."""
    return f"{ratio:.3%}" if 0 < ratio < 0.001 else f"{ratio:.2%}"


def _middle(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):,.0f}" if known else "–"


def _mean(values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):,.0f}" if known else "–"
