"""MLServer: the runtime of one model (it ships none for ONNX). Runs in MLServer's own environment.

It takes the tensor in either form of the protocol. As FP32, MLServer unpacks it into a Python list and the
codec makes an array of that; as one BYTES element it is handed over as it came, which costs less for large
rows.
"""

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Peer(MLModel):
    async def load(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        extra = self.settings.parameters.extra
        self.session = ort.InferenceSession(extra["file"], options, providers=["CPUExecutionProvider"])
        self.output, self.row = extra["output"], tuple(extra["row"])
        return True

    async def predict(self, payload):
        given = payload.inputs[0]
        if given.datatype == "BYTES":
            x = np.stack([np.frombuffer(each, np.float32).reshape(self.row) for each in given.data])
        else:
            x = NumpyCodec.decode_input(given)
        y = self.session.run([self.output], {"x": x})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
