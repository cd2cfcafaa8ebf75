"""The page of results says what the records say: its tables are made from them."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def test_the_tables_agree_with_the_records() -> None:
    command = [sys.executable, str(BENCH / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
