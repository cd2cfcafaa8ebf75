import os
import subprocess
import sys

import pytest

from steelyard.policies.registry import known_policies
from steelyard.testing.policy_contract import PolicyContract, transcript

NAMES = sorted({name for bare in known_policies() for name in (bare, f"{bare}+ours")})


@pytest.fixture(params=NAMES)
def _name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestEveryPolicy(PolicyContract):
    """The suite over every registered policy, published and on the shared rules."""

    @pytest.fixture(autouse=True)
    def _of_name(self, _name: str) -> None:
        type(self).name = _name


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_another_hash_seed_decides_the_same(name: str) -> None:
    script = (
        "import sys; from steelyard.testing.policy_contract import transcript;"
        "sys.stdout.buffer.write(transcript(sys.argv[1]))"
    )
    for seed in ("1", "4242"):
        result = subprocess.run(
            [sys.executable, "-c", script, name],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=200,
        )
        assert result.stdout == transcript(name)
