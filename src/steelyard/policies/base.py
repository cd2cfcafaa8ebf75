"""The contract of a policy: what it is asked, where and how often, and what it may answer (docs/adr/0006).

A policy sees all services. `decide` may take its time: the control machine asks for it with `Solve`, the
driver runs it in a planner process, and the answer is validated on a fresh snapshot. `react` is optional,
inline and short (<= 200 us); it moves cores and starts or cancels replicas, nothing else.

Two instances live side by side: `decide` is only called on the planner's, `react` only on the control
machine's. They share nothing but the snapshot, whose `desired` shows `react` what `decide` last wanted.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from steelyard.core.plan import Decision, Grants
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Frozen, Service, ServiceTimes


class PolicyContext:
    """What a policy knows for good: the services, their service times, and its own options.

    Attributes:
        services: by name.
        service_times: by (service, stage).
        options: the policy's own, from the spec; unknown ones are a `SpecError` that names the nearest.
        published: run on the rules of its own paper; otherwise on the shared ones (`name+ours`).
        future: rows that arrive in each whole second from time 0 on, by service; empty but in a simulation,
            and only for clairvoyants (`oracle`), or where a baseline's authors sized it by the trace's
            maximum (`sponge`): what a policy decides while it serves must not come from it.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        service_times: Mapping[tuple[str, str], ServiceTimes],
        options: Mapping[str, object] | None = None,
        *,
        published: bool = True,
        future: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.services = dict(services)
        self.service_times = dict(service_times)
        self.options = dict(options or {})
        self.published = published
        self.future = dict(future or {})


class Policy(Protocol):
    """A policy.

    Attributes:
        name: as registered.
        solve_s: seconds that a simulation charges for one `decide`.
        reacts: whether `react` can ever grant something: only then are free cores offered to admission.
    """

    name: str
    solve_s: float
    reacts: bool

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        """Move cores or start replicas within this window; None for nothing. Must not mutate the snapshot."""
        ...

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Decide on the desired state. Called first when the server starts, with empty windows.

        Services that are unloaded are not in the snapshot; what is planned for them is not carried out.
        """
        ...


class PolicyEntry(Frozen, frozen=True):
    """A registered policy.

    Attributes:
        make: its factory.
        summary: one line for listings.
        one_stage: whether it refuses services of several stages.
    """

    make: Callable[[PolicyContext], Policy]
    summary: str
    one_stage: bool = False
