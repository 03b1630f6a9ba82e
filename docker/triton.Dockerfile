# Triton with histoserve around it: checks, start, canary. Build from the repository's root:
#   docker build --file docker/triton.Dockerfile --tag histoserve-triton .
# A TensorRT engine (model.plan) fits this Triton alone: build it in this very image, on the GPU that will run it.
FROM nvcr.io/nvidia/tritonserver:26.11-py3

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
USER 0

# Two environments, as on a laptop: the python steps' with numpy < 2, and histoserve's own. The engines are the image's backends.
# pip of the image installs into both, so neither needs one.
COPY serving/embedded-requirements.txt /opt/build/
RUN python3 -m venv --without-pip /opt/steps \
    && sed --regexp-extended '/^(onnxruntime|openvino)/d' /opt/build/embedded-requirements.txt > /opt/build/steps-requirements.txt \
    && python3 -m pip --python /opt/steps/bin/python install --no-cache-dir --requirement /opt/build/steps-requirements.txt

COPY pyproject.toml README.md LICENSE histoserve.py /opt/build/
COPY training /opt/build/training
COPY export /opt/build/export
COPY serving /opt/build/serving
COPY clients /opt/build/clients
COPY benchmarks /opt/build/benchmarks
RUN python3 -m venv --without-pip /opt/histoserve \
    && python3 -m pip --python /opt/histoserve/bin/python install --no-cache-dir '/opt/build[serve]' \
    && rm --recursive /opt/build

# The release that ships with the repository; mount your own over it.
COPY model_repository /models

# The stub of the Python backend takes the environment of PATH's first python3.
ENV HISTOSERVE_TRITON=/opt/tritonserver \
    PATH=/opt/steps/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1

# triton-server of the base image. The root file system may be read-only; /tmp must be writable and /dev/shm at least 1 GB.
USER 1000:1000
WORKDIR /tmp
EXPOSE 8001 8002
HEALTHCHECK --interval=30s --timeout=20s --start-period=300s --retries=3 \
    CMD ["/opt/histoserve/bin/histoserve", "doctor", "--running", "--repository", "/models"]

# The image's own entry point makes newer CUDA run on older drivers, then becomes what follows.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "/opt/histoserve/bin/histoserve"]
CMD ["serve", "--repository", "/models", "--log", "/tmp/triton.log"]
