"""Any pipeline that a spec can write down is resolved or refused in one line; what is resolved is sound."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from steelyard.config.load import read_spec
from steelyard.config.planning import blueprint
from steelyard.config.resolve import resolve
from steelyard.core.errors import SpecError
from steelyard.core.pipeline import make_stages
from steelyard.core.types import Service
from steelyard.profile.times import DeclaredTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec
from steelyard.serve.wiring import takers, wirings

NAMES = ("a", "b", "c", "d")
ODD = ("request.x", "request.x", "request.z", "d.y", "a.q", "e.y")
ROWS = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), batchable=True)
UNKNOWN = Signature((), (), batchable=True)
Made = TypeVar("Made")
TIMES = DeclaredTimes(DeclaredLatency(coefficients_ms=(1.0, 0.0, 0.0, 0.0)))


@st.composite
def pipelines(draw: st.DrawFn) -> dict[str, Any]:
    """Stages that mostly refer to earlier ones and to what these give; seldom to anything else."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    pipeline: dict[str, Any] = {}
    for index, name in enumerate(names):
        earlier = names[:index]
        source = st.sampled_from((*(f"{stage}.y" for stage in earlier * 5), *ODD))
        stage = draw(
            st.fixed_dictionaries(
                {draw(st.sampled_from(("model", "python"))): st.just("m")},
                optional={
                    "inputs": st.dictionaries(st.sampled_from("xxz"), source, max_size=2),
                    "each": source,
                    "when": source.map(lambda found: f"{found} > 0.5"),
                    "after": st.lists(st.sampled_from((*earlier, "d")), max_size=2),
                    "fan_out": st.sampled_from((1, 2, 0.5)),
                },
            )
        )
        for key in draw(st.sets(st.sampled_from(("each", "when", "after", "fan_out")), min_size=2)):
            stage.pop(key, None)
        if "python" in stage:
            stage["python"] = "glue:f"
        pipeline[name] = stage
    return pipeline


def spec_of(pipeline: dict[str, Any], items: dict[str, float], outputs: dict[str, str]) -> str:
    """JSON is YAML."""
    inputs = {"x": {"dtype": "FP32", "shape": [-1, 2]}}
    service = {
        "slo": {"latency": "1s"},
        "inputs": inputs,
        "pipeline": pipeline,
        "items": items,
        "outputs": outputs,
    }
    variant = {"runtime": "sleep", "latency": {"alpha_ms": 1}}
    spec = {"models": {"m": {"variants": {"v": variant}}}, "services": {"s": service}, "policy": "static"}
    return msgspec.json.encode(spec).decode()


def check(service: Service) -> None:
    """The core takes the stages as they are."""
    make_stages(service, {stage.name: TIMES for stage in service.stages}, None)
    assert all(stage.items is not None for stage in service.stages if stage.items_of)


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(
    pipeline=pipelines(),
    items=st.dictionaries(st.sampled_from(("a.y", "b.y", "c.y")), st.sampled_from((0.5, 3.0)), max_size=3),
    outputs=st.dictionaries(st.just("o"), st.sampled_from([f"{name}.y" for name in NAMES]), max_size=1),
)
def test_a_pipeline_is_resolved_or_refused_in_one_line(
    pipeline: dict[str, Any], items: dict[str, float], outputs: dict[str, str]
) -> None:
    def ask(specs: Sequence[VariantSpec]) -> list[Signature | str]:
        return [UNKNOWN if made.kind == "python" else ROWS for made in specs]

    text = spec_of(pipeline, items, outputs)
    loaded = unless_refused(lambda: read_spec(text, "spec.yaml", Path()))
    if loaded is None:
        return
    planned = unless_refused(lambda: blueprint(loaded, cores_available=8, profiles=Path("/nonexistent")))
    if planned is not None:
        check(planned.services["s"])
    found = unless_refused(lambda: resolve(loaded, cores_available=8, ask=ask))
    if found is not None:
        deployed = found.services["s"]
        service = deployed.served.service
        event(f"{len(service.stages)} stages, items: {any(stage.items_of for stage in service.stages)}")
        check(service)
        # What moves the tensors accepts what the spec's errors let through.
        gives = {stage: known.signature for stage, known in deployed.stages.items()}
        wirings(service, deployed.served.signature, gives)
        takers(service)


def unless_refused(make: Callable[[], Made]) -> Made | None:
    """What is made, or None after an error of one line."""
    try:
        return make()
    except SpecError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1, lines
    return None
