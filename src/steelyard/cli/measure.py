"""Service times for every stage of a deployment: declared in the spec, stored, or measured now.

A declared latency is never measured over: the user said so. What was measured is stored at once, so neither a
restart nor an interrupted run measures twice.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from steelyard.cli.edge_times import edge_times
from steelyard.cli.output import say
from steelyard.cli.progress import progress_bar
from steelyard.config.accuracies import check_floor
from steelyard.config.load import LoadedSpec
from steelyard.config.measured import with_accuracies
from steelyard.config.planning import least_s
from steelyard.config.stages import profiled_variant
from steelyard.config.units import duration_text
from steelyard.core.types import Variant
from steelyard.profile.tables import StageTimes, service_times
from steelyard.profile.types import RANDOM, Constants, Profile
from steelyard.profiler.grid import Form
from steelyard.profiler.profile import missing, profile_variant, stored_profile
from steelyard.profiler.recorded import Recorded
from steelyard.profiler.store import ProfileStore, default_directory
from steelyard.profiler.subject import Subject
from steelyard.runtime.base import WidthRule
from steelyard.runtime.widths import width_rules
from steelyard.serve.base import Deployment, ServedService


class Measured(NamedTuple):
    """A variant in its place in a deployment, with its profile."""

    service: str
    stage: str
    subject: Subject
    profile: Profile


def measure(
    deployment: Deployment,
    profiles: Path | None,
    *,
    core_ids: Sequence[int],
    form: Form,
    recorded: Mapping[tuple[str, str], Recorded] = {},
) -> tuple[Measured, ...]:
    """Every variant that declares no latency, with its profile: stored, or measured where that lacks points.

    Glue that cannot be measured by itself has one only if it is stored, or its inputs were recorded.

    Args:
        deployment: what is to be served; a model that stands in two places is found stored at the second.
        profiles: the store's directory; None for the user's cache.
        core_ids: cores to measure on; nothing else should run there.
        form: `quick` or `full`.
        recorded: by (service, stage), what it was given; the others are measured on random inputs.

    Raises:
        ModelError: a model fails.
        ProfileError: the store cannot be written.
    """
    store = ProfileStore(profiles or default_directory())
    found: list[Measured] = []
    for service, deployed in deployment.services.items():
        for stage_name, stage in deployed.stages.items():
            for spec in stage.specs:
                if spec.name in stage.declared:
                    continue
                rows_max = spec.batch_rows_max or 1
                subject = Subject(stage.model, spec, stage.signature, rows_max, stage.buckets)
                rows = recorded.get((service, stage_name))
                profile = (
                    stored_profile(subject, store, cores=len(core_ids))
                    if spec.name in stage.assumed and rows is None
                    else _measure_one(subject, deployed.served, store, core_ids, form, rows)
                )
                if profile is not None:
                    found.append(Measured(service, stage_name, subject, profile))
    return tuple(found)


def stage_times(deployment: Deployment, measured: Sequence[Measured]) -> tuple[StageTimes, ...]:
    """What is known of each stage's variants: what they declare, their profiles, or what is assumed."""
    found: list[StageTimes] = []
    for service, deployed in deployment.services.items():
        for name, stage in deployed.stages.items():
            profiles = tuple(m.profile for m in measured if (m.service, m.stage) == (service, name))
            known = {profile.variant for profile in profiles}
            assumed = {variant: times for variant, times in stage.assumed.items() if variant not in known}
            found.append(StageTimes(service, name, profiles, {**assumed, **stage.declared}, stage.bucket))
    return tuple(found)


def hopeless(deployment: Deployment, times: Sequence[StageTimes], cores: int) -> Iterator[str]:
    """A line for each service that is too slow for its objective, whatever it is given.

    It is no error: times that were measured beside something else may be worse than those that follow.

    Args:
        deployment: what is to be served.
        times: of all its stages.
        cores: most that a replica can have.
    """
    for name, deployed in deployment.services.items():
        service = deployed.served.service
        known = {stage.stage: service_times(stage) for stage in times if stage.service == name}
        fastest_s = least_s(service, known, cores)
        if fastest_s > service.slo_s:
            yield (
                f"services.{name}.slo.latency: {duration_text(service.slo_s)} cannot be kept: a single row "
                f"takes {fastest_s * 1e3:.4g}ms on the most cores; expect refusals"
            )


def widths_of(measured: Sequence[Measured]) -> dict[tuple[str, str, str], tuple[WidthRule, ...]]:
    """By (service, stage, variant): how to spend several cores on one batch, as profiled."""
    return {(m.service, m.stage, m.subject.spec.name): width_rules(m.profile) for m in measured}


def with_measured(
    deployment: Deployment, measured: Sequence[Measured], loaded: LoadedSpec, directory: Path
) -> Deployment:
    """The deployment with measured starts, resizes, replies and accuracies where the spec states none.

    Args:
        deployment: what is to be served.
        measured: its variants' profiles.
        loaded: the checked spec.
        directory: of the profiles, where measured accuracies are, too.

    Raises:
        ProfileError: the accuracies cannot be read.
        SpecError: they are below what the service is to have at least.

    A reply's default holds where the codec is faster: it also covers what the HTTP server adds.
    """
    found = {(m.service, m.stage, m.subject.spec.name): m for m in measured}

    def timed(service: str, stage: str, variant: Variant) -> Variant:
        known = found.get((service, stage, variant.name))
        if known is None:
            return variant
        spec = loaded.spec.services[service].pipeline[stage]
        entry = spec.entry if spec.model is None else loaded.spec.models[spec.model].variants[variant.name]
        return profiled_variant(variant, entry, known.profile)

    services = {}
    for name, deployed in deployment.services.items():
        service = deployed.served.service
        stages = tuple(
            replace(stage, variants=tuple(timed(name, stage.name, variant) for variant in stage.variants))
            for stage in service.stages
        )
        replies_s = (m.profile.constants.reply_s for m in measured if m.service == name)
        timed_service = replace(service, stages=stages, reply_s=max((service.reply_s, *replies_s)))
        known_service = with_accuracies(loaded, timed_service, directory)
        check_floor(known_service, loaded.source)
        served = replace(deployed.served, service=known_service)
        services[name] = replace(deployed, served=served)
    return replace(deployment, services=services)


def _measure_one(
    subject: Subject,
    served: ServedService,
    store: ProfileStore,
    core_ids: Sequence[int],
    form: Form,
    recorded: Recorded | None,
) -> Profile:
    """One variant; says that it is measured only if it is."""
    name = f"{subject.model}/{subject.spec.name}"
    known = stored_profile(subject, store, cores=len(core_ids))
    constants = known.constants if known else Constants()
    source = recorded.source if recorded else RANDOM
    if known is None or missing(subject, form, cores=len(core_ids), known=known, source=source):
        length = "a few seconds" if form == "quick" else "this takes a while; if interrupted, it resumes"
        say(f"measuring {name} on this machine ({length})", err=True)
        found = edge_times(served, subject.in_bucket(subject.bucket_count - 1))
        constants = replace(constants, **(found._asdict() if found else {}))
    with progress_bar() as on_progress:
        return asyncio.run(
            profile_variant(
                subject,
                store,
                core_ids=core_ids,
                form=form,
                constants=constants,
                recorded=recorded,
                on_progress=on_progress,
                on_notice=lambda line: say(line, err=True),
            )
        )
