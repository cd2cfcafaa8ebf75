"""The examples of docs/client.md, run as they stand there against the server that they make."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.testing.live import LiveServer, serve

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
SERVER, *EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
PRINTED = (
    r"\[8\.\] \S+ [\d.e-]+\n",  # twice the sum of four ones; who answered; milliseconds in the queue
    r"\[0\.0, 8\.0, 16\.0, 24\.0, 32\.0, 40\.0, 48\.0, 56\.0\]\n",  # twice the sum of four n
    r"[\d.e-]+ \(.*\)\n",  # core-milliseconds; what was missed, as a rule nothing
    r"1\n",
)


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "app.py").write_text(SERVER)
    with serve(Path(f"{folder}/app.py:double"), folder, "--profiles", str(folder / "profiles")) as running:
        yield running


@pytest.mark.parametrize(("example", "printed"), list(zip(EXAMPLES, PRINTED, strict=True)))
def test_an_example_prints_what_it_should(
    server: LiveServer, example: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the bound on latency, which a busy machine may not be able to keep."""
    here = example.replace("http://localhost:8080", server.url).replace(", max_latency_ms=40", "")
    exec(compile(here, str(PAGE), "exec"), {"__name__": "example"})
    assert re.fullmatch(printed, capsys.readouterr().out)
