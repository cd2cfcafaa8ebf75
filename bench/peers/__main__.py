"""`python bench/peers`: see `peers.compare`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder is a package beside the other benches

from peers.compare import main  # noqa: E402 -- after the path

if __name__ == "__main__":
    main()
