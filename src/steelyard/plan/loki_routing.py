"""Most accurate first (Loki, HPDC 2024): the routing tables that fill accurate servers before others.

For each task, in the order of the tree, its variants are sorted by accuracy, the most accurate first, and the
paths by which rows come as well. One path after the other is given what is left of the most accurate variants
that have room; so when demand is below plan, accuracy is above it. What nobody has room for is divided by the
number of servers.

Two differences from the release: it sorts variants the other way round, and paths that are not comparable
position by position are an error there; here paths are sorted by the accuracy of the whole path.
"""

from steelyard.plan.loki import LokiPlan, LokiProblem, Name, Path, accuracy_of, rates_rps, rows_of

Tables = dict[str, dict[tuple[str, ...], dict[str, float]]]
"""By task, then the variants of the tasks before it on its path, then its own variant: share of the rows."""


def most_accurate_first(problem: LokiProblem, plan: LokiPlan) -> Tables:
    """Tables for the problem's demand on the plan's servers; a task without servers has none."""
    rates = rates_rps(problem, plan)
    tables: Tables = {}
    arriving: dict[str, dict[Path, float]] = {problem.tasks[0].name: {(): problem.demand_rps}}
    for task in problem.tasks:
        order = sorted(task.options, key=lambda option: (-option.accuracy, option.name))
        variants = [option.name for option in order if plan.servers.get((task.name, option.name))]
        room = {name: plan.servers[task.name, name] * rates[task.name, name] for name in variants}
        paths = arriving.get(task.name, {})
        table = tables.setdefault(task.name, {})
        for path in sorted(paths, key=lambda one: (-accuracy_of(problem, one), one)) if variants else ():
            rate_rps = paths[path] * rows_of(problem, (*path, (task.name, variants[0])))
            shares = _filled(rate_rps, room)
            _share_equally(1.0 - sum(shares.values(), 0.0), shares, plan, task.name)
            table[tuple(variant for _, variant in path)] = shares
            for one in problem.following(task.name):
                onward = arriving.setdefault(one.name, {})
                for variant, share in shares.items():
                    onward[(*path, (task.name, variant))] = paths[path] * share
    return tables


def mix_of(problem: LokiProblem, tables: Tables, task: str) -> dict[str, float]:
    """Shares of a task's rows by variant, over all paths; empty without a table."""
    requests: dict[Path, float] = {(): 1.0}
    chain = _ancestors(problem, task)
    totals: dict[str, float] = {}
    for name in (*chain, task):
        onward: dict[Path, float] = {}
        for path, share in requests.items():
            for variant, part in tables[name].get(tuple(v for _, v in path), {}).items():
                onward[(*path, (name, variant))] = share * part
        requests = onward
    for path, share in requests.items():
        totals[path[-1][1]] = totals.get(path[-1][1], 0.0) + share * rows_of(problem, path)
    whole = sum(totals.values(), 0.0)
    return {variant: rows / whole for variant, rows in totals.items() if rows} if whole else {}


def _filled(rate_rps: float, room: dict[str, float]) -> dict[str, float]:
    """Shares of a rate by variant, the first first; takes them from `room`."""
    shares: dict[str, float] = {}
    left = rate_rps
    for variant, free in room.items():
        taken = min(left, free)
        if taken > 0:
            shares[variant] = taken / rate_rps
            room[variant] -= taken
            left -= taken
    return shares


def _share_equally(left: float, shares: dict[str, float], plan: LokiPlan, task: str) -> None:
    """Add what nobody has room for, by the number of servers."""
    counts = {name: count for name, count in plan.servers.items() if name[0] == task}
    servers = sum(counts.values())
    if left > 1e-9:
        for (_, variant), count in counts.items():
            shares[variant] = shares.get(variant, 0.0) + left * count / servers


def _ancestors(problem: LokiProblem, task: str) -> list[str]:
    sources = {one.name: one.source for one in problem.tasks}
    chain: list[str] = []
    while sources[task]:
        task = sources[task]
        chain.insert(0, task)
    return chain


__all__ = ["Name", "Tables", "mix_of", "most_accurate_first"]
