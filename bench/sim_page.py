"""Tables of docs/results.md about the simulator: how right it is, how fast, and where its time goes."""

from typing import Any

from _markdown import table

MODULES = 8
"""Of a profile, the modules that take most."""


def sim_speed(record: dict[str, Any]) -> str:
    """Requests a second by case; the ratio to SimPy."""
    rows = [
        (name, f"{found['cpu_rps']:,.0f}", f"{found['wall_rps']:,.0f}")
        for name, found in record["cases"].items()
    ]
    shown = table(("one stage", "requests a second of CPU time", "of wall time"), rows)
    ratio = f"On the same M/D/c queue, it is {record['over_simpy']:.2f} times as fast as SimPy."
    return f"{shown}\n\n{ratio}{_profile(record)}"


def sim_day(record: dict[str, Any]) -> str:
    """A day of traffic in a sentence."""
    summary = record["summary"]
    return (
        f"{summary['requests']:,} requests in {summary['simulated_s']:,.0f} s under `{record['policy']}`: "
        f"{record['cpu_s']:.0f} s of CPU time, {summary['wall_s']:.0f} s of wall time; "
        f"{summary['violation_ratio']:.3%} violations, {summary['core_seconds']:,.0f} core-seconds."
        f"{_profile(record)}"
    )


def theory(record: dict[str, Any]) -> str:
    """Means and quantiles of waits beside their formulas: the means, and how many of all miss."""
    rows = [
        (
            of["queue"],
            f"{of['rho']:.1f}",
            of["figure"],
            f"{of['theory_ms']:.3f}",
            f"{of['simulated_ms']:.3f} ± {of['half_width_ms']:.3f}",
        )
        for of in record["rows"]
        if of["figure"] in ("mean", "p99")
    ]
    shown = table(("queue", "load", "wait", "formula, ms", "simulated, ms"), rows)
    return (
        f"{shown}\n\nOf {record['figures']} figures (those above, and the other quantiles), "
        f"{record['outside']} lie outside their {record['confidence']:.0%} confidence intervals; "
        f"{record['requests']:,} requests each."
    )


def _profile(record: dict[str, Any]) -> str:
    largest = list(record["profile"].items())[:MODULES]
    if not largest:
        return ""
    shares = ", ".join(f"`{module}` {share:.0%}" for module, share in largest)
    return f" The profiler says where the time goes: {shares}."
