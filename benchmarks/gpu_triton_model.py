# mypy: ignore-errors
"""`model.py` of the network that `gpu_triton` serves: our python-based backend on the device of config.pbtxt. Runs in Triton's own environment."""

import json
import os

# Beside it: serving/backends/onnxruntime, whose model.py has this name here, with the engine of `gpu_triton_engine`.
import python_backend

GRAPH_FILE = "model.onnx"


class TritonPythonModel(python_backend.TritonPythonModel):
    """The backend's own model; what is different is the file's name and that a GPU may be seen."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        # This lane hides the GPU from the server. CUDA is not loaded yet, and reads it when it is.
        os.environ["CUDA_VISIBLE_DEVICES"] = config["parameters"]["visible_devices"]["string_value"]
        os.environ["HISTOSERVE_GPU_PROVIDER"] = config["parameters"]["provider"]["string_value"]
        config["default_model_filename"] = GRAPH_FILE
        super().initialize({**args, "model_config": json.dumps(config)})
