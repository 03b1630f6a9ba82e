"""Triton's `onnxruntime` backend in Python, for servers that lack the native one. Runs in Triton's own environment: knows no histoserve module."""

import importlib
import importlib.util
import json
import os

import numpy as np
import triton_python_backend_utils as pb_utils
from engine_choice import OPENVINO, ChoiceError, choose


class TritonPythonModel:
    """One instance of one ONNX model; Triton calls the three methods."""

    def initialize(self, args):
        refuse_numpy_2()
        config = json.loads(args["model_config"])
        self.input_names = [tensor["name"] for tensor in config["input"]]
        self.output_names = [tensor["name"] for tensor in config["output"]]
        path = os.path.join(args["model_repository"], args["model_version"], config["default_model_filename"] or "model.onnx")
        try:
            choice = choose(config, os.environ, importlib.util.find_spec("openvino") is not None)
        except ChoiceError as error:
            raise pb_utils.TritonModelException(f"model {config['name']!r}: {error}") from error
        self.engine = load(config["name"], path, choice)
        self.check_names(config["name"])
        if args["model_instance_name"].endswith("_0"):
            pb_utils.Logger.log_info(describe(config["name"], self.engine, choice))

    def check_names(self, model):
        if set(self.input_names) != self.engine.inputs or not set(self.output_names) <= self.engine.outputs:
            raise pb_utils.TritonModelException(
                f"model {model!r}: config.pbtxt names {self.input_names} -> {self.output_names}, "
                f"the graph {sorted(self.engine.inputs)} -> {sorted(self.engine.outputs)}: export the model again"
            )

    def execute(self, requests):
        """Answer a batch of requests with one run of the graph; where that fails, each request alone, so that a bad one fails alone."""
        inputs = [[pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.input_names] for request in requests]
        wanted = [wanted_outputs(request, self.output_names) for request in requests]
        try:
            return self.run_together(inputs, wanted)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is answered below)
            if len(requests) == 1:
                return [self.failure(error)]
            pb_utils.Logger.log_warn(f"a batch of {len(requests)} requests failed, each is run alone: {error}")
        return [self.run_alone(arrays, names) for arrays, names in zip(inputs, wanted, strict=True)]

    def run_together(self, inputs, wanted):
        """One run, cut by request."""
        names = [name for name in self.output_names if any(name in asked for asked in wanted)]
        feeds = {name: join([arrays[k] for arrays in inputs]) for k, name in enumerate(self.input_names)}
        rows = self.engine.run(feeds, names)
        responses, start = [], 0
        for arrays, asked in zip(inputs, wanted, strict=True):
            end = start + arrays[0].shape[0]
            responses.append(answer({name: rows[name][start:end] for name in asked}))
            start = end
        return responses

    def run_alone(self, arrays, names):
        try:
            return answer(self.engine.run(dict(zip(self.input_names, arrays, strict=True)), names))
        except Exception as error:  # noqa: BLE001 (whatever it is, it becomes the answer)
            return self.failure(error)

    def failure(self, error):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.engine.label}: {' '.join(str(error).split())}"))

    def finalize(self):
        self.engine = None


def load(model, path, choice):
    """The engine on the model's file; only the one chosen is imported."""
    module, name = ("openvino_engine", "OpenVinoEngine") if choice.engine == OPENVINO else ("runtime_engine", "RuntimeEngine")
    engine = getattr(importlib.import_module(module), name)
    try:
        return engine(path, choice)
    except Exception as error:
        raise pb_utils.TritonModelException(
            f"model {model!r}: {engine.label} cannot load {path} (export the model again): {error}"
        ) from error


def describe(model, engine, choice):
    threads = choice.threads or "all"
    return f"model {model!r} runs in {engine.label} {engine.version} on the CPU, threads: {threads}; chosen since {choice.reason}"


def refuse_numpy_2():
    """numpy 2 in the stub of Triton 2.51 hands over wrong values without an error (measured: zeros, outputs of 0 bytes)."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise pb_utils.TritonModelException(
            f"numpy {np.__version__} in the server's environment: its tensors would arrive silently wrong; expected numpy < 2: make setup"
        )


def join(arrays):
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def wanted_outputs(request, output_names):
    asked = set(request.requested_output_names())
    return [name for name in output_names if name in asked]


def answer(rows):
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, array) for name, array in rows.items()])
