import hashlib

import pytest

from steelyard.policies.registry import known_policies
from steelyard.testing.hash_seeds import HASH_SEEDS, printed
from steelyard.testing.policy_contract import PolicyContract, day_of, transcript

NAMES = sorted({name for bare in known_policies() for name in (bare, f"{bare}+ours")})
TOGETHER = [NAMES[first : first + 8] for first in range(0, len(NAMES), 8)]
"""Those that share a process, which takes its time to start."""
PROGRAM = """
import hashlib, sys
from steelyard.testing.policy_contract import transcript
for name in sys.argv[1:]:
    print(hashlib.sha256(transcript(name)).hexdigest())
"""


@pytest.fixture(params=NAMES)
def _name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestEveryPolicy(PolicyContract):
    """The suite over every registered policy, published and on the shared rules."""

    @pytest.fixture(autouse=True)
    def _of_name(self, _name: str) -> None:
        type(self).name = _name


@pytest.mark.long
@pytest.mark.parametrize("hash_seed", HASH_SEEDS)
@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: f"{names[0]}..{names[-1]}")
def test_another_hash_seed_decides_the_same(names: list[str], hash_seed: str) -> None:
    there = printed(PROGRAM, *names, hash_seed=hash_seed).split()
    here = [hashlib.sha256(transcript(name, day_of)).hexdigest() for name in names]
    assert dict(zip(names, there, strict=True)) == dict(zip(names, here, strict=True))
