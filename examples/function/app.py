"""A Python function as a service: `python app.py`, or `steelyard serve app.py:double`."""

import numpy as np
from numpy.typing import NDArray

import steelyard


@steelyard.service(slo="50ms", inputs={"x": ("FP32", [-1, 4])}, outputs={"y": ("FP32", [-1])})
def double(batch: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Twice the sum of each row; a batch has the rows of several requests."""
    return {"y": 2 * batch["x"].sum(axis=1)}


if __name__ == "__main__":
    double.run()
