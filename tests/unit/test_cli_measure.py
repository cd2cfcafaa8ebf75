"""From profiles to what the server is told; nothing is measured here."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from steelyard.cli.edge_times import edge_times
from steelyard.cli.measure import Measured, hopeless, measure, stage_times, widths_of, with_measured
from steelyard.config.load import LoadedSpec, read_spec
from steelyard.config.resolve import resolve
from steelyard.profile.types import Cell, Constants, Profile
from steelyard.profiler.store import ProfileStore
from steelyard.profiler.subject import Subject, key_of
from steelyard.runtime.base import Signature, TensorSpec, WidthRule
from steelyard.serve.base import Deployment

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),), batchable=True
)
CELLS = (
    Cell(bucket=0, rows=1, cores=1.0, p50_s=0.010, p99_s=0.012, runs=9),
    Cell(bucket=0, rows=1, cores=2.0, p50_s=0.006, p99_s=0.007, runs=9, width="threads"),
    Cell(bucket=0, rows=4, cores=2.0, p50_s=0.020, p99_s=0.022, runs=9, width="lanes"),
)
PROFILE = Profile("m", "v", "hash", "machine", "runtime", CELLS, cold_start_s=0.07, resize_s=0.0001)


def loaded(variants: str) -> LoadedSpec:
    return read_spec(
        f"models: {{m: {{variants: {variants}}}}}\n"
        "services: {s: {slo: {latency: 1s}, pipeline: {a: {model: m}}}}\npolicy: static\n",
        "spec.yaml",
        Path(),
    )


NOWHERE = Path("/nonexistent")


def deployed(spec: LoadedSpec) -> Deployment:
    return resolve(spec, cores_available=2, ask=lambda specs: [SIGNATURE] * len(specs))


def measured(deployment: Deployment, *variants: str) -> tuple[Measured, ...]:
    stage = deployment.services["s"].stages["a"]
    specs = {spec.name: spec for spec in stage.specs}
    return tuple(
        Measured("s", "a", Subject("m", specs[name], SIGNATURE, 4), replace(PROFILE, variant=name))
        for name in variants
    )


def cold_starts_s(deployment: Deployment) -> dict[str, float]:
    (stage,) = deployment.services["s"].served.service.stages
    return {variant.name: variant.cold_start_s for variant in stage.variants}


def test_measured_starts_and_resizes_replace_the_default_but_not_what_the_spec_says() -> None:
    spec = loaded("{v: {python: 'a:B'}, w: {python: 'a:B', cold_start: 3s, resize: 50ms}}")
    deployment = deployed(spec)
    found = measured(deployment, "v", "w")
    made = with_measured(deployment, found, spec, NOWHERE)
    assert cold_starts_s(made) == {"v": 0.07, "w": 3.0}
    assert [v.resize_s for v in made.services["s"].served.service.stages[0].variants] == [0.0001, 0.05]


@pytest.mark.parametrize(("measured_s", "used_s"), [(0.0002, 0.001), (0.02, 0.02)])
def test_a_slow_reply_is_taken_from_every_deadline_and_a_fast_one_keeps_the_default(
    measured_s: float, used_s: float
) -> None:
    spec = loaded("{v: {python: 'a:B'}}")
    deployment = deployed(spec)
    (found,) = measured(deployment, "v")
    profile = replace(PROFILE, constants=Constants(reply_s=measured_s))
    made = with_measured(deployment, [found._replace(profile=profile)], spec, NOWHERE)
    assert made.services["s"].served.service.reply_s == used_s


def test_a_service_without_measurements_keeps_its_default_reply() -> None:
    spec = loaded("{v: {python: 'a:B'}}")
    deployment = deployed(spec)
    assert with_measured(deployment, [], spec, NOWHERE) == deployment


def test_the_edge_is_timed_on_one_row_as_binary() -> None:
    inputs = (TensorSpec("x", "FP32", (-1, 3, 8)), TensorSpec("text", "BYTES", (-1, 2)))
    outputs = (TensorSpec("y", "FP32", (-1, -1)), TensorSpec("word", "BYTES", (-1, 1)))
    deployment = deployed(loaded("{v: {python: 'a:B'}}"))
    served = deployment.services["s"].served
    served = replace(served, signature=Signature(inputs, outputs, batchable=True))
    (variant,) = deployment.services["s"].stages["a"].specs
    found = edge_times(served, variant)
    assert found is not None
    assert 0 < found.parse_s < 1
    assert 0 < found.reply_s < 1


@pytest.mark.parametrize("inputs", [(), (TensorSpec("x", "FP32", (-1, -1)),)])
def test_without_an_example_the_edge_is_not_timed(inputs: tuple[TensorSpec, ...]) -> None:
    deployment = deployed(loaded("{v: {python: 'a:B'}}"))
    served = replace(deployment.services["s"].served, signature=Signature(inputs, (), batchable=True))
    (variant,) = deployment.services["s"].stages["a"].specs
    assert edge_times(served, variant) is None


def test_a_stage_knows_its_profiles_and_declarations() -> None:
    deployment = deployed(loaded("{v: {python: 'a:B'}, w: {python: 'a:B', latency: {alpha_ms: 5}}}"))
    (times,) = stage_times(deployment, measured(deployment, "v"))
    assert (times.service, times.stage) == ("s", "a")
    assert [profile.variant for profile in times.profiles] == ["v"]
    assert times.declared["w"].coefficients_ms == (5.0, 0.0, 0.0, 0.0)


def test_widths_are_what_the_profile_found_faster() -> None:
    deployment = deployed(loaded("{v: {python: 'a:B'}}"))
    assert widths_of(measured(deployment, "v")) == {
        ("s", "a", "v"): (WidthRule(2, 1, "threads"), WidthRule(2, 4, "lanes"))
    }


def test_what_is_declared_is_never_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = deployed(loaded("{v: {runtime: sleep, latency: {alpha_ms: 5}}}"))
    assert measure(deployment, tmp_path, core_ids=(0,), form="quick") == ()
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_glue_that_cannot_be_measured_is_assumed_until_a_profile_is_stored(tmp_path: Path) -> None:
    (tmp_path / "glue.py").touch()
    text = (
        "models: {m: {variants: {v: {python: 'glue.py:B', latency: {alpha_ms: 3}}}}}\n"
        "services: {s: {slo: {latency: 1s}, inputs: {x: {dtype: FP32, shape: [-1]}}, pipeline: {"
        "a: {model: m}, g: {python: 'glue.py:f', inputs: {y: a.y}, cold_start: 3s}}}}\npolicy: static\n"
    )
    spec = read_spec(text, "spec.yaml", tmp_path)
    unknown = Signature((), (), batchable=True)
    deployment = resolve(spec, cores_available=2, ask=lambda specs: [unknown] * len(specs))
    assert measure(deployment, tmp_path, core_ids=(0, 1), form="quick") == ()
    # 5 ms a row.
    _, glue = stage_times(deployment, ())
    assert glue.declared["g"].coefficients_ms == (0.0, 5.0, 0.0, 0.0)

    made = deployment.services["s"].stages["g"]
    key = key_of(Subject("g", made.specs[0], made.signature, 16), cores=2)
    ProfileStore(tmp_path).save(replace(PROFILE, model="g", variant="g", **key._asdict()))
    (found,) = measure(deployment, tmp_path, core_ids=(0, 1), form="quick")
    assert (found.stage, found.profile.variant) == ("g", "g")
    _, glue = stage_times(deployment, (found,))
    assert (glue.declared, glue.profiles) == ({}, (found.profile,))
    # What the stage says of itself is believed.
    stages = with_measured(deployment, (found,), spec, NOWHERE).services["s"].served.service.stages
    assert stages[1].variants[0].cold_start_s == 3.0


def test_an_objective_that_no_single_row_keeps_is_told() -> None:
    # 20 ms a row on one core, half of it on two, and 1 ms for the reply.
    spec = loaded("{v: {python: 'm:V', cores_max: 2, latency: {alpha_ms: 20}}}")
    deployment = deployed(spec)
    times = stage_times(deployment, ())
    assert list(hopeless(deployment, times, 2)) == []
    service = deployment.services["s"]
    tight = replace(
        service, served=replace(service.served, service=replace(service.served.service, slo_s=0.01))
    )
    found = list(hopeless(replace(deployment, services={"s": tight}), times, 2))
    assert "".join(found) == (
        "services.s.slo.latency: 10ms cannot be kept: a single row takes 11ms on the most cores; "
        "expect refusals"
    )
    (on_one,) = hopeless(replace(deployment, services={"s": tight}), times, 1)
    assert "takes 21ms" in on_one
