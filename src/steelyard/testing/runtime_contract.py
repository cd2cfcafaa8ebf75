"""What every runtime must do: subclass `RuntimeContract` in a test module and say how to make yours.

    class TestMyRuntime(RuntimeContract):
        def spec(self, folder): return VariantSpec("v", "mine", ...)

The variant takes `x`, FP32 of shape [-1, 2], and answers `y`, FP32 of shape [-1, 2], each row of it from the
same row of `x` alone. It is made through the registry, so the registration is held to the contract, too.
"""

# ruff: noqa: D102  a case's name says what must hold

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from steelyard.core.errors import ModelError
from steelyard.runtime.base import Array, Runtime, Signature, VariantSpec, WidthRule
from steelyard.runtime.registry import make, names


def rows_of(rows: int) -> Array:
    """The same numbers for the same rows, every row another."""
    return np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + 1


def y_of(runtime: Runtime, x: Array) -> Array:
    """The only output, `y`, for the rows `x`."""
    answer = runtime.run({"x": x}, len(x))
    assert list(answer) == ["y"]
    y = answer["y"]
    assert isinstance(y, np.ndarray)
    return y


class RuntimeContract(ABC):
    """The cases; `cores_max` bounds the cores they ask for."""

    cores_max = 2

    @abstractmethod
    def spec(self, folder: Path) -> VariantSpec:
        """How to make the variant; files may be put into `folder`."""

    @pytest.fixture
    def variant(self, tmp_path: Path) -> VariantSpec:
        return replace(self.spec(tmp_path), cores_max=self.cores_max)

    @pytest.fixture
    def runtime(self, variant: VariantSpec) -> Iterator[Runtime]:
        made = make(variant)
        yield made
        made.close()

    def test_it_is_registered(self, variant: VariantSpec) -> None:
        assert variant.kind in names()

    def test_its_signature_crosses_processes(self, runtime: Runtime) -> None:
        signature = runtime.signature
        assert signature.batchable
        assert [(t.name, t.dtype, t.shape) for t in signature.inputs] == [("x", "FP32", (-1, 2))]
        assert msgspec.json.decode(msgspec.json.encode(signature), type=Signature) == signature

    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_it_answers_as_many_rows_as_it_was_given(self, runtime: Runtime, rows: int) -> None:
        y = y_of(runtime, rows_of(rows))
        assert y.shape == (rows, 2)
        assert y.dtype == np.float32

    def test_a_row_does_not_depend_on_its_company(self, runtime: Runtime) -> None:
        x = rows_of(5)
        together = y_of(runtime, x).copy()
        for index in range(5):
            alone = y_of(runtime, x[index : index + 1])
            np.testing.assert_allclose(alone[0], together[index], rtol=1e-5)

    def test_cores_and_widths_change_the_time_never_the_answer(self, runtime: Runtime) -> None:
        x = rows_of(4)
        before = y_of(runtime, x).copy()
        for rules in ((), (WidthRule(2, 1, "lanes"),), (WidthRule(2, 3, "lanes"),)):
            runtime.set_widths(rules)
            for cores in (2.0, 1.5, 1.0, 0.5):
                runtime.set_cores(min(cores, self.cores_max))
                np.testing.assert_allclose(y_of(runtime, x), before, rtol=1e-5)

    def test_it_reads_inputs_it_may_not_write(self, runtime: Runtime) -> None:
        x = rows_of(3)
        x.flags.writeable = False  # a request in another process's arena
        runtime.run({"x": x}, 3)
        assert np.array_equal(x, rows_of(3))

    def test_inputs_it_does_not_take_fail_the_batch_with_one_line(self, runtime: Runtime) -> None:
        with pytest.raises(ModelError) as caught:
            runtime.run({"unknown": rows_of(1)}, 1)
        assert str(caught.value)
        assert "\n" not in str(caught.value)
        assert y_of(runtime, rows_of(1)).shape == (1, 2)  # and nothing else

    def test_what_cannot_be_made_is_an_error_of_one_line(self, variant: VariantSpec) -> None:
        broken = replace(variant, target="/nowhere/at/all", options={"no_such_option": 1})
        with pytest.raises(ModelError) as caught:
            make(broken)
        assert "\n" not in str(caught.value)
