# mypy: ignore-errors
"""`runtime_engine.py` of the network that `gpu_triton` serves: an ONNX Runtime session on the provider asked for, or none. Knows no Triton."""

import os

import onnxruntime as ort

# serving/backends/onnxruntime/runtime_engine.py has this name here.
from cpu_engine import session_options


class RuntimeEngine:
    """As the backend's, on one provider and without cutting batches; inputs and outputs are copied to and from the device by ONNX Runtime."""

    label = "ONNX Runtime"
    version = ort.__version__

    def __init__(self, path, choice):
        provider = os.environ["HISTOSERVE_GPU_PROVIDER"]
        if provider == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # of the CUDA packages beside it, where they are
        self.session = ort.InferenceSession(path, session_options(choice), providers=[provider])
        if provider not in self.session.get_providers():  # it falls back without an error
            raise RuntimeError(f"expected {provider}, ONNX Runtime {ort.__version__} could not start it: its log says why")
        self.inputs = {node.name for node in self.session.get_inputs()}
        self.outputs = {node.name for node in self.session.get_outputs()}

    def run(self, feeds, names):
        """Inputs by name → the named outputs by name, batch first."""
        return dict(zip(names, self.session.run(names, feeds), strict=True))
