"""From a file to a checked spec: YAML, or an ONNX file, which stands for the spec that serves it alone."""

import json
import re
from pathlib import Path

from pydantic import ValidationError

from steelyard.config.accuracies import stated_paths
from steelyard.config.items import check_items
from steelyard.config.latency import CPU, declared_latency
from steelyard.config.pipeline import check_references
from steelyard.config.problems import first_problem
from steelyard.config.schema import Spec
from steelyard.config.source import Source, parse
from steelyard.config.units import duration_text
from steelyard.core.errors import SpecError

SPEC_BYTES_MAX = 4 << 20


class LoadedSpec:
    """A checked spec, where it came from, and the text it was read from.

    Attributes:
        spec: the values.
        source: names file and line in errors.
        folder: what relative paths in the spec are relative to.
        text: the YAML, for `--print-spec`.
    """

    def __init__(self, spec: Spec, source: Source, folder: Path, text: str) -> None:
        self.spec = spec
        self.source = source
        self.folder = folder
        self.text = text


def is_onnx(path: Path) -> bool:
    """Whether a SPEC argument is a model rather than a spec file."""
    return path.suffix.lower() == ".onnx"


def load_spec(path: Path) -> LoadedSpec:
    """Read and check a spec file.

    Raises:
        SpecError: with one line that names file, line, key and the nearest valid choice.
    """
    label = str(path)
    try:
        if path.is_file() and path.stat().st_size > SPEC_BYTES_MAX:
            raise SpecError(f"{label}: larger than {SPEC_BYTES_MAX >> 20} MiB: not a spec file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{label}: cannot read the spec file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{label}: not a text file; an ONNX model's name ends in .onnx") from None
    return read_spec(text, label, path.parent)


def read_spec(text: str, label: str, folder: Path) -> LoadedSpec:
    """Check a spec given as text; errors call it `label`, relative paths start in `folder`.

    Raises:
        SpecError: as `load_spec`.
    """
    source = parse(text, label)
    if source.data is None:
        raise SpecError(f"{label}: the file is empty; want at least models: and services:")
    try:
        spec = Spec.model_validate(source.data)
    except ValidationError as error:
        raise first_problem(error, source) from None
    check_references(spec, source)
    for name, service in spec.services.items():
        check_items(service, source, ("services", name))
        stated_paths(spec, name, source, folder)
    for model_name, model in spec.models.items():
        for variant_name, variant in model.variants.items():
            at = ("models", model_name, "variants", variant_name)
            for device in (variant.latency and variant.latency.devices) or (CPU,):
                declared_latency(variant, source, at, folder=folder, device=device)
    return LoadedSpec(spec, source, folder, text)


def spec_for_onnx(path: Path, slo_s: float) -> LoadedSpec:
    """The spec that a lone ONNX file stands for: one service of its name, one stage, one variant.

    Raises:
        SpecError: the file does not exist.
    """
    if not path.is_file():
        raise SpecError(f"{path}: no such file")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_-") or "model"
    text = (
        "version: 1\n"
        "models:\n"
        f"  {_yaml(name)}:\n"
        "    variants:\n"
        f"      {_yaml(name)}: {{onnx: {_yaml(str(path))}}}\n"
        "services:\n"
        f"  {_yaml(name)}:\n"
        f"    slo: {{latency: {duration_text(slo_s)}, quantile: 0.99}}\n"
        "    pipeline:\n"
        f"      {_yaml(name)}: {{model: {_yaml(name)}}}\n"
        "policy: steelyard\n"
    )
    loaded = read_spec(text, str(path), Path())
    return LoadedSpec(loaded.spec, Source(str(path), loaded.source.data, {}), Path(), text)


def _yaml(text: str) -> str:
    """Text as a YAML scalar: plain where nobody could take it for anything else, else quoted as JSON is."""
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", text)
    words = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
    return text if plain and text.lower() not in words else json.dumps(text)
