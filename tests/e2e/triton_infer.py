"""Run as a process: infers with tritonclient's HTTP client, and writes what it got to an .npz file.

Usage: triton_infer.py ADDRESS MODEL INPUTS.npz OUTPUTS.npz; input `x1` gives `binary_x1` and `json_x1`.
"""

import sys

import numpy as np
import tritonclient.http as triton


def main(address: str, model: str, inputs: str, outputs: str) -> None:
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_model_ready(model)
    metadata = client.get_model_metadata(model)
    answers = {}
    for key, array in np.load(inputs).items():
        for form, binary in (("binary", True), ("json", False)):
            given = triton.InferInput(metadata["inputs"][0]["name"], list(array.shape), "FP32")
            given.set_data_from_numpy(array, binary_data=binary)
            name = metadata["outputs"][0]["name"]
            wanted = triton.InferRequestedOutput(name, binary_data=binary)
            result = client.infer(model, [given], outputs=[wanted] if not binary else None)
            assert {"variant", "queue_ms", "service_ms"} <= set(result.get_response()["parameters"])
            answers[f"{form}_{key}"] = result.as_numpy(name)
    np.savez(outputs, **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
