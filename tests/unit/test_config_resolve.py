"""From a spec to a deployment; models are stood in for by their signatures, except in the slow tests."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from steelyard.config.load import LoadedSpec, read_spec, spec_for_onnx
from steelyard.config.notices import notices
from steelyard.config.policy import chosen_policy
from steelyard.config.resolve import resolve
from steelyard.config.stages import BATCH_ROWS_DEFAULT, CORES_DEFAULT, CORES_MIN_SHARED
from steelyard.core.errors import SpecError
from steelyard.core.types import Objective, SloClass
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec
from steelyard.serve.base import Deployment

Ask = Callable[[Sequence[VariantSpec]], list[Signature | str]]

X = TensorSpec("x", "FP32", (-1, 4))
Y = TensorSpec("y", "FP32", (-1, 2))
PLAIN = Signature((X,), (Y,), batchable=True)


def answering(*answers: Signature | str) -> Ask:
    """A stand-in for asking models: the given answers, one a variant, the last for all further ones."""

    def ask(specs: Sequence[VariantSpec]) -> list[Signature | str]:
        return [answers[min(index, len(answers) - 1)] for index in range(len(specs))]

    return ask


def spec(variants: str, service: str = "", folder: Path = Path(), top: str = "") -> LoadedSpec:
    text = (
        f"models: {{m: {{variants: {variants}}}}}\n"
        f"services: {{s: {{slo: {{latency: 50ms}}, pipeline: {{a: {{model: m}}}}{service}}}}}\n"
        f"policy: static\n{top}"
    )
    return read_spec(text, "spec.yaml", folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("v.onnx", "w.onnx"):
        (tmp_path / name).touch()
    return tmp_path


def resolved(loaded: LoadedSpec, *answers: Signature | str, cores_available: int = 4) -> Deployment:
    return resolve(loaded, cores_available=cores_available, ask=answering(*(answers or (PLAIN,))))


def refusal(loaded: LoadedSpec, *answers: Signature | str) -> str:
    with pytest.raises(SpecError) as raised:
        resolved(loaded, *answers)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_everything_a_server_needs_is_there(folder: Path) -> None:
    service = ", cores: {min: 1, max: 3}, weight: 2, limits: {request_rows: 8, queue_rows: 9, retries: 0}"
    deployment = resolved(spec("{v: {onnx: v.onnx, accuracy: 0.9, cold_start: 2s}}", service, folder))
    deployed = deployment.services["s"]
    promised = deployed.served.service
    assert (promised.slo_s, promised.quantile, promised.weight) == (0.05, 0.99, 2.0)
    assert (promised.cores_min, promised.cores_max) == (1.0, 3.0)
    assert (promised.request_rows_max, promised.queue_rows_max, promised.retries_max) == (8, 9, 0)
    (variant,) = promised.stages[0].variants
    assert (variant.name, variant.accuracy, variant.cold_start_s) == ("v", 0.9, 2.0)
    (made,) = deployed.stages["a"].specs
    assert (made.kind, made.target) == ("onnx", str((folder / "v.onnx").resolve()))
    assert (deployment.policy, deployment.cores, deployment.source) == ("static", None, "spec.yaml")
    assert deployed.served.signature == PLAIN


def test_bounds_default_to_what_the_machine_has(folder: Path) -> None:
    loaded = spec("{v: {onnx: v.onnx}}", folder=folder)
    for available, cores_max in ((2, 2), (64, CORES_DEFAULT)):
        (variant,) = (
            resolved(loaded, cores_available=available).services["s"].served.service.stages[0].variants
        )
        assert (variant.batch_rows_max, variant.cores_max) == (BATCH_ROWS_DEFAULT, cores_max)


def test_a_model_without_a_dynamic_leading_axis_runs_one_row(folder: Path) -> None:
    fixed = Signature((TensorSpec("x", "FP32", (1, 4)),), (TensorSpec("y", "FP32", (1, 2)),), batchable=False)
    deployment = resolved(spec("{v: {onnx: v.onnx}}", folder=folder), fixed)
    assert deployment.services["s"].served.service.stages[0].variants[0].batch_rows_max == 1
    assert refusal(spec("{v: {onnx: v.onnx, batch_max: 4}}", folder=folder), fixed) == (
        "spec.yaml:1: models.m.variants.v.batch_max: want 1: the model has no dynamic leading axis, got 4"
    )


def test_a_model_that_does_not_load_is_named(folder: Path) -> None:
    loaded = spec("{v: {onnx: v.onnx}, w: {onnx: w.onnx}}", folder=folder)
    assert refusal(loaded, PLAIN, "w.onnx: not an ONNX model") == (
        "spec.yaml:1: models.m.variants.w: w.onnx: not an ONNX model"
    )


def test_a_missing_file_is_named(folder: Path) -> None:
    message = refusal(spec("{v: {onnx: gone.onnx}}", folder=folder))
    assert message == f"spec.yaml:1: models.m.variants.v.onnx: no such file: {folder}/gone.onnx"


def test_variants_of_a_stage_agree(folder: Path) -> None:
    loaded = spec("{v: {onnx: v.onnx}, w: {onnx: w.onnx}}", folder=folder)
    other_name = Signature((TensorSpec("z", "FP32", (-1, 4)),), (Y,), batchable=True)
    assert refusal(loaded, PLAIN, other_name) == (
        "spec.yaml:1: models.m.variants.w: inputs are z, those of variant v are x"
    )
    other_dtype = Signature((X,), (TensorSpec("y", "FP16", (-1, 2)),), batchable=True)
    assert refusal(loaded, PLAIN, other_dtype) == (
        "spec.yaml:1: models.m.variants.w: output y is FP16 [-1, 2], that of variant v is FP32 [-1, 2]"
    )
    other_rank = Signature((TensorSpec("x", "FP32", (-1, 2, 2)),), (Y,), batchable=True)
    assert "input x is FP32 [-1, 2, 2], that of variant v is FP32 [-1, 4]" in refusal(
        loaded, PLAIN, other_rank
    )


def test_variants_take_what_fits_all_of_them(folder: Path) -> None:
    loaded = spec("{v: {onnx: v.onnx}, w: {onnx: w.onnx, example: {x: {shape: [4]}}}}", folder=folder)
    wider = Signature((TensorSpec("x", "FP32", (-1, 5)),), (Y,), batchable=True)
    unequal = spec("{v: {onnx: v.onnx}, w: {onnx: w.onnx}}", folder=folder)
    assert refusal(unequal, PLAIN, wider) == (
        "spec.yaml:1: models.m.variants.w: input x is FP32 [-1, 5], that of variant v is FP32 [-1, 4]"
    )
    any_size = Signature((TensorSpec("x", "FP32", (-1, -1)),), (Y,), batchable=True)
    assert resolved(loaded, PLAIN, any_size).services["s"].served.signature.inputs == (X,)


def test_variants_agree_on_what_a_row_is(folder: Path) -> None:
    loaded = spec("{v: {onnx: v.onnx}, w: {onnx: w.onnx}}", folder=folder)

    def fixed(rows: int) -> Signature:
        takes, gives = TensorSpec("x", "FP32", (rows, 4)), TensorSpec("y", "FP32", (rows, 2))
        return Signature((takes,), (gives,), batchable=False)

    # One takes any number of rows, the other a single one: so does the service, whichever answers.
    served = resolved(loaded, PLAIN, fixed(1)).services["s"].served
    assert served.signature.inputs == fixed(1).inputs
    assert not served.signature.batchable
    either = TensorSpec("x", "FP32", (-1, 4))
    halved = Signature((either,), (TensorSpec("y", "FP32", (1, 2)),), batchable=False)
    shown = spec("{v: {onnx: v.onnx}, w: {onnx: w.onnx, example: {x: {shape: [1, 4]}}}}", folder=folder)
    served = resolved(shown, PLAIN, halved).services["s"].served
    assert served.signature.inputs == fixed(1).inputs
    # Three at a time are a request's one "row" to a model that takes nothing else, and no row to another.
    assert resolved(loaded, fixed(3), fixed(3)).services["s"].served.signature.inputs == fixed(3).inputs
    assert refusal(loaded, PLAIN, fixed(3)) == (
        "spec.yaml:1: models.m.variants.w: input x is FP32 [3, 4], and variant v takes rows: "
        "want a leading dimension that is dynamic, or 1"
    )
    assert refusal(loaded, fixed(1), fixed(3)) == (
        "spec.yaml:1: models.m.variants.w: input x is FP32 [3, 4], that of variant v is FP32 [1, 4]"
    )


def test_a_dimension_of_outputs_on_which_variants_differ_is_dynamic(folder: Path) -> None:
    wider = Signature((X,), (TensorSpec("y", "FP32", (-1, 3)),), batchable=False)
    loaded = spec("{v: {onnx: v.onnx}, w: {onnx: w.onnx, example: {x: {shape: [1, 4]}}}}", folder=folder)
    signature = resolved(loaded, PLAIN, wider).services["s"].served.signature
    assert signature.outputs == (TensorSpec("y", "FP32", (-1, -1)),)
    assert not signature.batchable


def test_dynamic_dimensions_need_an_example(folder: Path) -> None:
    dynamic = Signature((TensorSpec("x", "FP32", (-1, 3, -1)),), (Y,), batchable=True)
    assert "input x has dynamic dimensions" in refusal(spec("{v: {onnx: v.onnx}}", folder=folder), dynamic)
    fitting = spec("{v: {onnx: v.onnx, example: {x: {shape: [3, 320]}}}}", folder=folder)
    assert resolved(fitting, dynamic).services["s"].stages["a"].specs[0].example == {"x": (3, 320)}
    wrong = spec("{v: {onnx: v.onnx, example: {x: {shape: [4, 320]}}}}", folder=folder)
    assert "example of input x has shape [4, 320]" in refusal(wrong, dynamic)
    unknown = spec("{v: {onnx: v.onnx, example: {xx: {shape: [3, 320]}}}}", folder=folder)
    assert "example.xx: not an input of the model; did you mean x?" in refusal(unknown, dynamic)


def test_a_lone_model_is_told_where_an_example_goes(folder: Path) -> None:
    dynamic = Signature((TensorSpec("x", "FP32", (-1, 3, -1)),), (Y,), batchable=True)
    assert refusal(spec_for_onnx(folder / "v.onnx", 0.05), dynamic).endswith(
        "in a spec file; --print-spec starts one"
    )


def test_buckets_belong_to_an_input_and_are_shared(folder: Path) -> None:
    one = spec("{v: {onnx: v.onnx, buckets: {x: {dim: 1, sizes: [2, 4]}}}}", folder=folder)
    assert resolved(one).services["s"].served.buckets == {"x": (1, (2, 4))}
    missing = spec("{v: {onnx: v.onnx, buckets: {q: {dim: 1, sizes: [2]}}}}", folder=folder)
    assert "buckets.q: not an input of the model (known: x)" in refusal(missing)
    deep = spec("{v: {onnx: v.onnx, buckets: {x: {dim: 2, sizes: [2]}}}}", folder=folder)
    assert "buckets.x.dim: want less than 2, got 2" in refusal(deep)
    different = spec(
        "{v: {onnx: v.onnx, buckets: {x: {dim: 1, sizes: [2]}}}, "
        "w: {onnx: w.onnx, buckets: {x: {dim: 1, sizes: [3]}}}}",
        folder=folder,
    )
    assert "the variants of a model share their buckets" in refusal(different)


def test_declared_inputs_narrow_the_models(folder: Path) -> None:
    service = ", inputs: {x: {dtype: FP32, shape: [-1, 4]}}"
    assert resolved(spec("{v: {onnx: v.onnx}}", service, folder)).services["s"].served.signature.inputs == (
        X,
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("{x: {dtype: FP64, shape: [-1, 4]}}", "inputs.x.dtype: want FP32 as the model has, got FP64"),
        (
            "{x: {dtype: FP32, shape: [-1, 5]}}",
            "inputs.x.shape: want a shape that fits the model's [-1, 4], got [-1, 5]",
        ),
        (
            "{x: {dtype: FP32, shape: [4]}}",
            "inputs.x.shape: want a shape that fits the model's [-1, 4], got [4]",
        ),
        ("{q: {dtype: FP32, shape: [4]}}", "inputs.q: not an input of the model (known: x)"),
    ],
)
def test_declared_inputs_that_are_not_the_models_are_refused(folder: Path, inputs: str, message: str) -> None:
    assert message in refusal(spec("{v: {onnx: v.onnx}}", f", inputs: {inputs}", folder))


def test_every_input_is_declared_or_none(folder: Path) -> None:
    two = Signature((X, TensorSpec("mask", "BOOL", (-1, 4))), (Y,), batchable=True)
    service = ", inputs: {x: {dtype: FP32, shape: [-1, 4]}}"
    assert "inputs: the model also takes mask" in refusal(spec("{v: {onnx: v.onnx}}", service, folder), two)


def test_a_class_that_does_not_say_what_it_takes_is_described_by_the_spec(folder: Path) -> None:
    silent = Signature((), (), batchable=True, platform="python")
    variants = "{v: {python: 'a:B'}}"
    assert "give inputs: {name: {dtype, shape}}" in refusal(spec(variants, folder=folder), silent)
    service = ", inputs: {x: {dtype: FP32, shape: [-1, 4]}}"
    assert resolved(spec(variants, service, folder), silent).services["s"].served.signature.inputs == (X,)


def test_python_targets_are_modules_or_files_beside_the_spec(folder: Path) -> None:
    (folder / "glue.py").touch()
    targets = {
        "a.b:C": "a.b:C",
        "glue.py:C": f"{(folder / 'glue.py').resolve()}:C",
    }
    for written, target in targets.items():
        deployment = resolved(spec(f"{{v: {{python: '{written}'}}}}", folder=folder))
        assert deployment.services["s"].stages["a"].specs[0].target == target
    assert "python: no such file" in refusal(spec("{v: {python: 'gone.py:C'}}", folder=folder))
    assert "want module:Class or file.py:Class, got a.b" in refusal(spec("{v: {python: a.b}}", folder=folder))


def test_glue_alone_is_a_service_of_one_variant(folder: Path) -> None:
    text = "services: {s: {slo: {latency: 1s}, pipeline: {a: {python: 'a:f'}}}}\npolicy: static\n"
    deployment = resolved(read_spec(text, "spec.yaml", folder))
    stage = deployment.services["s"].stages["a"]
    assert (stage.model, [made.kind for made in stage.specs]) == ("a", ["python"])


def test_a_sleeping_variant_sleeps_what_it_declares(folder: Path) -> None:
    loaded = spec("{v: {runtime: sleep, latency: {alpha_ms: 3, zeta_ms: 1}}}", folder=folder)
    stage = resolved(loaded).services["s"].stages["a"]
    assert stage.specs[0].options == {"alpha_ms": 3.0, "beta_ms": 0.0, "gamma_ms": 0.0, "zeta_ms": 1.0}
    assert stage.declared["v"].coefficients_ms == (3.0, 0.0, 0.0, 1.0)


def test_a_variant_that_only_declares_its_latency_cannot_be_served(folder: Path) -> None:
    assert "it can be planned, not served" in refusal(spec("{v: {latency: {alpha_ms: 3}}}", folder=folder))


def test_an_unknown_runtime_names_the_nearest(folder: Path) -> None:
    message = refusal(spec("{v: {runtime: onxx, target: v.onnx}}", folder=folder))
    assert message.startswith(
        "spec.yaml:1: models.m.variants.v.runtime: unknown runtime onxx; did you mean onnx?"
    )


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ("cluster: {backend: ray}", "cluster.backend: serve runs on local so far, not on ray"),
        ("cluster: {nodes: [{name: a, cores: 2}]}", "cluster.nodes: serve runs on this machine's cores"),
        ("cluster: {cores: 5}", "cluster.cores: want at most the 4 cores this process may use, got 5"),
    ],
)
def test_clusters_that_serve_cannot_use_are_refused(folder: Path, top: str, message: str) -> None:
    assert message in refusal(spec("{v: {onnx: v.onnx}}", folder=folder, top=top))


def test_a_service_cannot_have_more_cores_than_there_are(folder: Path) -> None:
    message = refusal(spec("{v: {onnx: v.onnx}}", ", cores: {min: 5}", folder))
    assert (
        message == "spec.yaml:2: services.s.cores.min: want at most 4 cores for all services together, got 5"
    )


def two_services(first: str = "", second: str = "") -> str:
    return (
        "models: {m: {variants: {v: {onnx: v.onnx}}}}\npolicy: static\nservices:\n"
        f"  s: {{slo: {{latency: 1s}}, pipeline: {{a: {{model: m}}}}{first}}}\n"
        f"  t: {{slo: {{latency: 1s}}, pipeline: {{a: {{model: m}}}}{second}}}\n"
    )


def test_services_must_fit_together(folder: Path) -> None:
    # 3 + 2 = 5 cores on 4.
    loaded = read_spec(two_services(", cores: {min: 3}", ", cores: {min: 2}"), "spec.yaml", folder)
    assert refusal(loaded).startswith("spec.yaml:5: services.t.cores.min: want at most 4 cores")


def test_several_services_can_leave_their_cores_to_each_other(folder: Path) -> None:
    services = resolved(read_spec(two_services("", ", cores: {max: 0.5}"), "spec.yaml", folder)).services
    assert services["s"].served.service.cores_min == CORES_MIN_SHARED
    assert services["t"].served.service.cores_min == CORES_MIN_SHARED


def test_every_stage_can_have_a_replica(folder: Path) -> None:
    least = "0.25 of a core for each stage"
    message = refusal(spec("{v: {onnx: v.onnx}}", ", cores: {max: 0.001}", folder))
    assert message == f"spec.yaml:2: services.s.cores.max: want at least 0.25, {least}, got 0.001"
    many = read_spec(two_services("", ", cores: {max: 0.2}"), "spec.yaml", folder)
    assert refusal(many) == f"spec.yaml:5: services.t.cores.max: want at least 0.25, {least}, got 0.2"


def test_a_model_in_two_services_is_asked_once(folder: Path) -> None:
    asked: list[int] = []

    def ask(specs: Sequence[VariantSpec]) -> list[Signature | str]:
        asked.append(len(specs))
        return [PLAIN] * len(specs)

    resolve(read_spec(two_services(), "spec.yaml", folder), cores_available=4, ask=ask)
    assert asked == [1]


def test_a_policy_is_named_configured_or_overridden(folder: Path) -> None:
    top = "policies: {mine: {name: static, replicas: 2, cores: 1}}"
    loaded = spec("{v: {onnx: v.onnx}}", folder=folder, top=top)
    assert chosen_policy(loaded.spec).name == "static"
    mine = chosen_policy(loaded.spec, "mine")
    assert (mine.name, mine.options) == ("static", {"replicas": 2, "cores": 1})
    assert chosen_policy(loaded.spec, "mine+ours").name == "static+ours"


def test_options_beside_a_configurations_name_win() -> None:
    text = (
        "models: {m: {variants: {v: {onnx: v.onnx}}}}\n"
        "services: {s: {slo: {latency: 1s}, pipeline: {a: {model: m}}}}\n"
        "policies: {mine: {name: static, replicas: 2, cores: 1}}\npolicy: {name: mine, replicas: 3}\n"
    )
    policy = chosen_policy(read_spec(text, "spec.yaml", Path()).spec)
    assert (policy.name, policy.options) == ("static", {"replicas": 3, "cores": 1})


def test_a_policys_options_are_judged_before_anything_is_measured(folder: Path) -> None:
    text = two_services().replace("policy: static", "policy: {name: static, replica: 2}")
    message = refusal(read_spec(text, "spec.yaml", folder))
    assert message.startswith("spec.yaml:2: policy: static: unknown option 'replica'; it has: replicas")


def test_an_error_of_a_configuration_names_its_place(folder: Path) -> None:
    mine = "policies: {mine: {name: static, replica: 2}}\npolicy: mine"
    configured = two_services().replace("policy: static", mine)
    loaded = read_spec(configured, "spec.yaml", folder)
    line = "spec.yaml:2: policies.mine: static: unknown option 'replica'; it has: replicas"
    assert refusal(loaded).startswith(line)
    with pytest.raises(SpecError, match=f"^{re.escape(line)}"):
        resolve(loaded, cores_available=2, policy="mine+ours", ask=answering(PLAIN))


def test_a_configuration_does_not_take_the_name_of_another_policy(folder: Path) -> None:
    loaded = spec("{v: {onnx: v.onnx}}", top="policies: {hpa: {name: kpa}}\n", folder=folder)
    assert refusal(loaded) == (
        "spec.yaml:4: policies.hpa: hpa is a policy's own name: a configuration of kpa wants another"
    )
    other = "policies: {hpa: {name: hpa+ours, target_utilisation: 0.5}}\n"
    resolved(spec("{v: {onnx: v.onnx}}", top=other, folder=folder))


def test_a_configuration_of_no_policy_is_refused_even_where_it_is_not_asked_for(folder: Path) -> None:
    configured = two_services().replace("policy: static", "policies: {mine: {name: statik}}\npolicy: static")
    message = refusal(read_spec(configured, "spec.yaml", folder))
    assert message == "spec.yaml:2: policies.mine.name: unknown policy statik; did you mean static?"


def test_an_unknown_policy_names_the_nearest(folder: Path) -> None:
    loaded = spec("{v: {onnx: v.onnx}}", folder=folder)
    with pytest.raises(SpecError, match=r"^--policy: unknown policy statik; did you mean static\?"):
        resolve(loaded, cores_available=2, policy="statik", ask=answering(PLAIN))


def test_objective_and_classes_are_handed_on(folder: Path) -> None:
    service = (
        ", objective: {accuracy_floor: 0.9}, classes: {gold: {latency: 20ms, weight: 4}, lead: {latency: 1s}}"
    )
    loaded = spec("{v: {onnx: v.onnx}}", service, folder)
    assert notices(loaded.spec) == ()
    served = resolved(loaded).services["s"].served
    assert served.classes == {"gold": 0.02, "lead": 1.0}
    assert served.service.classes == {"gold": SloClass(0.02, 4.0), "lead": SloClass(1.0)}
    assert served.service.objective == Objective(accuracy_floor=0.9)


@pytest.mark.slow
def test_a_real_model_is_asked_what_it_takes(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "relu.onnx")
    loaded = spec_for_onnx(tmp_path / "relu.onnx", 0.05)
    deployment = resolve(loaded, cores_available=2, policy="static")
    signature = deployment.services["relu"].served.signature
    assert signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert signature.batchable


@pytest.mark.slow
def test_a_corrupt_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(SpecError, match=r"broken\.onnx") as raised:
        resolve(spec_for_onnx(tmp_path / "broken.onnx", 0.05), cores_available=2, policy="static")
    assert "\n" not in str(raised.value)
