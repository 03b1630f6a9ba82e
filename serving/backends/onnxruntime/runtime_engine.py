"""One ONNX graph in ONNX Runtime on the CPU. Knows no Triton."""

import numpy as np
import onnxruntime as ort

# Nothing is won by more rows on a CPU, and memory grows with them: a larger batch is several runs.
RUN_ROWS = 16

# Triton's numbers for optimization.graph.level are its own: 2 turns everything off.
LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class RuntimeEngine:
    """A session; `run` gives arrays of their own."""

    label = "ONNX Runtime"
    version = ort.__version__

    def __init__(self, graph, choice):
        self.session = ort.InferenceSession(graph, session_options(choice), providers=["CPUExecutionProvider"])
        self.inputs = {node.name for node in self.session.get_inputs()}
        self.outputs = {node.name for node in self.session.get_outputs()}

    def run(self, feeds, names):
        """Inputs by name → the named outputs by name, batch first."""
        rows = next(iter(feeds.values())).shape[0]
        starts = range(0, max(rows, 1), RUN_ROWS)
        parts = [self.session.run(names, {name: feed[start : start + RUN_ROWS] for name, feed in feeds.items()}) for start in starts]
        arrays = parts[0] if len(parts) == 1 else [np.concatenate(own) for own in zip(*parts, strict=True)]
        return dict(zip(names, arrays, strict=True))


def session_options(choice):
    options = ort.SessionOptions()
    options.intra_op_num_threads = choice.threads  # 0: every core
    options.inter_op_num_threads = choice.inter_op_threads
    options.graph_optimization_level = LEVELS[choice.graph_level]
    # Each model is a process here, so one model's idle threads must not spin on the cores that the next step needs
    # (measured: 276 and 306 against 416 and 399 tiles/s of a whole ensemble on 2 cores, no loss for a single model).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
