"""The spec of servers that are to be hurt: `naps`, 20 ms a row, with an objective that is far off."""

from pathlib import Path

import pytest

SPEC = """\
version: 1
models:
  naps:
    variants:
      base: {runtime: sleep, latency: {alpha_ms: 20, beta_ms: 0, gamma_ms: 0, zeta_ms: 0}, batch_max: 4}
services:
  naps:
    slo: {latency: 20s}
    pipeline:
      nap: {model: naps}
policies:
  two: {name: static, replicas: 2, cores: 1, batch: 4}
policy: two
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec file with the service `naps`, of two replicas; its answers are its inputs."""
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path
