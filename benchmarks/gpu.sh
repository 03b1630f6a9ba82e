#!/bin/sh
# Everything that a bare Linux machine with an NVIDIA GPU and Python can say of our networks, in one call: benchmarks/gpu.sh [FLAGS of gpu.py].
# Torch and timm must be importable by $PYTHON (default python3); ONNX Runtime (CUDA), TensorRT and Triton's wheel are used where they are there,
# and told as missing where they are not. Installs nothing but what --triton-wheel and --onnxruntime-wheel ask for, into out/gpu-triton.
# Writes out/bench-gpu.json, or what --output says.
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
