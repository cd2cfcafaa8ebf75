"""Which policy a spec asks for, and whether it can be had: known before anything is measured or started."""

from collections.abc import Iterable, Mapping

from steelyard.config.load import LoadedSpec
from steelyard.config.schema import PolicySpec, Spec
from steelyard.config.source import nearest
from steelyard.core.errors import SpecError
from steelyard.core.types import Service
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import OURS, known_policies, make_policy
from steelyard.profile.times import DeclaredTimes
from steelyard.profile.types import DeclaredLatency


def chosen_policy(spec: Spec, name: str | None = None) -> PolicySpec:
    """The policy to run: `name` if given, else the spec's; a configuration's name gives what it stands for.

    `+ours` behind a configuration's name carries over to its policy. Options beside the name win.
    """
    asked = spec.policy if name is None else PolicySpec(name=name)
    base, plus, rules = asked.name.partition("+")
    configured = spec.policies.get(base)
    if configured is None:
        return asked
    return PolicySpec(name=configured.name + plus + rules, **{**configured.options, **asked.options})


def asked_policy(
    loaded: LoadedSpec, name: str | None, services: Mapping[str, Service], *, clairvoyant: bool = False
) -> PolicySpec:
    """The policy to run: `name`, as `--policy` gave it, or else the spec's.

    Args:
        loaded: the checked spec.
        name: a policy's or a configuration's name, or None.
        services: what it is for.
        clairvoyant: whether what is to come is known: in a simulation.

    Raises:
        SpecError: there is no such policy, or it refuses its options or these services; or a configuration,
            asked for or not, is of a policy that does not exist, or has the name of another one.
    """
    for key, configured in loaded.spec.policies.items():
        if unknown := _unknown(configured.name, known_policies()):
            raise loaded.source.error(("policies", key, "name"), unknown)
        if key in known_policies() and configured.name.removesuffix(OURS) != key:
            message = f"{key} is a policy's own name: a configuration of {configured.name} wants another"
            raise loaded.source.error(("policies", key), message)
    chosen = chosen_policy(loaded.spec, name)
    problem = policy_problem(chosen, loaded.spec, services, clairvoyant=clairvoyant)
    if problem:
        problem = problem.removeprefix("policy ")  # the option or key says so already
        own = {} if name else loaded.spec.policy.options
        key = (name or loaded.spec.policy.name).partition("+")[0]
        if key in loaded.spec.policies and not own:  # so what is wrong stands there
            raise loaded.source.error(("policies", key), problem)
        raise SpecError(f"--policy: {problem}") if name else loaded.source.error(("policy",), problem)
    return chosen


def policy_problem(
    chosen: PolicySpec, spec: Spec, services: Mapping[str, Service], *, clairvoyant: bool = False
) -> str:
    """Why the policy cannot be made, in one line; empty if it can.

    Policies look at service times when they decide, not when they are made, so any times will do here; and so
    will any future.
    """
    if unknown := _unknown(chosen.name, (*known_policies(), *spec.policies)):
        return unknown
    any_times = DeclaredTimes(DeclaredLatency(coefficients_ms=(1.0, 0.0, 0.0, 0.0)))
    times = {(name, stage.name): any_times for name, service in services.items() for stage in service.stages}
    future = dict.fromkeys(services, (0,)) if clairvoyant else None
    try:
        make_policy(chosen.name, PolicyContext(services, times, chosen.options, future=future))
    except SpecError as error:
        return str(error)
    return ""


def _unknown(name: str, choices: Iterable[str]) -> str:
    """What to say if there is no such policy, with the nearest of the choices; else empty."""
    if name.removesuffix(OURS) in known_policies():
        return ""
    return f"unknown policy {name}{nearest(name, tuple(choices))}"
