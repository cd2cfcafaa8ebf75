"""MLServer: the runtime of one model (it ships none for ONNX). Runs in MLServer's own environment.

It takes the tensor in any form of the protocol and answers in the same. As FP32, MLServer makes a Python list
of it, in and out; as one BYTES element a row it is handed over as it came, which costs less: raw over gRPC,
base64 in JSON. What is loaded is frozen, so that full garbage collections do not go through it.
"""

import base64
import gc

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse, ResponseOutput


class Peer(MLModel):
    async def load(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        extra = self.settings.parameters.extra
        self.session = ort.InferenceSession(extra["file"], options, providers=["CPUExecutionProvider"])
        self.output, self.row = extra["output"], tuple(extra["row"])
        gc.collect()
        gc.freeze()
        return True

    async def predict(self, payload):
        given = payload.inputs[0]
        if given.datatype == "BYTES":
            text = isinstance(given.data[0], str)
            parts = map(base64.b64decode, given.data) if text else given.data
            x = np.stack([np.frombuffer(part, np.float32).reshape(self.row) for part in parts])
            rows = [row.tobytes() for row in self.session.run([self.output], {"x": x})[0]]
            data = [base64.b64encode(row).decode() for row in rows] if text else rows
            output = ResponseOutput(name="y", datatype="BYTES", shape=[len(rows), 1], data=data)
        else:
            x = NumpyCodec.decode_input(given)
            output = NumpyCodec.encode_output("y", self.session.run([self.output], {"x": x})[0])
        return InferenceResponse(model_name=self.name, outputs=[output])
