"""A ranking model in Python: scores candidates for a user by the angle between projected embeddings."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Ranker:
    """Steelyard makes one in each worker, calls `setup` once, then `predict` with one batch at a time."""

    signature = {
        "inputs": {"user": ("FP32", [-1, 64]), "candidates": ("FP32", [-1, 200, 64])},
        "outputs": {"scores": ("FP32", [-1, 200]), "best": ("INT64", [-1])},
    }

    def setup(self, options: dict[str, Any]) -> None:
        """Load what the model needs; here a projection instead of trained weights."""
        rng = np.random.default_rng(options["seed"])
        size = options["dimensions"]
        self._projection = rng.standard_normal((size, size), dtype=np.float32) / np.float32(size**0.5)

    def predict(self, batch: dict[str, Floats]) -> dict[str, NDArray[Any]]:
        """Answer a batch: every array has the batch's rows first, in the answer as well."""
        user = _unit(batch["user"] @ self._projection)
        candidates = _unit(batch["candidates"] @ self._projection)
        scores = np.einsum("nd,ncd->nc", user, candidates)
        return {"scores": scores, "best": scores.argmax(axis=1)}


def _unit(vectors: Floats) -> Floats:
    """Vectors of length one along the last axis; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.float32(1e-12))
