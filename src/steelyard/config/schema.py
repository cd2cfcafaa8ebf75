"""The spec file's schema (docs/spec.md): what may stand where, with units, ranges and defaults.

The rule of this file: a model says only what can be judged without looking elsewhere in the file. What refers
to something else (a stage's model, an input's source, cycles) is checked in `pipeline`, what refers to other
files in `latency` and `resolve`. Unknown keys are always errors: a setting that is silently ignored is none.
Durations are seconds and sizes bytes once they are read.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from steelyard.config.problems import unknown_key, unwanted
from steelyard.config.units import duration_or_zero_s, duration_s, shown, size_bytes

Duration = Annotated[float, BeforeValidator(duration_s)]
DurationOrZero = Annotated[float, BeforeValidator(duration_or_zero_s)]
Size = Annotated[int, BeforeValidator(size_bytes)]
Count = Annotated[int, Field(strict=True, ge=1)]
# A slip of the keyboard must end here: planners look at every batch, and every core is kept account of.
BATCH_MAX, CORES_MAX = 4096, 100_000
Batch = Annotated[int, Field(strict=True, ge=1, le=BATCH_MAX)]
Cores = Annotated[int, Field(strict=True, ge=1, le=CORES_MAX)]
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]
Dim = Annotated[int, Field(strict=True, ge=-1)]
Dtype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip


class SpecModel(BaseModel):
    """Base of every mapping in the spec: frozen, and unknown keys are errors that name the nearest one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    open_keys: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not cls.open_keys:
            for key in data:
                if key not in cls.model_fields:
                    raise unknown_key(str(key), tuple(cls.model_fields))
        return data


def exactly_one(model: BaseModel, *keys: str) -> None:
    """Raise unless exactly one of the keys is given."""
    given = [key for key in keys if key in model.model_fields_set]
    if len(given) != 1:
        raise unwanted(f"want exactly one of {', '.join(keys)}, got {' and '.join(given) or 'none'}")


class NodeSpec(SpecModel):
    """A machine of the cluster, for simulation, Ray and Kubernetes."""

    name: Name
    cores: Cores
    memory: Size | None = None
    devices: dict[Name, Count] = {}
    price_per_hour: NotNegative | None = None
    network: DurationOrZero = 0.0


def _cores_or_auto(value: object) -> object:
    if isinstance(value, str) and value != "auto":
        raise unwanted(f"want auto or a whole number, got {shown(value)}")
    return None if value == "auto" else value


class ClusterSpec(SpecModel):
    """Where replicas live. `cores` None is `auto`: the process's affinity and cgroup quota, never more.

    `fractions`: of a core that replicas share, each may use what the others leave (`lent`), or its own part
    and no more (`capped`).
    """

    backend: Literal["local", "ray", "kubernetes"] = "local"
    cores: Annotated[Cores | None, BeforeValidator(_cores_or_auto)] = None
    nodes: Annotated[tuple[NodeSpec, ...], Field(min_length=1)] | None = None
    fractions: Literal["lent", "capped"] = "lent"

    @model_validator(mode="after")
    def _nodes_replace_cores(self) -> Self:
        if self.nodes is not None and "cores" in self.model_fields_set:
            raise unwanted("nodes replaces cores: give one of them", "cores")
        names = [node.name for node in self.nodes or ()]
        for name in names:
            if names.count(name) > 1:
                raise unwanted(f"node {name} is given twice", "nodes")
        return self


class LatencySpec(SpecModel):
    """Service times stated instead of measured: l(b, c) = alpha b/c + beta b + gamma/c + zeta, or a table.

    Attributes:
        table: path of a CSV file, relative to the spec's: columns batch, cores, latency_ms, perhaps p99_ms.
        devices: by device, written directly under `latency`.
        stat: which statistic the values are.
        spread: sigma of a log-normal factor with median 1; default 0.05 for coefficients, measured for
            tables.
    """

    alpha_ms: Number | None = None
    beta_ms: Number | None = None
    gamma_ms: Number | None = None
    zeta_ms: Number | None = None
    table: str | None = None
    devices: "dict[Name, LatencySpec] | None" = None
    stat: Literal["p50", "p95", "p99"] = "p50"
    spread: NotNegative | None = None
    distribution: Literal["fixed", "lognormal", "exponential"] = "lognormal"

    @model_validator(mode="before")
    @classmethod
    def _devices_stand_alone(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data and all(isinstance(v, Mapping) for v in data.values()):
            return {"devices": dict(data)}
        return data

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.coefficients_ms is None and self.table is None and self.devices is None:
            raise unwanted("want alpha_ms, beta_ms, gamma_ms and zeta_ms, or a table")
        for device, latency in (self.devices or {}).items():
            if latency.devices is not None:
                raise unwanted("want coefficients or a table of this device", device)
        if self.coefficients_ms is not None and self.table is not None:
            raise unwanted("want either coefficients or a table, not both", "table")
        return self

    @property
    def coefficients_ms(self) -> tuple[float, float, float, float] | None:
        """(alpha, beta, gamma, zeta) with 0 for those left out; None if none is given."""
        given = (self.alpha_ms, self.beta_ms, self.gamma_ms, self.zeta_ms)
        if all(value is None for value in given):
            return None
        alpha, beta, gamma, zeta = (value or 0.0 for value in given)
        return alpha, beta, gamma, zeta


class ExampleSpec(SpecModel):
    """An input's shape for warm-up and profiling, without the leading dimension where that is dynamic."""

    shape: tuple[Count, ...]


class BucketsSpec(SpecModel):
    """Sizes of an input's dimension that are profiled apart; `dim` counts the leading dimension as 0."""

    dim: Count
    sizes: Annotated[tuple[Count, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise unwanted(f"want ascending sizes, got {', '.join(map(str, self.sizes))}", "sizes")
        return self


class VariantEntry(SpecModel):
    """One loadable answerer of a stage.

    `onnx: FILE` is short for `runtime: onnx, target: FILE`; `python: module:Class` for `runtime: python` and
    the same target. A variant without any of them only declares its `latency`: it can be planned and
    simulated, not served.
    """

    onnx: str | None = None
    python: str | None = None
    runtime: str | None = None
    target: str = ""
    options: dict[str, Any] = {}
    accuracy: Ratio | None = None
    batch_max: Batch | None = None
    cores_max: Count | None = None
    example: dict[str, ExampleSpec] = {}
    buckets: dict[str, BucketsSpec] = {}
    providers: Annotated[tuple[str, ...], Field(min_length=1)] = ("CPUExecutionProvider",)
    session_options: dict[str, str] = {}
    memory: Size | None = None
    cold_start: DurationOrZero | None = None
    load: DurationOrZero | None = None
    resize: DurationOrZero | None = None
    latency: LatencySpec | None = None

    @model_validator(mode="after")
    def _one_runtime(self) -> Self:
        given = [key for key in ("onnx", "python", "runtime") if getattr(self, key) is not None]
        if len(given) > 1 or (not given and self.latency is None):
            raise unwanted(
                f"want one of onnx, python, runtime or latency, got {' and '.join(given) or 'none'}"
            )
        if self.target and self.runtime is None:
            raise unwanted("goes with runtime; the target of onnx and python is their own value", "target")
        return self

    @property
    def kind(self) -> str:
        """The runtime's registered name; empty for a variant that only has a declared latency."""
        return self.runtime or ("onnx" if self.onnx else "python" if self.python else "")


class ModelSpec(SpecModel):
    """A task's variants, in order of preference."""

    variants: Annotated[dict[Name, VariantEntry], Field(min_length=1)]


class SloSpec(SpecModel):
    """What a service promises: `quantile` of its requests are answered within `latency`."""

    latency: Duration
    quantile: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.99


class InputSpec(SpecModel):
    """A tensor that clients send; -1 for a dynamic dimension."""

    dtype: Dtype
    shape: tuple[Dim, ...]


class StageSpec(SpecModel):
    """One stage of a pipeline: a model, or a Python function or class as glue.

    Glue is a worker of its own, so it may say what a variant says; a model's variants say it themselves.
    """

    model: str | None = None
    python: str | None = None
    inputs: dict[str, str] = {}
    each: str | None = None
    when: str | None = None
    after: tuple[str, ...] = ()
    fan_out: Positive | None = None
    options: dict[str, Any] = {}
    batch_max: Batch | None = None
    cores_max: Count | None = None
    example: dict[str, ExampleSpec] = {}
    memory: Size | None = None
    cold_start: DurationOrZero | None = None
    resize: DurationOrZero | None = None
    latency: LatencySpec | None = None

    @model_validator(mode="after")
    def _one_answerer(self) -> Self:
        exactly_one(self, "model", "python")
        for key in sorted(self._of_glue() if self.model is not None else ()):
            raise unwanted(f"goes with python; say it of the variants of {self.model}", key)
        return self

    @property
    def entry(self) -> VariantEntry:
        """Of glue: the one variant that it is."""
        given = {key: getattr(self, key) for key in self._of_glue()}
        return VariantEntry.model_construct({"python", *given}, python=self.python, **given)

    def _of_glue(self) -> set[str]:
        """Which keys of a variant are given."""
        return self.model_fields_set & VariantEntry.model_fields.keys() - {"python"}


def _mean_by_variant(value: object) -> object:
    return value if isinstance(value, Mapping) else {"": value}


def _fixed_items(value: object) -> object:
    return value if isinstance(value, Mapping) else {"mean": value, "distribution": "fixed"}


class ItemsSpec(SpecModel):
    """Items a row, to plan without traffic; `mean` by variant of what comes before, or under "" for all."""

    mean: Annotated[dict[str, NotNegative], Field(min_length=1), BeforeValidator(_mean_by_variant)]
    distribution: Literal["fixed", "poisson", "geometric"] = "poisson"


class CoresSpec(SpecModel):
    """Bounds on a service's cores, all replicas together; None leaves them to `resolve` and the cluster."""

    min: Positive | None = None
    max: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.min is not None and self.max < self.min:
            raise unwanted(f"want at least min ({self.min:g}), got {self.max:g}", "max")
        return self


class ClassSpec(SpecModel):
    """A class of requests, chosen by the request's `slo_class`."""

    latency: Duration
    weight: Positive = 1.0


class ObjectiveWeights(SpecModel):
    """Weights of a combined objective: + accuracy, - cores, - switch."""

    accuracy: NotNegative = 1.0
    cores: NotNegative = 0.0
    switch: NotNegative = 0.0


class ObjectiveSpec(SpecModel):
    """What to optimise within the SLO: least cores over an accuracy floor, most accuracy, or a sum."""

    accuracy_floor: Ratio | None = None
    cost_max_cores: Positive | None = None
    weights: ObjectiveWeights | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, "accuracy_floor", "cost_max_cores", "weights")
        return self


class PathAccuracySpec(SpecModel):
    """Accuracy of the whole pipeline, measured with one choice of variants, by stage."""

    variants: Annotated[dict[Name, Name], Field(min_length=1)]
    accuracy: Ratio


class PathAccuraciesSpec(SpecModel):
    """Such accuracies: listed, or in a file that `steelyard profile --labels --json` has written."""

    listed: tuple[PathAccuracySpec, ...] = ()
    file: str | None = None


def _listed_accuracies(value: object) -> object:
    if isinstance(value, list | tuple):
        return {"listed": value}
    if isinstance(value, Mapping) and set(value) == {"file"}:
        return value
    raise unwanted("want a list of {variants: {STAGE: VARIANT}, accuracy: A}, or {file: FILE}")


class LimitsSpec(SpecModel):
    """Limits of one service; beyond them requests are refused with a clear error."""

    request_rows: Count = 256
    queue_rows: Count = 4096
    retries: CountOrZero = 2


class ServiceSpec(SpecModel):
    """One task with one SLO: the model name that clients call."""

    slo: SloSpec
    pipeline: Annotated[dict[Name, StageSpec], Field(min_length=1)]
    inputs: dict[Annotated[str, Field(min_length=1)], InputSpec] = {}
    outputs: dict[Annotated[str, Field(min_length=1)], str] = {}
    items: dict[str, Annotated[ItemsSpec, BeforeValidator(_fixed_items)]] = {}
    cores: CoresSpec = CoresSpec()
    weight: Positive = 1.0
    classes: dict[Name, ClassSpec] = {}
    objective: ObjectiveSpec | None = None
    path_accuracies: Annotated[PathAccuraciesSpec, BeforeValidator(_listed_accuracies)] = PathAccuraciesSpec()
    limits: LimitsSpec = LimitsSpec()


class PolicySpec(SpecModel):
    """A policy's or configuration's name; every other key is an option, which the policy itself checks."""

    model_config = ConfigDict(extra="allow", frozen=True)
    open_keys: ClassVar[bool] = True

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The policy's own keys."""
        return dict(self.model_extra or {})


def _named_policy(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Spec(SpecModel):
    """The whole file."""

    version: Literal[1] = 1
    cluster: ClusterSpec = ClusterSpec()
    models: dict[Name, ModelSpec] = {}
    services: Annotated[dict[Name, ServiceSpec], Field(min_length=1)]
    policies: dict[Name, PolicySpec] = {}
    policy: Annotated[PolicySpec, BeforeValidator(_named_policy)] = PolicySpec(name="steelyard")
