"""Ray Serve: one model behind /. Runs in Ray's own environment; settings come as JSON in argv[1].

The body is the raw tensor both ways. `max_ongoing_requests` is above the batch size, as its documentation
asks.
"""

import json
import signal
import sys

import numpy as np
import onnxruntime as ort
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

SETTINGS = json.loads(sys.argv[1])


@serve.deployment(
    num_replicas=1, max_ongoing_requests=8 * SETTINGS["batch"], ray_actor_options={"num_cpus": 0.5}
)
class Peer:
    def __init__(self, settings):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(settings["file"], options, providers=["CPUExecutionProvider"])
        self.output, self.row = settings["output"], tuple(settings["row"])

    @serve.batch(max_batch_size=SETTINGS["batch"], batch_wait_timeout_s=SETTINGS["wait_s"])
    async def predict(self, rows):
        return list(self.session.run([self.output], {"x": np.stack(rows)})[0])

    async def __call__(self, request: Request):
        row = np.frombuffer(await request.body(), np.float32).reshape(self.row)
        return Response(
            np.ascontiguousarray(await self.predict(row)).tobytes(), media_type="application/octet-stream"
        )


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=SETTINGS["temporary"])
    serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS["port"], "access_log": False})
    serve.run(Peer.bind(SETTINGS), name="peer", route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
