# Training and export: image-level labels in, a release for the model repository out. Build from the repository's root:
#   docker build --file docker/train.Dockerfile --tag histoserve-train .
# Data loaders need shared memory: docker run --gpus all --shm-size=8g …
FROM python:3.12-slim-bookworm

COPY pyproject.toml README.md LICENSE histoserve.py /opt/build/
COPY training /opt/build/training
COPY export /opt/build/export
COPY serving /opt/build/serving
COPY clients /opt/build/clients
COPY benchmarks /opt/build/benchmarks
RUN pip install --no-cache-dir '/opt/build[train,export,bench]' \
    && rm --recursive /opt/build \
    && useradd --uid 1000 --create-home histoserve
COPY training/recipes /recipes

ENV PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /home/histoserve
ENTRYPOINT ["histoserve"]
CMD ["train", "--help"]
