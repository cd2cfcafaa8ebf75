"""What is run: published pipelines, the policies with their settings, and the scenario that a job stands for.

Everything that decides a run's result is in its key: the fingerprint of the sources it reaches, a hash of the
resolved spec (with the cold start) and of the counts that it replays, policy and options, and the seed.
"""

import json
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from headlines_code import fingerprint
from headlines_judge import OURS, Case
from msgspec.structs import replace
from numpy.typing import NDArray
from surges import SLICE_S, counts_of

from steelyard.config.load import load_spec
from steelyard.config.planning import Blueprint, blueprint
from steelyard.core.errors import SteelyardError
from steelyard.core.types import Service
from steelyard.plan import joint
from steelyard.plan.problem import Infeasible, PlanProblem, stage_of
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.sim.scenario import Scenario
from steelyard.workload.trace import CountTrace, count_trace

SPECS = Path(__file__).parent / "specs"
DIVISORS = {
    "video-t24": 4.384,
    "audio-sentiment-t24": 8.5625,
    "nlp-t24": 21.0,
    "video-t25": 1.5,
    "audio-sentiment-t25": 1.5 * 1.7,
}
"""By pipeline: what the series is divided by (arXiv 2407.14843 and its authors' code)."""

OURSELVES, KNOB = "steelyard", "violation_target"
TARGETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.03, 0.07, 0.1, 0.15)
TARGETS_QUICK = (0.005, 0.07, 0.1, 0.15)
PUBLISHED = ("hpa", "kpa", "vpa", "rayserve", "inferline", "fa2", "sponge", "themis", "themis2025")
STATIC, ORACLE = "static", "oracle"


class Candidate(NamedTuple):
    """A policy with its options, as JSON so that it can be a key."""

    policy: str
    options: str = "{}"

    @property
    def label(self) -> str:
        """Policy and options, as in tables."""
        given = json.loads(self.options)
        return " ".join([self.policy, *(f"{key}={value}" for key, value in given.items())])


class Job(NamedTuple):
    """One run to do, on the seconds `[from_s, from_s + seconds)` of the trace."""

    pipeline: str
    candidate: Candidate
    case: Case
    from_s: int
    trace: Path
    seconds: int = SLICE_S

    @property
    def key(self) -> dict[str, Any]:
        """What the result depends on, and by what it is found again."""
        return {
            "code": fingerprint(self.candidate.policy),
            "spec": _inputs_hash(self),
            "pipeline": self.pipeline,
            "policy": self.candidate.policy,
            "options": self.candidate.options,
            **self.case._asdict(),
        }


def candidates(targets: Sequence[float]) -> list[Candidate]:
    """Every policy that is compared, ours at each target and once untouched."""
    ours = [Candidate(OURSELVES, json.dumps({KNOB: target})) for target in targets]
    published = [Candidate(name + form) for name in PUBLISHED for form in ("", OURS)]
    return [Candidate(OURSELVES), *ours, Candidate(ORACLE), Candidate(STATIC), *published]


def refusal(candidate: Candidate) -> str:
    """Why a candidate cannot be run, in one line; empty if it can."""
    known = resolved(next(iter(DIVISORS)), 6.0)
    seconds = dict.fromkeys(known.services, (1,) * SLICE_S)
    options = json.loads(candidate.options)
    try:
        make_policy(
            candidate.policy, PolicyContext(known.services, known.service_times(), options, future=seconds)
        )
    except SteelyardError as error:
        return str(error)
    return ""


def scenario(job: Job) -> Scenario:
    """The job as the simulator takes it; `static` is sized for the largest second of what it is given."""
    known = resolved(job.pipeline, job.case.cold_start_s)
    service = next(iter(known.services.values()))
    trace = replayed(job)
    options = json.loads(job.candidate.options)
    if job.candidate.policy == STATIC and not options:
        options = sized_for(known, service, int(trace.counts.max()))
    return Scenario(
        services=known.services,
        times=known.times,
        traces={service.name: trace},
        policy=job.candidate.policy,
        options=options,
        nodes=known.nodes,
        seed=job.case.seed,
        physics=known.physics,
        label=job.candidate.label,
    )


def replayed(job: Job) -> CountTrace:
    """The slice of the series, divided as its pipeline's was."""
    counts = _counts(job)
    return count_trace(counts).scale(1 / DIVISORS[job.pipeline])


@cache
def resolved(pipeline: str, cold_start_s: float) -> Blueprint:
    """The pipeline's spec with this cold start in place of its own."""
    made = blueprint(load_spec(SPECS / f"{pipeline}.yaml"), cores_available=1)
    return made._replace(services={name: _starting(s, cold_start_s) for name, s in made.services.items()})


def sized_for(known: Blueprint, service: Service, rate_rps: int) -> dict[str, Any]:
    """Options of `static`: the fewest cores that hold the SLO at a constant rate, tail waits included."""
    times = known.service_times()
    stages = tuple(
        stage_of(stage, stage.variants[0], times[service.name, stage.name]) for stage in service.stages
    )
    nodes = tuple(node.cores for node in known.nodes)
    plan = joint.solve(
        PlanProblem(
            service.name, stages, float(rate_rps), service.slo_s, quantile=service.quantile, nodes=nodes
        )
    )
    if isinstance(plan, Infeasible):
        raise SystemExit(f"{service.name} at {rate_rps} requests/s: {plan.binding}")
    return {
        "stages": {
            stage.name: [{"replicas": stage.replicas, "cores": stage.cores, "batch": stage.rows}]
            for stage in plan.stages
        }
    }


@cache
def least_core_s(pipeline: str) -> float:
    """Core-seconds of a request at the cheapest (rows, cores) of every stage: what no policy can undercut."""
    known = resolved(pipeline, 0.0)
    times = known.service_times()
    total = 0.0
    for name, service in known.services.items():
        for stage in service.stages:
            variant, of_stage = stage.variants[0], times[name, stage.name]
            sizes = product(range(1, variant.batch_rows_max + 1), range(1, variant.cores_max + 1))
            total += stage.fan_out * min(
                cores * of_stage.service_time_s(variant.name, 0, rows, float(cores)) / rows
                for rows, cores in sizes
            )
    return total


def _starting(service: Service, cold_start_s: float) -> Service:
    stages = tuple(
        replace(
            stage, variants=tuple(replace(variant, cold_start_s=cold_start_s) for variant in stage.variants)
        )
        for stage in service.stages
    )
    return replace(service, stages=stages)


def _counts(job: Job) -> NDArray[np.int64]:
    return counts_of(job.trace)[job.from_s : job.from_s + job.seconds]


def _inputs_hash(job: Job) -> str:
    spec = _spec_bytes(job.pipeline, job.case.cold_start_s)
    return sha256(spec + _counts(job).tobytes()).hexdigest()[:12]


@cache
def _spec_bytes(pipeline: str, cold_start_s: float) -> bytes:
    return msgspec.json.encode([resolved(pipeline, cold_start_s), DIVISORS[pipeline]])
