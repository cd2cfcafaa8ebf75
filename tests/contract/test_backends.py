"""Both backends keep the contract of `steelyard.backend.base`; the local one on both kinds of loop."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import uvloop

from steelyard.backend.base import Backend, Sink
from steelyard.backend.cpu import usable_core_ids
from steelyard.backend.local import LocalBackend
from steelyard.backend.memory import MemoryBackend
from steelyard.core.commands import RunBatch
from steelyard.core.errors import ModelError
from steelyard.runtime.base import Value, VariantSpec
from steelyard.testing.backend_contract import BackendContract
from steelyard.testing.virtual_clock import VirtualTimeLoop
from steelyard.worker.arena import Arena

MODEL = """
import numpy as np

class Times:
    signature = {"inputs": {"x": ("FP32", [-1, 2])}, "outputs": {"y": ("FP32", [-1, 2])}}

    def setup(self, options):
        self.factor = np.float32(options["factor"])

    def predict(self, batch):
        if np.isnan(batch["x"]).any():
            raise ValueError("not a number\\nin two lines")
        return {"y": batch["x"] * self.factor}
"""


class TestMemoryBackend(BackendContract):
    loop_factory = VirtualTimeLoop

    def make(self, arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop) -> Backend:
        def compute(command: RunBatch, inputs: Mapping[str, Value]) -> dict[str, Value]:
            x = np.asarray(inputs["x"])
            if np.isnan(x).any():
                raise ModelError("not a number")
            return {"y": x * np.float32(2 if command.variant == "double" else 3)}

        return MemoryBackend(
            (0, 1), sink, loop=loop, service_time_s=lambda command, cores: 0.01 * command.rows / cores,
            compute=compute, arena=arena,
        )  # fmt: skip


class LocalContract(BackendContract):
    @pytest.fixture(autouse=True)
    def model(self, tmp_path: Path) -> None:
        path = tmp_path / "times.py"
        path.write_text(MODEL)
        self.specs = tuple(
            VariantSpec(name, "python", f"{path}:Times", batch_rows_max=8, options={"factor": factor})
            for name, factor in (("double", 2), ("triple", 3))
        )

    def make(self, arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop) -> Backend:
        return LocalBackend(usable_core_ids(), {("svc", "st"): self.specs}, {}, arena, sink, loop=loop)


@pytest.mark.slow
class TestLocalBackend(LocalContract):
    pass


@pytest.mark.slow
class TestLocalBackendOnUvloop(LocalContract):
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = staticmethod(uvloop.new_event_loop)
