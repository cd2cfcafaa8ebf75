"""What of a spec can be measured here, whatever it is meant for."""

from pathlib import Path

from steelyard.config.load import LoadedSpec, read_spec
from steelyard.config.measuring import measurable
from steelyard.config.resolve import resolve
from steelyard.runtime.base import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), batchable=True)


def here(text: str, *, cores: int = 2) -> LoadedSpec:
    return measurable(read_spec(text, "spec.yaml", Path()), cores_available=cores)


PIPELINE = """
cluster: {nodes: [{name: far, cores: 64}]}
models:
  m: {variants: {v: {python: 'a:B'}, w: {latency: {alpha_ms: 1}}}}
  n: {variants: {x: {latency: {alpha_ms: 1}}}}
services:
  s:
    slo: {latency: 1s}
    pipeline: {a: {model: m}, b: {model: n, after: [a]}, c: {python: 'g:join', inputs: {x: b.y}}}
    cores: {min: 9}
policies: {mine: {name: static, stages: {s.a: [{cores: 3}]}}}
policy: mine
"""


def test_every_stage_is_a_service_of_its_own() -> None:
    found = here(PIPELINE)
    deployment = resolve(found, cores_available=2, ask=lambda specs: [SIGNATURE] * len(specs))
    measured = {
        (service, stage): [spec.name for spec in deployed.stages[stage].specs]
        for service, deployed in deployment.services.items()
        for stage in deployed.stages
    }
    # b has nothing to measure, of a's variants one; c is glue.
    assert measured == {("s.a", "a"): ["v"], ("s.c", "c"): ["c"]}
    assert deployment.cores == 2


def test_a_service_of_one_stage_keeps_its_inputs_and_the_cluster_its_cores() -> None:
    text = (
        "cluster: {cores: 1}\nmodels: {m: {variants: {v: {python: 'a:B'}}}}\n"
        "services: {s: {slo: {latency: 1s}, inputs: {x: {dtype: FP32, shape: [-1]}}, "
        "pipeline: {a: {model: m}}}}\n"
    )
    found = here(text)
    assert list(found.spec.services["s"].inputs) == ["x"]
    assert found.spec.cluster.cores == 1
    assert here(text.replace("cores: 1", "cores: 64")).spec.cluster.cores == 2


def test_declared_times_leave_nothing() -> None:
    text = PIPELINE.replace("v: {python: 'a:B'}, ", "").replace("python: 'g:join'", "model: n")
    assert not here(text).spec.services
