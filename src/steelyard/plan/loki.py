"""Loki (Ahmad et al., HPDC 2024): replicas and variants of a tree of tasks on so many equal servers.

A task is given the items that its source's variant makes of each row, so a weaker variant before costs less
behind. A *step* is (variant, rows in a batch), a *path* the steps from the root to some task. With y(p) the
share of requests that go by p, D the demand, m(p) the rows that a request has become there, x(t, v, b) the
servers of a step and h what one of them answers, u the share that is not served:

    maximise    sum over p to leaf tasks of weight x accuracy(p) y(p) - price x sum of x - UNSERVED u
                - change x sum of servers that run a task and variant anew
    subject to  sum over first steps of y = 1 - u
                sum over the steps of a following task of y(p + step) = y(p)
                sum over p ending in a step of D m(p) y(p) <= h x(step)
                sum of x <= servers
                one batch size a variant

Paths that take more than half of the SLO, sum of 2 l(b) > SLO, are left out beforehand: so there are no big
constants that switch constraints, and nothing is bilinear. The last constraint is asked for only of variants
that break it, and the program solved again.

`published` solves twice, as the authors do: the most accurate variants alone on the fewest servers; if those
do not suffice, all variants, for accuracy alone. Ours is one program with a price for a server, so that a
plan may be cheaper *and* slightly less accurate. That changes cost something is ours, too. Accuracies of
paths are measured ones where they are given.
"""

from math import ceil
from typing import NamedTuple

from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.types import Frozen, PathAccuracy
from steelyard.plan.linear import GAP, TREE_NODES_MAX, Program

UNSERVED = 100.0
"""Accuracy that a request which is not served costs."""
PATHS_MAX = 20_000
GAIN_MIN = 1.03
"""A larger batch takes longer: it is looked at only if it answers so many times the rows a second."""
_ROUNDING = 1e-6

CHANGE = 0.01
"""What it costs to change what all servers run, in accuracy."""
PRICE = 0.01
"""What using all servers costs, in accuracy: what the price of a plan is unless it is said."""

Name = tuple[str, str]
"""(task, variant)."""
Path = tuple[Name, ...]
"""From the root to some task."""


class Option(Frozen, frozen=True):
    """A variant of a task: its accuracy in [0, 1], and seconds of a batch by rows, in ascending order."""

    name: str
    accuracy: float
    time_s: tuple[tuple[int, float], ...]


class Task(Frozen, frozen=True):
    """A task of the tree.

    Attributes:
        name: unique.
        options: its variants.
        source: the task before; empty for the first.
        items: rows it is given for each row of the source, by the source's variant ("" for all others).
        weight: of its accuracy, where no task follows.
    """

    name: str
    options: tuple[Option, ...]
    source: str = ""
    items: dict[str, float] = {}
    weight: float = 1.0

    def items_of(self, variant: str) -> float:
        """Rows for each row that this variant of the source has answered."""
        return self.items.get(variant, self.items.get("", 1.0))


class LokiProblem(Frozen, frozen=True):
    """A tree at one demand.

    Attributes:
        tasks: a source before those that follow it; the first is the root.
        demand_rps: requests a second.
        slo_s: end to end.
        servers: how many there are.
        headroom: rows are multiplied by it at every task.
        price: of using all servers, in accuracy.
        accuracies: measured, by variants of tasks.
        present: servers that run each task and variant now; empty: nothing runs, and starting is free.
        change: of all servers, in accuracy.
    """

    tasks: tuple[Task, ...]
    demand_rps: float
    slo_s: float
    servers: int
    headroom: float = 1.0
    price: float = PRICE
    accuracies: tuple[PathAccuracy, ...] = ()
    present: dict[Name, int] = {}
    change: float = CHANGE

    def following(self, task: str) -> list[Task]:
        """The tasks that take a task's items."""
        return [one for one in self.tasks if one.source == task]


class LokiPlan(Frozen, frozen=True):
    """What to run.

    Attributes:
        servers: by task and variant.
        rows: in one batch, by task and variant.
        shares: of requests, by every path of variants from the root to some task.
        accuracy: of what is served, mean over leaf tasks by weight; 0 if nothing is.
        unserved: share of requests.
    """

    servers: dict[Name, int]
    rows: dict[Name, int]
    shares: dict[Path, float]
    accuracy: float
    unserved: float

    @property
    def servers_used(self) -> int:
        """All of them together."""
        return sum(self.servers.values())


def published(problem: LokiProblem, *, tree_nodes_max: int = TREE_NODES_MAX, gap: float = GAP) -> LokiPlan:
    """Hardware first: the most accurate variants on the fewest servers; if they do not fit, all variants.

    Raises:
        SpecError: no path fits half of the SLO, or there are too many paths.
        SteelyardError: highspy is not installed.
    """
    hardware = solve(accurate(problem), tree_nodes_max=tree_nodes_max, gap=gap)
    if not hardware.unserved:
        return hardware
    return spread(problem, solve(replace(problem, price=0.0), tree_nodes_max=tree_nodes_max, gap=gap))


def accurate(problem: LokiProblem) -> LokiProblem:
    """The problem with the most accurate variant of each task alone: scaling of hardware only."""
    tasks = (replace(t, options=(max(t.options, key=lambda o: o.accuracy),)) for t in problem.tasks)
    return replace(problem, tasks=tuple(tasks), price=max(problem.price, PRICE))


def spread(problem: LokiProblem, plan: LokiPlan) -> LokiPlan:
    """The same with every server in use: one by one, they go to the variant that is closest to its limit."""
    loads, rates = loads_rps(problem, plan), rates_rps(problem, plan)
    servers = dict(plan.servers)
    for _ in range(problem.servers - plan.servers_used if servers else 0):
        servers[max(servers, key=lambda name: (loads[name] / (servers[name] * rates[name]), name))] += 1
    return replace(plan, servers=servers)


def loads_rps(problem: LokiProblem, plan: LokiPlan) -> dict[Name, float]:
    """Rows a second that each variant is planned to answer, headroom included."""
    loads = dict.fromkeys(plan.servers, 0.0)
    for path, share in plan.shares.items():
        loads[path[-1]] += problem.demand_rps * share * rows_of(problem, path)
    return loads


def rates_rps(problem: LokiProblem, plan: LokiPlan) -> dict[Name, float]:
    """Rows a second that one server of each variant answers with batches as planned."""
    times = {
        (task.name, option.name): dict(option.time_s) for task in problem.tasks for option in task.options
    }
    return {name: plan.rows[name] / times[name][plan.rows[name]] for name in plan.servers}


def rows_of(problem: LokiProblem, path: Path) -> float:
    """Rows that a request has become at the end of a path, headroom included."""
    rows, variants = 1.0, dict(path)
    for task in problem.tasks:
        if task.name in variants:
            source = variants.get(task.source, "")
            rows *= problem.headroom * (task.items_of(source) if task.source else 1.0)
    return rows


def accuracy_of(problem: LokiProblem, path: Path) -> float:
    """Of one path: as measured, where the path has all variants of a measurement; otherwise the product."""
    chosen = dict(path)
    for measured in problem.accuracies:
        if measured.variants.items() <= chosen.items():
            return measured.accuracy
    product = 1.0
    for task in problem.tasks:
        for option in task.options:
            if chosen.get(task.name) == option.name:
                product *= option.accuracy
    return product


def least_time_s(problem: LokiProblem, task: Task) -> float:
    """Seconds of batches from a task to the end of the last leaf behind it, at least."""
    behind = (least_time_s(problem, one) for one in problem.following(task.name))
    return min(step.time_s for step in _steps(task)) + max(behind, default=0.0)


def solve(problem: LokiProblem, *, tree_nodes_max: int = TREE_NODES_MAX, gap: float = GAP) -> LokiPlan:
    """The best plan by the problem's price; as many servers as the rows on them need.

    Raises:
        SpecError: no path fits half of the SLO, or there are too many paths.
        SteelyardError: highspy is not installed.
    """
    model = _Model(problem)
    while True:
        values = model.solve(tree_nodes_max, gap)
        broken = model.several_sizes(values)
        if not broken:
            return model.plan(values)
        for name in broken:
            model.allow_one_size(name)


class _Step(NamedTuple):
    """One way to run a task: a variant and the rows in a batch."""

    task: str
    variant: str
    rows: int
    time_s: float

    @property
    def rate_rps(self) -> float:
        return self.rows / self.time_s


_Steps = tuple[_Step, ...]


class _Model:
    """The program of one problem; constraints on batch sizes are added as they are broken."""

    def __init__(self, problem: LokiProblem) -> None:
        self._problem = problem
        self._program = Program()
        self._sized: set[Name] = set()
        self._server_of = {
            step: self._program.column(
                -problem.price / max(1, problem.servers), most=problem.servers, whole=True
            )
            for task in problem.tasks
            for step in _steps(task)
        }
        self._share_of: dict[_Steps, int] = {}
        self._add_paths()
        for step, server in self._server_of.items():
            taken = {
                share: problem.demand_rps * rows_of(problem, _names(path))
                for path, share in self._share_of.items()
                if path[-1] == step
            }
            self._program.row({**taken, server: -step.rate_rps}, most=0.0)
        self._program.row(dict.fromkeys(self._server_of.values(), 1.0), most=problem.servers)
        if problem.present and problem.change:
            self._charge_changes()

    def solve(self, tree_nodes_max: int, gap: float) -> tuple[float, ...]:
        """The values of all columns."""
        answer = self._program.solve(tree_nodes_max=tree_nodes_max, gap=gap)
        assert answer is not None, "serving nobody is a solution"
        return answer.values

    def several_sizes(self, values: tuple[float, ...]) -> list[Name]:
        """Variants that would run with more than one batch size."""
        used: dict[Name, int] = {}
        for step, needed in self._needed(values).items():
            used[step.task, step.variant] = used.get((step.task, step.variant), 0) + bool(needed)
        return [name for name, sizes in used.items() if sizes > 1]

    def allow_one_size(self, name: Name) -> None:
        """Ask for one batch size of a variant: x <= servers x (0 or 1), the latter at most once."""
        assert name not in self._sized, f"{name} has one size already"
        self._sized.add(name)
        switches = {}
        for step, server in self._server_of.items():
            if (step.task, step.variant) == name:
                switch = self._program.column(most=1.0, whole=True)
                self._program.row({server: 1.0, switch: -float(self._problem.servers)}, most=0.0)
                switches[switch] = 1.0
        self._program.row(switches, most=1.0)

    def plan(self, values: tuple[float, ...]) -> LokiPlan:
        """What the values say."""
        problem = self._problem
        shares: dict[Path, float] = {}
        for path, column in self._share_of.items():
            if values[column] > _ROUNDING:
                names = _names(path)
                shares[names] = shares.get(names, 0.0) + values[column]
        needed = {step: count for step, count in self._needed(values).items() if count}
        served = sum((share for path, share in shares.items() if len(path) == 1), 0.0)
        right = sum(
            (share * weight_of(problem, path) * accuracy_of(problem, path) for path, share in shares.items()),
            0.0,
        )
        unserved = 1.0 - served
        return LokiPlan(
            {(step.task, step.variant): count for step, count in needed.items()},
            {(step.task, step.variant): step.rows for step in needed},
            shares,
            right / served if served else 0.0,
            unserved if unserved > _ROUNDING * 10 else 0.0,
        )

    def _charge_changes(self) -> None:
        """A price for each server of a task and variant beyond those that run it now."""
        problem, of_name = self._problem, dict[Name, list[int]]()
        for step, server in self._server_of.items():
            of_name.setdefault((step.task, step.variant), []).append(server)
        for name, servers in of_name.items():
            changed = self._program.column(-problem.change / max(1, problem.servers))
            there = float(problem.present.get(name, 0))
            self._program.row({changed: 1.0, **dict.fromkeys(servers, -1.0)}, least=-there)

    def _needed(self, values: tuple[float, ...]) -> dict[_Step, int]:
        """Servers of each step for the rows that go there."""
        rows: dict[_Step, float] = dict.fromkeys(self._server_of, 0.0)
        for path, column in self._share_of.items():
            if values[column] > _ROUNDING:
                rows[path[-1]] += (
                    self._problem.demand_rps * rows_of(self._problem, _names(path)) * values[column]
                )
        return {step: ceil(rate / step.rate_rps - 10 * _ROUNDING) for step, rate in rows.items()}

    def _add_paths(self) -> None:
        """A share for each path that can end in time, and the flow from each to those that continue it."""
        problem = self._problem
        root = problem.tasks[0]
        least_s = {task.name: least_time_s(problem, task) for task in problem.tasks}
        first = self._add_steps(root, (), 0.0, least_s)
        if not first:
            raise SpecError(
                f"half of the SLO is {problem.slo_s * 500:g} ms, the fastest variants on single rows take "
                f"{least_s[root.name] * 1000:g} ms"
            )
        program = self._program
        program.row({**dict.fromkeys(first, 1.0), program.column(-UNSERVED): 1.0}, least=1.0, most=1.0)

    def _add_steps(self, task: Task, before: _Steps, took_s: float, least_s: dict[str, float]) -> list[int]:
        """Columns for every step of a task after a path; each with all that follows."""
        problem, columns = self._problem, []
        following = problem.following(task.name)
        behind_s = max((least_s[one.name] for one in following), default=0.0)
        for step in _steps(task):
            if 2.0 * (took_s + step.time_s + behind_s) > problem.slo_s * (1.0 + _ROUNDING):
                continue
            path = (*before, step)
            names = _names(path)
            share = self._program.column(weight_of(problem, names) * accuracy_of(problem, names))
            if len(self._share_of) >= PATHS_MAX:
                raise SpecError(
                    f"more than {PATHS_MAX} paths of variants and batch sizes: want fewer of them"
                )
            self._share_of[path] = share
            columns.append(share)
            for one in following:
                after = self._add_steps(one, path, took_s + step.time_s, least_s)
                self._program.row({**dict.fromkeys(after, 1.0), share: -1.0}, least=0.0, most=0.0)
        return columns


def weight_of(problem: LokiProblem, path: Path) -> float:
    """What the accuracy of a path counts: its leaf task's share of all weights; 0 where it goes on."""
    leaves = {task.name: task.weight for task in problem.tasks if not problem.following(task.name)}
    return leaves.get(path[-1][0], 0.0) / sum(leaves.values())


def _steps(task: Task) -> list[_Step]:
    """A task's variants with each batch size that answers `GAIN_MIN` times as much as all smaller ones."""
    steps = []
    for option in task.options:
        best_rps = 0.0
        for rows, time_s in option.time_s:
            if rows / time_s > best_rps * GAIN_MIN:
                best_rps = rows / time_s
                steps.append(_Step(task.name, option.name, rows, time_s))
    return steps


def _names(path: _Steps) -> Path:
    return tuple((step.task, step.variant) for step in path)
