"""From files to specs."""

from pathlib import Path

import pytest
import yaml

from steelyard.config.load import SPEC_BYTES_MAX, is_onnx, load_spec, read_spec, spec_for_onnx
from steelyard.core.errors import SpecError

SMALL = """
models: {m: {variants: {v: {onnx: m.onnx}}}}
services: {s: {slo: {latency: 50ms}, pipeline: {a: {model: m}}}}
"""


def test_what_is_left_out_has_its_default() -> None:
    spec = read_spec(SMALL, "spec.yaml", Path()).spec
    service = spec.services["s"]
    assert (spec.version, spec.cluster.backend, spec.cluster.cores) == (1, "local", None)
    assert (service.slo.quantile, service.weight, service.cores.min, service.cores.max) == (
        0.99,
        1.0,
        None,
        None,
    )
    assert (spec.policy.name, spec.policy.options) == ("steelyard", {})


def test_a_policy_keeps_its_options() -> None:
    text = SMALL + "policy: {name: static, replicas: 2}\npolicies: {mine: {name: static, cores: 2}}\n"
    spec = read_spec(text, "spec.yaml", Path()).spec
    assert (spec.policy.name, spec.policy.options) == ("static", {"replicas": 2})
    assert spec.policies["mine"].options == {"cores": 2}


def test_units_become_seconds_and_bytes() -> None:
    text = SMALL.replace("{onnx: m.onnx}", "{onnx: m.onnx, memory: 300MB, cold_start: 2s, resize: 50ms}")
    variant = read_spec(text, "spec.yaml", Path()).spec.models["m"].variants["v"]
    assert (variant.memory, variant.cold_start, variant.resize) == (300_000_000, 2.0, 0.05)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_an_empty_file_says_what_it_wants(text: str) -> None:
    with pytest.raises(
        SpecError, match=r"spec\.yaml: the file is empty; want at least models: and services:"
    ):
        read_spec(text, "spec.yaml", Path())


@pytest.mark.parametrize("text", ["just text", "- a\n- b\n", "5"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.yaml:1: want a mapping of keys to values"):
        read_spec(text, "spec.yaml", Path())


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nope\.yaml: cannot read the spec file: No such file or directory"):
        load_spec(tmp_path / "nope.yaml")
    with pytest.raises(SpecError, match="cannot read the spec file: Is a directory"):
        load_spec(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x81")
    with pytest.raises(SpecError, match=r"not a text file; an ONNX model's name ends in .onnx"):
        load_spec(tmp_path / "binary.yaml")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(SPEC_BYTES_MAX + 1)
    with pytest.raises(SpecError, match="larger than 4 MiB"):
        load_spec(tmp_path / "huge.yaml")


def test_the_specification_beside_its_models(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SMALL)
    assert load_spec(tmp_path / "spec.yaml").folder == tmp_path


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("resnet-18.onnx", "resnet-18"),
        ("my model (1).onnx", "my_model_1"),
        ("é.onnx", "model"),
        ("on.ONNX", "on"),
        ("3.onnx", "3"),
    ],
)
def test_an_onnx_file_stands_for_a_spec_that_reads_back(tmp_path: Path, name: str, service: str) -> None:
    file = tmp_path / name
    file.touch()
    assert is_onnx(file)
    loaded = spec_for_onnx(file, 0.05)
    again = read_spec(loaded.text, "printed.yaml", Path())
    assert again.spec == loaded.spec
    assert list(loaded.spec.services) == [service]
    assert loaded.spec.services[service].slo.latency == 0.05
    assert loaded.spec.models[service].variants[service].onnx == str(file)
    assert yaml.safe_load(loaded.text)["policy"] == "steelyard"


def test_an_error_about_a_lone_model_names_the_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    loaded = spec_for_onnx(tmp_path / "m.onnx", 0.05)
    assert str(loaded.source.error(("models", "m"), "wrong")) == f"{tmp_path}/m.onnx: models.m: wrong"
    with pytest.raises(SpecError, match=r"nope\.onnx: no such file"):
        spec_for_onnx(tmp_path / "nope.onnx", 0.05)
