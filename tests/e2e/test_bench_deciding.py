"""What the bench of edge and decision serves: the live server answers, with nobody to run its batches."""

import json
import os
import urllib.request

import edge
import pytest
from edge_deciding import deciding
from edge_models import OUTPUTS

from steelyard.testing.live import descendants, mapped_arenas


@pytest.mark.slow
def test_the_server_without_workers_answers_every_request_with_its_row_of_zeros() -> None:
    core = min(os.sched_getaffinity(0))
    with deciding({"small": edge.FLOATS["small"]}, core) as (pid, port):
        body, headers = edge.request("small")
        for _ in range(3):
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/v2/models/small/infer", data=body, headers=headers
            )
            with urllib.request.urlopen(asked, timeout=30) as answer:
                assert answer.status == 200
                length = int(answer.headers["Inference-Header-Content-Length"])
                data = answer.read()
            (output,) = json.loads(data[:length])["outputs"]
            assert (output["name"], output["shape"]) == ("y", [1, OUTPUTS])
            assert data[length:] == bytes(4 * OUTPUTS)
        assert not [worker for worker in descendants(pid) if mapped_arenas(worker)]
        assert os.sched_getaffinity(pid) == {core}
