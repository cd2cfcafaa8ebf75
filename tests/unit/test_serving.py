"""A decorated function: still a function, and the spec it stands for."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import steelyard
from steelyard.cli.serve import open_spec
from steelyard.config.function import is_target, spec_for_target
from steelyard.core.errors import SpecError
from steelyard.runtime.base import VariantSpec
from steelyard.runtime.python import PythonRuntime
from steelyard.serving import split_target

APP = """\
import steelyard
print("not the spec")

X, Y = {"x": ("FP32", [-1, -1])}, {"y": ("FP32", [-1])}

@steelyard.service(slo="50ms", inputs=X, outputs=Y, example={"x": [4]}, batch_max=8)
def total(batch):
    return {"y": batch["x"].sum(axis=1)}

@steelyard.service(slo="1s", name="scaled", inputs=X, outputs=Y, options={"by": 3})
class Scaled:
    def setup(self, options):
        self.by = options["by"]

    def predict(self, batch):
        return {"y": self.by * batch["x"].sum(axis=1)}

class Bare:
    signature = {"inputs": X, "outputs": Y}

def outer():
    @steelyard.service(slo="50ms")
    def inner(batch):
        return batch
    return inner

if __name__ == "__main__":
    total.run()
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    file = tmp_path / "app.py"
    file.write_text(APP)
    return str(file)


def test_a_decorated_function_is_still_called_as_it_was() -> None:
    @steelyard.service(slo="50ms", inputs={"x": ("FP32", [-1])}, outputs={"y": ("FP32", [-1])})
    def same(batch: dict[str, int]) -> dict[str, int]:
        """The same."""
        return batch

    assert same({"x": 1}) == {"x": 1}
    assert (same.__name__, same.__doc__) == ("same", "The same.")
    with pytest.raises(SpecError, match="only what is at the top of a module"):
        same.find()


@pytest.mark.slow
def test_a_function_stands_for_a_spec_that_workers_can_run(app: str) -> None:
    loaded = open_spec(Path(f"{app}:total"), None)
    (variant,) = loaded.spec.models["total"].variants.values()
    assert (variant.python, variant.batch_max) == ("app.py:total", 8)
    assert variant.example["x"].shape == (4,)
    assert loaded.folder == Path(app).parent
    assert loaded.spec.services["total"].slo.latency == 0.05
    runtime = PythonRuntime(VariantSpec("total", "python", f"{app}:total"))
    assert runtime.signature.batchable
    assert [tensor.name for tensor in runtime.signature.inputs] == ["x"]
    y = runtime.run({"x": np.ones((2, 3), np.float32)}, 2)["y"]
    assert np.asarray(y).tolist() == [3.0, 3.0]


@pytest.mark.slow
def test_a_class_is_set_up_with_its_options(app: str) -> None:
    loaded = spec_for_target(f"{app}:Scaled", "20ms")
    (variant,) = loaded.spec.models["scaled"].variants.values()
    assert loaded.spec.services["scaled"].slo.latency == 0.02  # the command line's
    runtime = PythonRuntime(VariantSpec("scaled", "python", f"{app}:Scaled", options=variant.options))
    assert np.asarray(runtime.run({"x": np.ones((1, 2), np.float32)}, 1)["y"]).tolist() == [6.0]


@pytest.mark.slow
def test_what_nobody_decorated_needs_an_objective(app: str) -> None:
    assert spec_for_target(f"{app}:Bare", "30ms").spec.services["Bare"].slo.latency == 0.03
    with pytest.raises(SpecError, match=r"app\.py:Bare: has no latency objective: add --slo 50ms"):
        spec_for_target(f"{app}:Bare", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "f", "app.py has no 'f'"),
        ("1 / 0", "f", "app.py:f: ZeroDivisionError: division by zero"),
        ("import os; os._exit(3)", "f", "app.py:f: importing it ended the process"),
        ("import steelyard\n@steelyard.service(slo='5 parsecs')\ndef f(batch): ...", "f", "5 parsecs"),
        ("import steelyard\nf = steelyard.service(slo='1s', inputs={})", "f", "both inputs and outputs"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(
    tmp_path: Path, source: str, name: str, message: str
) -> None:
    (tmp_path / "app.py").write_text(source)
    with pytest.raises(SpecError, match=message) as raised:
        spec_for_target(f"{tmp_path}/app.py:{name}", None)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_the_example_is_served_as_it_stands() -> None:
    file = Path(__file__).parents[2] / "examples" / "function" / "app.py"
    assert spec_for_target(f"{file}:double", None).spec.services["double"].slo.latency == 0.05


def test_targets_are_told_from_files(tmp_path: Path) -> None:
    odd = tmp_path / "app.py:double"
    assert is_target(odd)
    odd.write_text("")
    assert not is_target(odd)
    assert is_target(Path("package.module:Class"))
    assert not is_target(Path("spec.yaml"))
    assert split_target("a/b.py:f") == (Path("a"), "b.py:f")
    assert split_target("a.b:f") == (Path(), "a.b:f")


@pytest.mark.slow
def test_a_script_becomes_the_server_with_the_options_it_is_given(app: str) -> None:
    said = subprocess.run(
        [sys.executable, app, "--print-spec", "--slo", "70ms"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    ).stdout
    assert said.startswith("not the spec\nversion: 1\n")  # the script's own, then the server's
    assert '"python": "app.py:total"' in said
    assert 'latency: "70ms"' in said


@pytest.mark.slow
def test_a_module_of_a_package_is_found_by_its_name(app: str) -> None:
    package = Path(app).parent / "package"
    package.mkdir()
    (package / "app.py").write_text(APP)
    said = subprocess.run(
        [sys.executable, "-m", "package.app", "--print-spec"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=package.parent,
    ).stdout
    assert '"python": "package.app:total"' in said
