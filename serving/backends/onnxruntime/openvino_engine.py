"""One ONNX file in OpenVINO on the CPU, in float32, compiled per set of wanted outputs. Knows no Triton."""

import sys

# Importing openvino sends an event to its maker and writes an identity to the home folder, unless this package cannot be imported.
if "openvino" not in sys.modules:
    sys.modules["openvino_telemetry"] = None

import openvino as ov

MAX_COMPILED = 3  # sets of outputs beside the whole one; each holds its own copy of the weights


class OpenVinoEngine:
    """A graph that is cut down to the outputs that are asked for.

    OpenVINO computes every output that it compiled, wanted or not: for a slide, which wants PROBABILITIES alone, the labels' upsampling would
    be a quarter of the work (measured on the default model at batch 8: 15.0 against 10.9 ms). So each set is compiled when it is first asked for.
    """

    label = "OpenVINO"
    version = ov.__version__

    def __init__(self, path, choice):
        self.path = path
        self.settings = settings(choice)
        self.core = ov.Core()
        model = self.core.read_model(path)
        self.inputs = {port.get_any_name() for port in model.inputs}
        self.outputs = frozenset(port.get_any_name() for port in model.outputs)
        self.compiled = {}

    def run(self, feeds, names):
        """Inputs by name → the named outputs by name, batch first; valid until the next run, which uses the same memory."""
        compiled, request = self.request_for(frozenset(names))
        try:
            # Not infer(): with one thread it swallows errors and leaves the rows of the run before (2026.4.1).
            request.start_async(feeds, share_inputs=True)
            request.wait()
        except Exception:
            del self.compiled[compiled]  # after an error every further run of it fails (2026.4.1)
            raise
        return {name: request.get_tensor(name).data for name in names}

    def request_for(self, names):
        """The set of outputs to run, which may be the whole one, and its request."""
        if names not in self.compiled and len(self.compiled.keys() - {self.outputs}) >= MAX_COMPILED:
            names = self.outputs
        if names not in self.compiled:
            self.compiled[names] = self.compile(names)
        return names, self.compiled[names]

    def compile(self, names):
        model = self.core.read_model(self.path)
        wanted = [result for result in model.get_results() if result.output(0).get_any_name() in names]
        part = ov.Model(wanted, model.get_parameters(), model.get_friendly_name())
        return self.core.compile_model(part, "CPU", self.settings).create_infer_request()


def settings(choice):
    chosen = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has units for it: other values than the release was checked with
        # Each model and each instance is a process here: all would pin their threads to the same first cores.
        "ENABLE_CPU_PINNING": False,
    }
    return chosen | ({"INFERENCE_NUM_THREADS": choice.threads} if choice.threads else {})
