"""Triton's `onnxruntime` backend in Python, for servers that lack the native one. Runs in Triton's own environment: knows no histoserve module."""

import json
import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of one ONNX model; Triton calls the three methods."""

    def initialize(self, args):
        refuse_numpy_2()
        config = json.loads(args["model_config"])
        self.input_names = [tensor["name"] for tensor in config["input"]]
        self.output_names = [tensor["name"] for tensor in config["output"]]
        path = os.path.join(args["model_repository"], args["model_version"], config["default_model_filename"] or "model.onnx")
        try:
            self.session = ort.InferenceSession(path, session_options(config), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise pb_utils.TritonModelException(
                f"model {config['name']!r}: ONNX Runtime cannot load {path} (export the model again): {error}"
            ) from error
        self.check_names(config["name"])

    def check_names(self, model):
        graph_inputs = {node.name for node in self.session.get_inputs()}
        graph_outputs = {node.name for node in self.session.get_outputs()}
        if set(self.input_names) != graph_inputs or not set(self.output_names) <= graph_outputs:
            raise pb_utils.TritonModelException(
                f"model {model!r}: config.pbtxt names {self.input_names} -> {self.output_names}, "
                f"the graph {sorted(graph_inputs)} -> {sorted(graph_outputs)}: export the model again"
            )

    def execute(self, requests):
        """Answer a batch of requests with one run of the graph; where that fails, each request alone, so that a bad one fails alone."""
        inputs = [[pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.input_names] for request in requests]
        wanted = [wanted_outputs(request, self.output_names) for request in requests]
        try:
            return self.run_together(inputs, wanted)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is answered below)
            if len(requests) == 1:
                return [failure(error)]
            pb_utils.Logger.log_warn(f"a batch of {len(requests)} requests failed, each is run alone: {error}")
        return [self.run_alone(arrays, names) for arrays, names in zip(inputs, wanted, strict=True)]

    def run_together(self, inputs, wanted):
        names = sorted(set().union(*wanted))
        counts = [arrays[0].shape[0] for arrays in inputs]
        feeds = {name: join([arrays[k] for arrays in inputs]) for k, name in enumerate(self.input_names)}
        rows = dict(zip(names, self.session.run(names, feeds), strict=True))
        responses, start = [], 0
        for count, asked in zip(counts, wanted, strict=True):
            parts = [pb_utils.Tensor(name, rows[name][start : start + count]) for name in asked]
            responses.append(pb_utils.InferenceResponse(output_tensors=parts))
            start += count
        return responses

    def run_alone(self, arrays, names):
        try:
            (response,) = self.run_together([arrays], [names])
        except Exception as error:  # noqa: BLE001 (whatever it is, it becomes the answer)
            return failure(error)
        return response

    def finalize(self):
        self.session = None


def refuse_numpy_2():
    """numpy 2 in the stub of Triton 2.51 hands over wrong values without an error (measured: zeros, outputs of 0 bytes)."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise pb_utils.TritonModelException(
            f"numpy {np.__version__} in the server's environment: its tensors would arrive silently wrong; expected numpy < 2: make setup"
        )


def session_options(config):
    options = ort.SessionOptions()
    options.inter_op_num_threads = 1
    # Each model is a process here, so one model's idle threads must not spin on the cores that the next step needs
    # (measured: 276 and 306 against 416 and 399 tiles/s of a whole ensemble on 2 cores, no loss for a single model).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    threads = config.get("parameters", {}).get("intra_op_thread_count")
    if threads is not None:  # else ONNX Runtime takes every core
        options.intra_op_num_threads = int(threads["string_value"])
    return options


def join(arrays):
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def wanted_outputs(request, output_names):
    asked = set(request.requested_output_names())
    return [name for name in output_names if name in asked]


def failure(error):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"ONNX Runtime: {error}"))
