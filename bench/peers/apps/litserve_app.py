"""LitServe: one model behind /predict. Runs in LitServe's own environment; settings come as JSON in argv[1].

Arrays travel as base64 in JSON, its documentation's way for what is not text. `fast_queue` (ZeroMQ between
front end and worker) is what it recommends for high rates. What is loaded is frozen, so that full garbage
collections do not go through it.
"""

import base64
import gc
import json
import sys

import litserve
import numpy as np
import onnxruntime as ort

SETTINGS = json.loads(sys.argv[1])


class Api(litserve.LitAPI):
    def setup(self, device):  # noqa: ARG002 -- its interface
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(SETTINGS["file"], options, providers=["CPUExecutionProvider"])
        self.row = tuple(SETTINGS["row"])
        gc.collect()
        gc.freeze()

    def decode_request(self, request):
        return np.frombuffer(base64.b64decode(request["x"]), np.float32).reshape(self.row)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return self.session.run([SETTINGS["output"]], {"x": x})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"y": base64.b64encode(np.ascontiguousarray(output)).decode()}


if __name__ == "__main__":
    api = Api(max_batch_size=SETTINGS["batch"], batch_timeout=SETTINGS["wait_s"])
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=SETTINGS["fast"]
    )
    server.run(
        host="127.0.0.1",
        port=SETTINGS["port"],
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
