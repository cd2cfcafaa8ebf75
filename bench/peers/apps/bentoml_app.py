"""BentoML: one model behind /predict. Runs in its own environment; settings come as JSON in PEER_SETTINGS.

Its adaptive batching joins requests that are each a list already, so a request is a list of one. Its numpy
type travels as nested JSON lists, which costs more than the model; a list of base64 strings costs the least.
An `async` method runs on the event loop, any other in a thread. What is loaded is frozen, so that full
garbage collections do not go through it.
"""

import base64
import gc
import json
import os

import bentoml
import numpy as np
import onnxruntime as ort

SETTINGS = json.loads(os.environ["PEER_SETTINGS"])


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Peer:
    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(SETTINGS["file"], options, providers=["CPUExecutionProvider"])
        self.row = tuple(SETTINGS["row"])
        gc.collect()
        gc.freeze()

    def answer(self, x):
        rows = [np.frombuffer(base64.b64decode(each), np.float32).reshape(self.row) for each in x]
        outputs = self.session.run([SETTINGS["output"]], {"x": np.stack(rows)})[0]
        return [base64.b64encode(np.ascontiguousarray(output)).decode() for output in outputs]

    if SETTINGS["inline"]:

        @bentoml.api(batchable=True, max_batch_size=SETTINGS["batch"], max_latency_ms=SETTINGS["latency_ms"])
        async def predict(self, x: list[str]) -> list[str]:
            return self.answer(x)

    else:

        @bentoml.api(batchable=True, max_batch_size=SETTINGS["batch"], max_latency_ms=SETTINGS["latency_ms"])
        def predict(self, x: list[str]) -> list[str]:
            return self.answer(x)
