"""A client of the Open Inference Protocol over HTTP, for threads (`Client`) and for asyncio (`AsyncClient`).

    from steelyard.client import Client

    with Client("http://localhost:8080") as client:
        answer = client.infer("ocr", {"x": image}, max_latency_ms=50)
        answer.outputs["tokens"], answer.variant, answer.queue_ms

docs/client.md says what it does about deadlines, retries and shared memory. It works with any server of the
protocol; it imports neither a model runtime nor the server.
"""

from steelyard.client.aio import AsyncClient
from steelyard.client.answers import Answer, ModelMetadata
from steelyard.client.errors import (
    AnswerError,
    ClientError,
    DeadlineExceededError,
    InvalidInputError,
    ModelFailedError,
    NotFoundError,
    RejectedError,
    ShedError,
    UnavailableError,
)
from steelyard.client.retries import Retries
from steelyard.client.sync import Client

__all__ = [
    "Answer",
    "AnswerError",
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceededError",
    "InvalidInputError",
    "ModelFailedError",
    "ModelMetadata",
    "NotFoundError",
    "RejectedError",
    "Retries",
    "ShedError",
    "UnavailableError",
]
