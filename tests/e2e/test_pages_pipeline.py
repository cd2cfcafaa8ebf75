"""The page pipeline as it is served: five stages, real models, real processes, pages whose text is known.

Service times are declared, so that nothing is measured first; generous ones, for a machine that does other
work meanwhile. The deadline is long: what is tested is that answers are right, not that they are quick.
"""

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from steelyard.client.wire import LENGTH_HEADER, infer_body, read_outputs
from steelyard.demo.lines import find_font
from steelyard.demo.pages.draw import Page, draw_pages
from steelyard.demo.pages.models import PageModels
from steelyard.demo.pages.scores import right_lines
from steelyard.demo.pages.spec import SERVICE, pages_spec, write_spec
from steelyard.testing.live import serve

pytestmark = pytest.mark.slow

LATENCY = {"alpha_ms": 60.0, "zeta_ms": 10.0}
ASKED_AT_ONCE = 4


def test_pages_are_read_by_the_variants_that_the_answer_names(
    page_models: PageModels, tmp_path: Path
) -> None:
    spec = pages_spec(
        page_models,
        slo_ms=30_000,
        cores=2,
        detectors=["tiny"],
        readers=["small", "tiny"],
        accuracies={("tiny", "small"): 0.95, ("tiny", "tiny"): 0.85},
        policies={},
    )
    for model in spec["models"].values():
        for variant in model["variants"].values():
            variant["latency"] = LATENCY
    for stage in ("crop", "text"):
        spec["services"][SERVICE]["pipeline"][stage]["latency"] = LATENCY
    write_spec(tmp_path / "pages.yaml", spec)
    pages = draw_pages(8, np.random.default_rng(2), font=find_font(), difficulty="clean")
    with serve(tmp_path / "pages.yaml", tmp_path) as server, ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        answers = list(pool.map(lambda page: ask(server.url, page), pages))
    scores = [right_lines(text, page.text) for page, (text, _) in zip(pages, answers, strict=True)]
    # The models lose a blank now and then; a page that got another one's lines would score nothing.
    assert min(scores) > 0.5, answers[int(np.argmin(scores))]
    assert np.mean(scores) > 0.85
    for _, parameters in answers:
        said = dict(part.split(":") for part in parameters["variants"].split(","))
        assert said["detect"] == "tiny"
        # Measured end to end for just this pair, so nothing is multiplied.
        assert parameters["accuracy"] == {"small": 0.95, "tiny": 0.85}[said["read"]]
        assert parameters["core_ms"] > 0


def ask(url: str, page: Page) -> tuple[str, dict[str, Any]]:
    body = infer_body({"page": page.image[np.newaxis]})
    request = urllib.request.Request(
        f"{url}/v2/models/{SERVICE}/infer", data=body.content, headers=dict(body.headers)
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = answer.read()
        length = int(answer.headers[LENGTH_HEADER])
    (text,) = read_outputs(content, length)["text"].ravel()
    return text.decode(), msgspec.json.decode(content[:length])["parameters"]
