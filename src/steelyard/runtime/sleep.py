"""A fake that takes a stated time: sleeps l(b, c) = alpha b / c + beta b + gamma / c + zeta and echoes.

For tests, demos without a model, and for showing that live and simulated runs agree: its service times are
known. Options, all in the spec's `options:`: `alpha_ms`, `beta_ms`, `gamma_ms`, `zeta_ms` (0), `spread` (0:
sigma of a log-normal factor with median 1), `seed` (0), `n` (1: width of the input `x`), `load_ms` (0: time
to load).
"""

import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import exp, inf, isfinite

import numpy as np

from steelyard.core.errors import ModelError
from steelyard.runtime.base import Array, Signature, TensorSpec, Value, VariantSpec, WidthRule, one_array

_DEFAULTS: dict[str, float] = {
    "alpha_ms": 0.0,
    "beta_ms": 0.0,
    "gamma_ms": 0.0,
    "zeta_ms": 0.0,
    "spread": 0.0,
    "seed": 0,
    "n": 1,
    "load_ms": 0.0,
}
_LEAST: dict[str, float] = {"spread": 0, "seed": 0, "n": 1, "load_ms": 0}
_SPIN_S = 0.0003
"""The last part of a sleep is spun: the kernel wakes a sleeper some 50-100 us late."""


class SleepRuntime:
    """Sleeps instead of computing.

    Raises:
        ModelError: an option is unknown, not a number or too small.
    """

    def __init__(self, spec: VariantSpec, cores: float = 1.0) -> None:
        options = _options(spec)
        self._spec = spec
        self._coefficients_s = [options[key] / 1000 for key in ("alpha_ms", "beta_ms", "gamma_ms", "zeta_ms")]
        self._spread = options["spread"]
        self._rng = np.random.default_rng(int(options["seed"]))
        self._cores = cores
        shape = (-1, int(options["n"]))
        tensors = (TensorSpec("x", "FP32", shape),), (TensorSpec("y", "FP32", shape),)
        self.signature = Signature(*tensors, batchable=True, platform="sleep")
        sleep_s(options["load_ms"] / 1000)

    def set_cores(self, cores: float) -> None:
        """Sleep as on `cores` cores from the next batch on."""
        self._cores = cores

    def set_widths(self, rules: Sequence[WidthRule]) -> None:
        """Nothing to choose."""

    def run(self, inputs: Mapping[str, Value], rows: int) -> dict[str, Array]:
        """Sleep for a batch of `rows` rows and answer with the input.

        Raises:
            ModelError: there is no input `x`.
        """
        if "x" not in inputs:
            raise ModelError(f"the sleep runtime takes an input `x`, not {', '.join(inputs) or 'nothing'}")
        sleep_s(self.service_time_s(rows, self._cores) * exp(self._spread * self._rng.standard_normal()))
        return {"y": one_array(self._spec, self.signature, "x", inputs["x"])}

    def service_time_s(self, rows: int, cores: float) -> float:
        """Median seconds of a batch; below one core it is that of one core, stretched by the share."""
        alpha, beta, gamma, zeta = self._coefficients_s
        whole = max(1.0, cores)
        at_whole = max(0.0, alpha * rows / whole + beta * rows + gamma / whole + zeta)
        return at_whole / cores if 0 < cores < 1 else at_whole

    def close(self) -> None:
        """Nothing to free."""


def sleep_s(duration_s: float) -> None:
    """Sleep to within some microseconds: the kernel's sleep, then a spin of at most 0.3 ms."""
    end_s = time.monotonic() + duration_s
    if duration_s > _SPIN_S:
        time.sleep(duration_s - _SPIN_S)
    while time.monotonic() < end_s:
        pass


def _options(spec: VariantSpec) -> dict[str, float]:
    for key, value in spec.options.items():
        if key not in _DEFAULTS:
            near = get_close_matches(key, _DEFAULTS, n=1, cutoff=0.0)[0]
            raise ModelError(
                f"variant {spec.name}: unknown option {key!r} of the sleep runtime; nearest is {near}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ModelError(f"variant {spec.name}: option {key} is {value!r}, want a number")
        if value < _LEAST.get(key, -inf):
            raise ModelError(f"variant {spec.name}: option {key} is {value!r}, want at least {_LEAST[key]}")
    return {key: float(spec.options.get(key, default)) for key, default in _DEFAULTS.items()}
