"""Proteus (Ahmad et al., ASPLOS 2024), and what it was compared with: Clipper-HA/HT, INFaaS, Sommelier.

All share a cluster's devices among services of one stage (`families`) and start alike, with the optimum of
Proteus' program (`plan.proteus`) for the first demand. They differ in what they do about the next one:

- `proteus` solves it anew every 10 s, and when demand exceeds capacity: variants, placement and shares;
- `sommelier` the same with the placement of the start: a device keeps its family and switches variants;
- `infaas` switches variants device by device, greedily and each family for itself (`plan.infaas`);
- `clipper` does nothing. Its variants are the most accurate ones (`variants: accurate`, Clipper-HA) or those
  of the highest throughput (`variants: fast`, Clipper-HT).

`published` brings Proteus' data plane for all of them, so that they differ in nothing else: each row is given
to one device as it comes, by the planned shares, and each device forms its batches by Proteus' rule of five
steps; option `batching`: `adaptive`, `aimd` (Clipper) or `nexus`.

What differs from the release: rows follow the planned shares (the released simulator sends them to any device
of the family); no re-solves at hand-set seconds of a trace; devices that the optimum does not use go to the
families closest to their limit; of equal optima the one that changes fewest devices; every family keeps a
device. INFaaS and Sommelier are likenesses: their choice of variants, without their other machinery.
"""

from collections.abc import Callable

from msgspec.structs import replace

from steelyard.plan.infaas import switched
from steelyard.plan.proteus import CHANGE, Hosted, Hosting, Key, ProteusProblem, hosting_of, solve, spread
from steelyard.policies.base import PolicyContext
from steelyard.policies.families import BATCHING, HOSTS, Chooser, FamilyPolicy, one_of
from steelyard.policies.options import duration_s, integer, number, refuse_unknown

PERIOD_S = 10.0
GREEDY_PERIOD_S = 2.0
HEADROOM = 1.05
SOMMELIER_HEADROOM = 1.5
TREE_NODES_MAX = 200
GAP = 1e-3
CHANGE_OF_FAMILY = 0.03
"""What it costs to give all devices to another family: they answer nothing while they load its variants."""
COMMON = ("cores", "batching", "headroom", "hosts", "change")
NEVER = float("inf")


def optimum(problem: ProteusProblem) -> Hosting:
    """Proteus' program, and every device in use."""
    return spread(problem, solve(problem, tree_nodes_max=TREE_NODES_MAX, gap=GAP))


class Everything:
    """Variants, placement and shares anew each time."""

    def choose(self, problem: ProteusProblem) -> Hosting:
        """The optimum."""
        return optimum(problem)


class FixedPlacement:
    """Variants and shares anew; each device keeps the family of the first time."""

    def __init__(self) -> None:
        self._placement: dict[tuple[str, str], int] | None = None

    def choose(self, problem: ProteusProblem) -> Hosting:
        """The optimum, from the second time on within the placement."""
        hosting = optimum(replace(problem, placement=self._placement))
        if self._placement is None:
            keyed, placement = problem.keyed(), dict[tuple[str, str], int]()
            for key, count in hosting.counts.items():
                place = (keyed[key].kind, key[0])
                placement[place] = placement.get(place, 0) + count
            self._placement = placement
        return hosting


class Greedy:
    """Each family switches its own devices' variants."""

    def __init__(self) -> None:
        self._counts: dict[Key, int] | None = None

    def choose(self, problem: ProteusProblem) -> Hosting:
        """The optimum the first time, then one family after the other."""
        if self._counts is None:
            hosting = optimum(problem)
            self._counts = hosting.counts
            return hosting
        counts: dict[Key, int] = {}
        for family in problem.families:
            counts |= switched(family, self._counts)
        self._counts = counts
        return hosting_of(problem, counts)


class Restricted:
    """The optimum over one variant of each family on each kind of device, once.

    Args:
        worth: which one that is: what has most of it.
    """

    def __init__(self, worth: Callable[[Hosted], tuple[float, float]]) -> None:
        self._worth = worth

    def choose(self, problem: ProteusProblem) -> Hosting:
        """For the demand that it is first asked with."""
        families = []
        for family in problem.families:
            best: dict[str, Hosted] = {}
            for one in family.variants:
                if one.kind not in best or self._worth(one) > self._worth(best[one.kind]):
                    best[one.kind] = one
            families.append(replace(family, variants=tuple(best.values())))
        return optimum(replace(problem, families=tuple(families)))


VARIANTS: dict[str, Callable[[Hosted], tuple[float, float]]] = {
    "accurate": lambda one: (one.accuracy, one.rate_rps),
    "fast": lambda one: (one.rate_rps, one.accuracy),
}
"""What Clipper's static choice may be."""


def make_proteus(context: PolicyContext) -> FamilyPolicy:
    """Options: `cores`, `batching`, `hosts`, `change`, `headroom` (1.05), `period` (10s).

    Raises:
        SpecError: an option or a service is none for it.
    """
    return _made("proteus", context, Everything(), HEADROOM, PERIOD_S)


def make_sommelier(context: PolicyContext) -> FamilyPolicy:
    """Options: as `proteus`; `headroom` 1.5, its factor in the authors' comparison.

    Raises:
        SpecError: an option or a service is none for it.
    """
    return _made("sommelier", context, FixedPlacement(), SOMMELIER_HEADROOM, PERIOD_S)


def make_infaas(context: PolicyContext) -> FamilyPolicy:
    """Options: as `proteus`; `period` 2s.

    Raises:
        SpecError: an option or a service is none for it.
    """
    return _made("infaas", context, Greedy(), HEADROOM, GREEDY_PERIOD_S)


def make_clipper(context: PolicyContext) -> FamilyPolicy:
    """Options: `variants` (accurate or fast); `cores`, `batching`, `hosts`, `change`, `headroom`.

    Raises:
        SpecError: an option or a service is none for it.
    """
    worth = VARIANTS[one_of("clipper", context.options, "variants", tuple(VARIANTS))]
    return _made("clipper", context, Restricted(worth), HEADROOM, NEVER)


def _made(
    name: str, context: PolicyContext, chooser: Chooser, headroom: float, period_s: float
) -> FamilyPolicy:
    own = ("variants",) if name == "clipper" else ("period",)
    refuse_unknown(name, context.options, (*COMMON, *own))
    hosts = one_of(name, context.options, "hosts", HOSTS)
    change = CHANGE if hosts == "variants" else CHANGE_OF_FAMILY
    return FamilyPolicy(
        name,
        context,
        chooser,
        headroom=number(name, context.options, "headroom", headroom, least=0.1, most=10.0),
        period_s=duration_s(name, context.options, "period", period_s, least_s=1.0),
        cores=integer(name, context.options, "cores", 1, least=1),
        batching=one_of(name, context.options, "batching", BATCHING),
        hosts=hosts,
        change=number(name, context.options, "change", change, least=0.0, most=10.0),
    )
