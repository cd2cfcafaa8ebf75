"""What is to be profiled, and the keys under which its profile is stored.

A profile holds for a model's content on a machine with a runtime version. Content is the model's files and
what the spec says about running them: the same file with another example shape or session option takes
another time.
"""

import hashlib
import mmap
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from steelyard.core.errors import ModelError
from steelyard.core.types import Frozen
from steelyard.runtime.base import Signature, VariantSpec

_CHUNK_BYTES = 1 << 20
_SIBLINGS_MAX = 1000
_PACKAGES = {"onnx": "onnxruntime"}


class Subject(Frozen, frozen=True):
    """One variant to measure.

    Attributes:
        model: name of the model in the spec.
        spec: how a replica's worker makes it.
        signature: what it takes, as `runtime.inspect` found.
        batch_rows_max: rows in its largest batch, >= 1.
        buckets: input name -> (dimension, the leading one counted; ascending sizes), as clients are sorted.
    """

    model: str
    spec: VariantSpec
    signature: Signature
    batch_rows_max: int
    buckets: dict[str, tuple[int, tuple[int, ...]]] = msgspec.field(default_factory=dict)

    @property
    def bucket_count(self) -> int:
        """Shape buckets to measure: as many as the longest list of sizes, 1 without any."""
        return max((len(sizes) for _, sizes in self.buckets.values()), default=1)

    def in_bucket(self, bucket: int) -> VariantSpec:
        """The variant with an example of exactly the bucket's sizes: the dearest request that falls in it."""
        example = dict(self.spec.example)
        for tensor in self.signature.inputs:
            if tensor.name not in self.buckets:
                continue
            dimension, sizes = self.buckets[tensor.name]
            leading = 1 if self.signature.batchable else 0
            shape = list(example.get(tensor.name, tensor.shape[leading:]))
            shape[dimension - leading] = sizes[min(bucket, len(sizes) - 1)]
            example[tensor.name] = tuple(shape)
        return replace(self.spec, example=example)


class Key(NamedTuple):
    """What a profile holds for."""

    model_hash: str
    machine: str
    runtime_version: str


def key_of(subject: Subject, *, cores: int) -> Key:
    """The key of a variant's profile, with `cores` cores of this machine to use; reads the files.

    Raises:
        ModelError: a file cannot be read.
    """
    return Key(model_hash(subject), machine(cores), runtime_version(subject.spec.kind))


def model_hash(subject: Subject) -> str:
    """SHA-256 over the model's files and over what else decides how long it runs.

    Raises:
        ModelError: a file cannot be read.
    """
    spec = subject.spec
    digest = hashlib.sha256()
    for path in _files(spec):
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise ModelError(f"variant {spec.name}: cannot read {path}: {error.strerror}") from error
    settings: Mapping[str, object] = {
        "kind": spec.kind,
        "attribute": spec.target.rpartition(":")[2] if spec.kind == "python" else "",
        "providers": spec.providers,
        "session_options": spec.session_options,
        "example": spec.example,
        "options": spec.options,
        "buckets": subject.buckets,
    }
    digest.update(msgspec.json.encode(settings, order="deterministic"))
    return digest.hexdigest()


def machine(cores: int) -> str:
    """`AMD EPYC 9B14, 2 cores`: the CPU's model and the number of cores this process may use."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            model = " ".join(value.split())
            break
    return f"{model}, {cores} core{'' if cores == 1 else 's'}"


def runtime_version(kind: str) -> str:
    """`onnxruntime 1.31.1`; for a Python class, Python's version; for a runtime from elsewhere, its name."""
    package = _PACKAGES.get(kind)
    if package is None:
        return f"{kind} on python {sys.version_info.major}.{sys.version_info.minor}"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # a build under another name, such as onnxruntime-gpu
        return package


def _files(spec: VariantSpec) -> Iterable[Path]:
    """The files that make up a variant: an ONNX model with its external data, or the user's module."""
    if spec.kind == "onnx":
        yield from _onnx_files(Path(spec.target))
    elif spec.kind == "python":
        module = spec.target.rpartition(":")[0]
        if module.endswith(".py"):
            yield Path(module)
        else:
            found = find_spec(module.partition(".")[0]) and find_spec(module)
            if found and found.origin and Path(found.origin).is_file():
                yield Path(found.origin)


def _onnx_files(model: Path) -> Iterable[Path]:
    """The model, and the files beside it that its bytes name: external data is referred to by file name."""
    yield model
    try:
        beside = sorted(path for path in model.parent.iterdir() if path != model and path.is_file())
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            named = [path for path in beside[:_SIBLINGS_MAX] if content.find(path.name.encode()) >= 0]
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelError(f"cannot read {model}: {error}") from error
    yield from named
