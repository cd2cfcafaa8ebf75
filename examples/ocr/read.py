"""Read the prepared lines with the stock Triton client, and show them beside what they say.

Needs tritonclient: pip install 'tritonclient[http]'.
"""

from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

from steelyard.demo.recogniser import find_shipped, read_characters, read_text


def main(folder: Path, address: str) -> None:
    """Send all lines in one request; print what was read and what it should be."""
    images = np.load(folder / "lines.npz")["x"]
    request = InferInput("x", list(images.shape), "FP32")
    request.set_data_from_numpy(images)
    tokens = InferenceServerClient(address).infer("ocr", [request]).as_numpy("tokens")
    characters = read_characters(find_shipped().characters)
    for row, said in zip(tokens, (folder / "lines.txt").read_text().splitlines(), strict=True):
        print(f"{read_text(row, characters):30} {said}")  # noqa: T201


if __name__ == "__main__":
    main(Path(__file__).parent, "127.0.0.1:8080")
