"""What the demo shows while a run is on: a live panel on a terminal, a line now and then elsewhere."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from steelyard.demo.account import Sample, violations_between

_TICKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 44
_LINE_EVERY_S = 5.0


class Stand(NamedTuple):
    """How a run stands; `samples` are those so far, at least one; `noun` is what is counted."""

    title: str
    slo_ms: float
    seconds: float
    samples: Sequence[Sample]
    noun: str = "lines"


def sparkline(values: Sequence[float], *, top: float | None = None) -> str:
    """The last values as blocks from 0 to `top` (their largest if None); higher ones are cut off."""
    shown = values[-_SPARK_WIDTH:]
    scale = max(shown, default=0.0) if top is None else top
    if scale <= 0:
        return _TICKS[0] * len(shown)
    return "".join(_TICKS[min(int(value / scale * len(_TICKS)), len(_TICKS) - 1)] for value in shown)


def panel(stand: Stand) -> RenderableType:
    """The live panel: rate, p99 against the SLO, cores, replicas, violations."""
    statuses = [sample.status for sample in stand.samples]
    now, at_s = statuses[-1], stand.samples[-1].at_s
    violations = [violations_between(statuses[0], status) for status in statuses]
    fresh = [after - before for before, after in zip([0, *violations], violations, strict=False)]
    requests = now.counters.get("requests", 0) - statuses[0].counters.get("requests", 0)
    p99_ms = now.p99_ms or 0.0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=10)
    table.add_column(min_width=_SPARK_WIDTH)
    table.add_column()
    table.add_row(
        "rate", _spark([s.rate_rps for s in statuses], "cyan"), f"{now.rate_rps:.0f} {stand.noun}/s"
    )
    table.add_row(
        "p99",
        _spark([s.p99_ms or 0.0 for s in statuses], "green", top=stand.slo_ms),
        Text(f"{p99_ms:.0f} ms of {stand.slo_ms:g} ms", style="red" if p99_ms > stand.slo_ms else "green"),
    )
    most = max([2.0, *(s.cores for s in statuses)])
    table.add_row("cores", _spark([s.cores for s in statuses], "yellow", top=most), f"{now.cores:g}")
    replicas = [float(len(s.replicas)) for s in statuses]
    table.add_row("replicas", _spark(replicas, "magenta", top=most), f"{len(now.replicas)}")
    share = violations[-1] / requests if requests else 0.0
    table.add_row(
        "violations",
        _spark([float(n) for n in fresh], "red"),
        Text(f"{violations[-1]} ({share:.1%})", style="red" if violations[-1] else "green"),
    )
    bar = ProgressBar(total=stand.seconds, completed=min(at_s, stand.seconds), width=_SPARK_WIDTH)
    table.add_row("time", bar, f"{min(at_s, stand.seconds):.0f} of {stand.seconds:.0f} s")
    return Panel(table, title=stand.title, title_align="left", border_style="dim", expand=False)


def line(stand: Stand) -> str:
    """The same in one line."""
    first, (at_s, now) = stand.samples[0].status, stand.samples[-1]
    p99 = "-" if now.p99_ms is None else f"{now.p99_ms:.0f}"
    return (
        f"  {at_s:3.0f} s  {now.rate_rps:5.1f} {stand.noun}/s  p99 {p99} ms  cores {now.cores:g}  "
        f"replicas {len(now.replicas)}  violations {violations_between(first, now)}"
    )


class View:
    """Shows a run as it goes on; use as a context manager around it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next_line_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, stand: Stand) -> None:
        """Draw how the run stands now."""
        if self._live is not None:
            self._live.update(panel(stand), refresh=True)
        elif stand.samples[-1].at_s >= self._next_line_s:
            self._console.print(line(stand), highlight=False, soft_wrap=True)
            self._next_line_s = stand.samples[-1].at_s + _LINE_EVERY_S


def _spark(values: Sequence[float], style: str, *, top: float | None = None) -> Text:
    return Text(sparkline(values, top=top), style=style)
