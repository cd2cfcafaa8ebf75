"""Bodies and answers in the binary form of the Open Inference Protocol, checked against a stock client."""

import json

import numpy as np
import pytest
from tritonclient.http import InferInput, InferResult

from steelyard.client.wire import LENGTH_HEADER, infer_body, read_outputs
from steelyard.core.errors import InputError


def test_a_body_carries_the_same_tensors_as_a_stock_clients() -> None:
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    words = np.array(["a", "déjà"], dtype=np.object_)
    body = infer_body({"image": image, "words": words})
    length = int(body.headers[LENGTH_HEADER])
    head = json.loads(body.content[:length])
    stock = [InferInput("image", [1, 3, 4], "FP32"), InferInput("words", [2], "BYTES")]
    stock[0].set_data_from_numpy(image)
    stock[1].set_data_from_numpy(words)
    assert head["inputs"] == [tensor._get_tensor() for tensor in stock]
    assert body.content[length:] == b"".join(tensor._get_binary_data() for tensor in stock)


def test_an_answer_reads_as_in_a_stock_client() -> None:
    tokens = np.array([[1, 2], [3, 4]], dtype=np.int64)
    words = (2).to_bytes(4, "little") + b"ab" + (0).to_bytes(4, "little")
    head = json.dumps(
        {
            "model_name": "m",
            "outputs": [
                {
                    "name": "tokens",
                    "datatype": "INT64",
                    "shape": [2, 2],
                    "parameters": {"binary_data_size": 32},
                },
                {"name": "score", "datatype": "FP32", "shape": [2], "data": [0.5, 0.25]},
                {"name": "words", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
            ],
        }
    ).encode()
    content = head + tokens.tobytes() + words
    read = read_outputs(content, len(head))
    stock = InferResult.from_response_body(content, header_length=len(head))
    for name in ("tokens", "score", "words"):
        assert np.array_equal(read[name], stock.as_numpy(name))


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"{}",
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":3}}]}',
    ],
)
def test_an_answer_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="not an Open Inference Protocol answer"):
        read_outputs(content, len(content))
