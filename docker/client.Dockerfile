# Slides in, masks out, against a server elsewhere. No torch, no Triton. Build from the repository's root:
#   docker build --file docker/client.Dockerfile --tag histoserve-client .
FROM python:3.12-slim-bookworm

COPY pyproject.toml README.md LICENSE histoserve.py /opt/build/
COPY training /opt/build/training
COPY export /opt/build/export
COPY serving /opt/build/serving
COPY clients /opt/build/clients
COPY benchmarks /opt/build/benchmarks
RUN pip install --no-cache-dir '/opt/build[client,dask,store]' \
    && rm --recursive /opt/build \
    && useradd --uid 1000 --create-home histoserve

ENV PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /home/histoserve
ENTRYPOINT ["histoserve"]
CMD ["segment", "--help"]
