"""Policies by name: the built-in ones, and what packages offer under `steelyard.policies`.

A published policy runs on the data-plane rules of its own paper; `name+ours` runs it on the shared ones, so
that a comparison can tell the policy from its queue.
"""

from collections.abc import Callable
from importlib.metadata import entry_points

from steelyard.core.errors import SpecError
from steelyard.policies.base import Policy, PolicyContext, PolicyEntry
from steelyard.policies.fa2 import Fa2Policy
from steelyard.policies.hpa import make_hpa
from steelyard.policies.infadapter import InfAdapterPolicy
from steelyard.policies.inferline import InferlinePolicy
from steelyard.policies.ipa import IpaPolicy
from steelyard.policies.kpa import make_kpa
from steelyard.policies.loki import LokiPolicy
from steelyard.policies.options import nearest_first
from steelyard.policies.oracle import OraclePolicy
from steelyard.policies.per_service import PerService
from steelyard.policies.proteus import make_clipper, make_infaas, make_proteus, make_sommelier
from steelyard.policies.rayserve import make_rayserve
from steelyard.policies.sponge import SpongePolicy
from steelyard.policies.static import StaticPolicy
from steelyard.policies.steelyard.policy import SteelyardPolicy
from steelyard.policies.themis import ThemisPolicy
from steelyard.policies.themis2025 import Themis2025Policy
from steelyard.policies.uniform import on_cpus
from steelyard.policies.vpa import make_vpa

ENTRY_POINT_GROUP = "steelyard.policies"
OURS = "+ours"


def _each(make: Callable[[PolicyContext], Policy], summary: str, *, one_stage: bool = False) -> PolicyEntry:
    """A policy that was written for one service, for each service."""
    return PolicyEntry(lambda context: PerService(make, context), summary, one_stage=one_stage)


def _on_cpus(name: str, make: Callable[[PolicyContext], Policy], summary: str) -> PolicyEntry:
    """The same for a policy that knows neither variants nor devices: the first variant that is for CPUs."""
    return _each(lambda context: make(on_cpus(name, context)), summary)


def _families(make: Callable[[PolicyContext], Policy], summary: str) -> PolicyEntry:
    """A policy for services of one stage that share a cluster."""
    return PolicyEntry(make, summary, one_stage=True)


_BUILT_IN: dict[str, PolicyEntry] = {
    "steelyard": PolicyEntry(SteelyardPolicy, "cores within a window, replicas behind them, jointly planned"),
    "themis": _on_cpus("themis", ThemisPolicy, "cores at once, one-core replicas when calm (Themis, 2024)"),
    "themis2025": _on_cpus(
        "themis2025", Themis2025Policy, "the same, as its authors revised it (Themis, 2025)"
    ),
    "fa2": _on_cpus("fa2", Fa2Policy, "one-core replicas, as few as the pipeline allows (FA2, 2022)"),
    "sponge": _on_cpus("sponge", SpongePolicy, "cores only, for deadlines that move (Sponge, 2024)"),
    "inferline": _on_cpus(
        "inferline", InferlinePolicy, "planned once, replicas tuned to the last 30 s (InferLine, 2020)"
    ),
    "infadapter": _each(
        InfAdapterPolicy, "a mix of variants, cores for each, every 30 s (InfAdapter, 2023)", one_stage=True
    ),
    "ipa": _each(IpaPolicy, "a variant, a batch and replicas a stage, every 10 s (IPA, 2024)"),
    "hpa": _on_cpus("hpa", make_hpa, "replicas on CPU utilisation (Kubernetes HPA)"),
    "kpa": _on_cpus("kpa", make_kpa, "replicas on concurrency, with a panic window (Knative)"),
    "vpa": _on_cpus("vpa", make_vpa, "cores on a histogram of CPU usage, in place (Kubernetes VPA)"),
    "rayserve": _on_cpus("rayserve", make_rayserve, "replicas on ongoing requests, with delays (Ray Serve)"),
    "proteus": _families(make_proteus, "variants by device, for services that share them (Proteus, 2024)"),
    "clipper": _families(make_clipper, "the most accurate or the fastest variants, once (Clipper)"),
    "infaas": _families(make_infaas, "variants switched device by device, greedily (after INFaaS)"),
    "sommelier": _families(make_sommelier, "variants switched, placement fixed (after Sommelier)"),
    "loki": _each(LokiPolicy, "replicas first, then accuracy, along the paths of a pipeline (Loki, 2024)"),
    "oracle": _on_cpus("oracle", OraclePolicy, "knows the trace, pays real cold starts; in simulations only"),
    "static": PolicyEntry(StaticPolicy, "a fixed allocation, decided once"),
}


def known_policies() -> dict[str, PolicyEntry]:
    """Built-in and installed policies, by name; a built-in name cannot be taken.

    Raises:
        SpecError: an installed entry point is not a `PolicyEntry`.
    """
    installed: dict[str, PolicyEntry] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        entry = point.load()
        if not isinstance(entry, PolicyEntry):
            raise SpecError(
                f"entry point {point.name} of {ENTRY_POINT_GROUP}: want a PolicyEntry, got {entry!r}"
            )
        installed[point.name] = entry
    return dict(sorted({**installed, **_BUILT_IN}.items()))


def describe() -> tuple[tuple[str, str], ...]:
    """Name and one line of each policy, for listings."""
    return tuple((name, entry.summary) for name, entry in known_policies().items())


def make_policy(name: str, context: PolicyContext) -> Policy:
    """Make a policy by name; `+ours` puts it on the shared data-plane rules.

    Raises:
        SpecError: unknown name, or options that the policy does not take.
    """
    bare = name.removesuffix(OURS)
    known = known_policies()
    if bare not in known:
        raise SpecError(f"unknown policy {name!r}; there are: {', '.join(nearest_first(bare, known))}")
    published = context.published and bare == name
    made = PolicyContext(
        context.services,
        context.service_times,
        context.options,
        published=published,
        future=context.future,
    )
    return known[bare].make(made)
