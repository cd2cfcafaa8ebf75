"""Read the prepared pages, one request each, and show who read them and how much of them was right.

Needs steelyard's client: pip install '../..[client]' in this folder.
"""

from pathlib import Path

import numpy as np

from steelyard.client import Client, RejectedError, ShedError
from steelyard.demo.pages.scores import right_lines


def main(folder: Path, address: str) -> None:
    """Send the pages one after the other; the last one says how accurate it wants to be read at least."""
    prepared = np.load(folder / "pages.npz")
    with Client(address) as client:
        for index, (image, said) in enumerate(zip(prepared["page"], prepared["label"], strict=True)):
            least = 0.95 if index == len(prepared["page"]) - 1 else None
            try:
                answer = client.infer("pages", {"page": image[np.newaxis]}, min_accuracy=least)
            except (RejectedError, ShedError) as refused:  # by a machine that is too slow, or busy
                print(f"  not read: {refused}\n")  # noqa: T201
                continue
            (text,) = answer.outputs["text"].ravel()
            right = right_lines(text.decode(), str(said))
            print(text.decode())  # noqa: T201
            worth = f"{right:.0%} of its lines right, {answer.accuracy} expected"
            print(f"  {worth} of {dict(answer.variants)}\n")  # noqa: T201


if __name__ == "__main__":
    main(Path(__file__).parent, "127.0.0.1:8080")
