"""From a spec to what planning and simulating need; no model exists in these tests."""

from pathlib import Path

import pytest

from steelyard.config.load import LoadedSpec, read_spec
from steelyard.config.notices import notices
from steelyard.config.planning import Blueprint, blueprint, check_objectives, least_latency_s
from steelyard.config.resolve import resolve
from steelyard.core.errors import ProfileError, SpecError
from steelyard.core.types import PathAccuracy
from steelyard.profile.types import Cell, Constants, Profile
from steelyard.profiler.store import ProfileStore
from steelyard.profiler.subject import Subject, key_of
from steelyard.runtime.base import Signature, TensorSpec
from steelyard.sim.scenario import Physics, SimulatedNode

FAST = "{latency: {alpha_ms: 10}}"
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),), batchable=True)


def spec(
    variants: str = f"{{v: {FAST}}}",
    service: str = "",
    *,
    pipeline: str = "{a: {model: m}}",
    top: str = "",
    folder: Path = Path(),
) -> LoadedSpec:
    text = (
        f"models: {{m: {{variants: {variants}}}}}\n"
        f"services: {{s: {{slo: {{latency: 100ms}}, pipeline: {pipeline}{service}}}}}\n{top}"
    )
    return read_spec(text, "spec.yaml", folder)


def made(loaded: LoadedSpec, *, cores: int = 4, profiles: Path | None = None) -> Blueprint:
    return blueprint(loaded, cores_available=cores, profiles=profiles)


def refusal(loaded: LoadedSpec, *, cores: int = 4, profiles: Path | None = None) -> str:
    with pytest.raises(SpecError) as raised:
        made(loaded, cores=cores, profiles=profiles)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_stages_come_in_topological_order_with_what_they_wait_for() -> None:
    pipeline = (
        "{d: {model: m, inputs: {x: b.y, z: c.y}}, "
        "c: {model: m, each: a.items, when: 'a.ok > 0.5', after: [b]}, "
        "b: {model: m, inputs: {x: a.y}}, a: {model: m}}"
    )
    found = made(spec(pipeline=pipeline, service=", items: {a.items: 3}"))
    stages = found.services["s"].stages
    assert [(s.name, s.after, s.fan_out) for s in stages] == [
        ("a", (), 1),
        ("b", ("a",), 1),
        ("c", ("a", "b"), 3),
        ("d", ("b", "c", "a"), 1),  # it joins the items that a made
    ]
    assert [(t.service, t.stage) for t in found.times] == [("s", name) for name in "abcd"]


def test_declared_times_need_no_model(tmp_path: Path) -> None:
    variants = "{v: {onnx: gone.onnx, accuracy: 0.9, cold_start: 6s, resize: 50ms, latency: {alpha_ms: 10}}}"
    found = made(spec(variants, folder=tmp_path))
    (variant,) = found.services["s"].stages[0].variants
    assert (variant.accuracy, variant.cold_start_s, variant.resize_s) == (0.9, 6.0, 0.05)
    # 10 ms x 3 rows on 2 cores.
    times = found.service_times()["s", "a"]
    assert times.service_time_s("v", 0, 3, 2.0) == pytest.approx(0.015)
    assert found.physics == Physics()


@pytest.mark.parametrize(
    ("variant", "cores", "rows_max", "cores_max"),
    [
        ("{latency: {alpha_ms: 10}, batch_max: 4, cores_max: 3}", 64, 4, 3),
        ("{latency: {alpha_ms: 10}}", 2, 16, 2),
        ("{latency: {alpha_ms: 10}}", 64, 16, 8),
        ("{latency: {table: t.csv}}", 64, 6, 5),
        ("{latency: {table: t.csv}, batch_max: 2}", 64, 2, 5),
    ],
)
def test_a_variants_range_is_the_specs_or_its_tables(
    tmp_path: Path, variant: str, cores: int, rows_max: int, cores_max: int
) -> None:
    (tmp_path / "t.csv").write_text("batch,cores,latency_ms\n1,1,10\n6,1,50\n1,5,4\n6,5,20\n")
    found = made(spec(f"{{v: {variant}}}", folder=tmp_path), cores=cores)
    (known,) = found.services["s"].stages[0].variants
    assert (known.batch_rows_max, known.cores_max) == (rows_max, cores_max)


def test_coefficients_are_checked_over_the_range_that_is_planned() -> None:
    # Without bounds the spec is read with b = c = 1 alone: 10 + 4 - 12 > 0. On 8 cores: 10/8 + 4/8 - 12 < 0.
    message = refusal(spec("{v: {latency: {alpha_ms: 10, gamma_ms: 4, zeta_ms: -12}}}"), cores=64)
    assert message == (
        "spec.yaml:1: models.m.variants.v.latency: l(b=1, c=8) = -10.25 ms, "
        "want more than 0 in the whole range"
    )


DEVICES = "{v: {latency: {cpu: {table: t.csv}, gpu: {alpha_ms: 2}, tpu: {alpha_ms: 1}}, accuracy: 0.9}}"


def test_a_variant_is_one_on_each_device_that_a_node_has(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("batch,cores,latency_ms\n1,1,10\n")
    nodes = "cluster: {nodes: [{name: a, cores: 2}, {name: b, cores: 4, memory: 2GB, devices: {gpu: 3}}]}"
    paths = ", path_accuracies: [{variants: {a: v}, accuracy: 0.8}]"
    found = made(spec(DEVICES, paths, folder=tmp_path, top=nodes))
    assert found.nodes == (
        SimulatedNode("a", 2, fractional=True),
        SimulatedNode("b", 4, fractional=True, devices={"gpu": 3}, memory_bytes=2_000_000_000),
    )
    service = found.services["s"]
    assert [(v.name, v.device, v.accuracy) for v in service.stages[0].variants] == [
        ("v", "cpu", 0.9),
        ("v@gpu", "gpu", 0.9),
    ]
    assert found.service_times()["s", "a"].service_time_s("v@gpu", 0, 1, 1.0) == pytest.approx(0.002)
    # What was measured of a choice holds wherever it runs.
    assert service.path_accuracies == (PathAccuracy({"a": "v"}, 0.8), PathAccuracy({"a": "v@gpu"}, 0.8))


def test_a_stage_without_a_device_to_run_on_is_refused(tmp_path: Path) -> None:
    message = refusal(spec("{v: {latency: {gpu: {alpha_ms: 2}}}}", folder=tmp_path))
    assert message == (
        "spec.yaml:1: models.m.variants.v.latency: gpu is a device that no node has: "
        "give cluster.nodes devices"
    )


def test_what_a_variant_states_beside_its_times_is_handed_on() -> None:
    (variant,) = (
        made(spec("{v: {latency: {alpha_ms: 10}, memory: 3MB, load: 2s}}")).services["s"].stages[0].variants
    )
    assert (variant.memory_bytes, variant.load_s) == (3_000_000, 2.0)


GLUE = "{a: {model: m}, g: {python: 'glue.py:f', inputs: {x: a.y}}, b: {model: m, inputs: {x: g.z}}}"


def test_glue_that_nobody_has_measured_is_assumed_to_take_a_while(tmp_path: Path) -> None:
    (tmp_path / "glue.py").touch()
    found = made(spec(pipeline=GLUE, folder=tmp_path), profiles=tmp_path)
    # 5 ms a row, and as exact as what it is given.
    assert found.service_times()["s", "g"].service_time_s("g", 0, 3, 1.0) == pytest.approx(0.015)
    (variant,) = found.services["s"].stages[1].variants
    assert (variant.name, variant.accuracy, variant.cores_max) == ("g", 1.0, 1)
    stated = GLUE.replace("inputs: {x: a.y}", "inputs: {x: a.y}, latency: {beta_ms: 2}")
    times = made(spec(pipeline=stated, folder=tmp_path)).service_times()["s", "g"]
    assert times.service_time_s("g", 0, 3, 1.0) == pytest.approx(0.006)


def test_times_that_cannot_be_asked_name_their_stage(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("batch,cores,latency_ms\n1,1,1e308\n")  # its 0.99 quantile is infinite
    message = refusal(spec("{v: {latency: {table: t.csv, spread: 10}}}", folder=tmp_path))
    assert message.startswith("spec.yaml:2: services.s.pipeline.a: ")


def test_nodes_are_the_specs_or_this_machine() -> None:
    assert made(spec(), cores=3).nodes == (SimulatedNode("local", 3, fractional=True),)
    assert made(spec(top="cluster: {cores: 64}")).nodes == (SimulatedNode("local", 64, fractional=True),)
    found = made(spec(top="cluster: {nodes: [{name: a, cores: 4}, {name: b, cores: 8}]}"))
    assert found.nodes == (SimulatedNode("a", 4, fractional=True), SimulatedNode("b", 8, fractional=True))
    (capped,) = made(spec(top="cluster: {fractions: capped}")).nodes
    assert not capped.lends
    assert found.cores == 12


def test_classes_are_latency_bounds() -> None:
    found = made(spec(service=", classes: {gold: {latency: 50ms}}"))
    assert found.classes == {"s": {"gold": 0.05}}


TWO = "{a: {model: m}, b: {model: m, after: [a]}}"


FIVE = (
    "{a: {model: m}, b: {model: m, after: [a]}, c: {model: m, after: [b]}, d: {model: m, after: [c]}, "
    "e: {model: m, after: [d]}}"
)


def test_every_stage_needs_a_quarter_of_a_core() -> None:
    assert made(spec(pipeline=TWO), cores=1).cores == 1
    assert refusal(spec(pipeline=FIVE), cores=1) == (
        "spec.yaml:1: cluster.cores: want at least 1.25 cores, 0.25 for each stage of all services, got 1"
    )
    nodes = "cluster: {nodes: [{name: a, cores: 1}]}"
    assert refusal(spec(pipeline=FIVE, top=nodes)).startswith(
        "spec.yaml:3: cluster.nodes: want at least 1.25"
    )
    assert refusal(spec(pipeline=TWO, service=", cores: {max: 0.4}")) == (
        "spec.yaml:2: services.s.cores.max: want at least 0.5, 0.25 of a core for each stage, got 0.4"
    )
    assert refusal(spec(service=", cores: {min: 5}")).startswith(
        "spec.yaml:2: services.s.cores.min: want at most 4 cores"
    )


def test_the_least_latency_is_that_of_the_longest_path() -> None:
    variants = "{v: {latency: {alpha_ms: 40}, cores_max: 4}, w: {latency: {beta_ms: 20}, cores_max: 4}}"
    pipeline = (
        "{a: {model: m}, b: {model: m, after: [a]}, c: {model: m, after: [a]}, d: {model: m, after: [b, c]}}"
    )
    found = made(spec(variants, pipeline=pipeline))
    # v on 4 cores: 40 / 4 = 10 ms, w 20 ms; three stages in a row, and 1 ms for the reply.
    assert least_latency_s(found, "s") == pytest.approx(0.031)


def test_an_objective_that_nothing_can_hold_names_the_least() -> None:
    loaded = spec("{v: {latency: {alpha_ms: 480}, cores_max: 4}}")
    with pytest.raises(SpecError) as raised:
        check_objectives(loaded, made(loaded))
    # 480 / 4 + 1 = 121 ms.
    assert str(raised.value) == (
        "spec.yaml:2: services.s.slo.latency: want at least 121ms: so long takes a single row on the most "
        "cores, got 100ms"
    )
    check_objectives(spec(), made(spec()))


def stored(loaded: LoadedSpec, folder: Path, *, cores: int, constants: Constants | None = None) -> None:
    """Store a profile of the only variant, as `steelyard profile` would."""
    deployment = resolve(loaded, cores_available=cores, ask=lambda specs: [SIGNATURE] * len(specs))
    served, (stage,) = deployment.services["s"].served, deployment.services["s"].stages.values()
    subject = Subject(
        "m", stage.specs[0], stage.signature, stage.specs[0].batch_rows_max or 1, served.buckets
    )
    key = key_of(subject, cores=cores)
    cells = (
        Cell(bucket=0, rows=1, cores=1.0, p50_s=0.010, p99_s=0.012, runs=9),
        Cell(bucket=0, rows=6, cores=1.0, p50_s=0.030, p99_s=0.036, runs=9),
    )
    profile = Profile(
        "m", "v", *key, cells=cells, cold_start_s=0.3, resize_s=0.002, constants=constants or Constants()
    )
    ProfileStore(folder).save(profile)


PYTHON = (
    "{v: {python: 'model.py:Model', example: {x: {shape: [3]}}, buckets: {x: {dim: 1, sizes: [2, 4]}}, "
    "options: {a: 1}}}"
)
INPUTS = ", inputs: {x: {dtype: FP32, shape: [-1, -1]}}"


@pytest.fixture
def python_spec(tmp_path: Path) -> LoadedSpec:
    (tmp_path / "model.py").write_text("class Model: ...\n")
    return spec(PYTHON, INPUTS, folder=tmp_path, top="policy: static")


def test_a_stored_profile_is_found_without_asking_the_model(tmp_path: Path, python_spec: LoadedSpec) -> None:
    constants = Constants(reply_s=0.004, dispatch_s=0.0002, corun_ratio=1.3, starting_ratio=0.9)
    stored(python_spec, tmp_path / "profiles", cores=2, constants=constants)
    found = made(python_spec, cores=2, profiles=tmp_path / "profiles")
    service = found.services["s"]
    (variant,) = service.stages[0].variants
    assert (variant.cold_start_s, variant.resize_s) == (0.3, 0.002)
    # The largest batch that was measured; the cores of the machine.
    assert (variant.batch_rows_max, variant.cores_max) == (6, 2)
    assert found.service_times()["s", "a"].service_time_s("v", 0, 6, 1.0) == pytest.approx(0.030)
    assert service.reply_s == 0.004
    # Less than alone is noise.
    assert found.physics == Physics(dispatch_s=0.0002, corun_ratio=1.3, starting_ratio=1.0)


def test_without_a_profile_the_command_is_named(tmp_path: Path, python_spec: LoadedSpec) -> None:
    folder = tmp_path / "profiles"
    line = (
        f"spec.yaml:1: models.m.variants.v: no profile of it on this machine in {folder}: "
        "run `steelyard profile spec.yaml`, or give latency:"
    )
    assert refusal(python_spec, profiles=folder) == line
    # A profile of another machine is none of this one.
    stored(python_spec, folder, cores=2)
    assert refusal(python_spec, cores=3, profiles=folder) == line


def test_a_broken_profile_is_named(tmp_path: Path, python_spec: LoadedSpec) -> None:
    folder = tmp_path / "profiles"
    stored(python_spec, folder, cores=4)
    (file,) = folder.iterdir()
    file.write_text(file.read_text().replace("0.03,", "NaN,"))
    with pytest.raises(ProfileError) as raised:
        made(python_spec, profiles=folder)
    assert str(raised.value).startswith(f"{file}: not a stored profile: ")


def test_keys_without_effect_are_said() -> None:
    loaded = spec(
        pipeline="{a: {model: m}, b: {model: m, inputs: {x: a.y}, when: 'a.ok > 0'}}",
        top="cluster: {nodes: [{name: n, cores: 4, price_per_hour: 2, network: 1ms}]}",
    )
    assert notices(loaded.spec, "plan") == (
        "cluster.nodes[0].network is checked, but plan does not apply it yet",
    )
    assert notices(loaded.spec, "simulate") == (
        "cluster.nodes[0].price_per_hour is checked, but simulate does not apply it yet",
        "cluster.nodes[0].network is checked, but simulate does not apply it yet",
    )


def test_a_node_has_a_number_of_cores_that_can_be_kept_account_of() -> None:
    for cluster in ("{cores: 100001}", "{nodes: [{name: a, cores: 100001}]}"):
        with pytest.raises(SpecError, match="cores: want at most 100000, got 100001"):
            spec(top=f"cluster: {cluster}")


def test_a_least_accuracy_that_no_choice_of_variants_has_is_refused() -> None:
    both = "{v: {accuracy: 0.9, latency: {alpha_ms: 10}}, w: {accuracy: 0.7, latency: {alpha_ms: 5}}}"
    two = "{a: {model: m}, b: {model: m, after: [a]}}"
    assert made(spec(both, ", objective: {accuracy_floor: 0.81}", pipeline=two)).services  # 0.9 * 0.9
    too_much = spec(both, ", objective: {accuracy_floor: 0.82}", pipeline=two)
    assert refusal(too_much) == (
        "spec.yaml:2: services.s.objective.accuracy_floor: no choice of variants is so accurate: "
        "want at most 0.81, got 0.82"
    )
    measured = ", path_accuracies: [{variants: {a: v, b: v}, accuracy: 0.85}]"
    assert made(spec(both, f", objective: {{accuracy_floor: 0.82}}{measured}", pipeline=two)).services
    assert made(spec(service=", objective: {accuracy_floor: 0.99}")).services  # nobody knows
