# poolrt serve at the edge: ARM64 boards with little memory and disk. From the repository's root, on any machine
# with buildx:
#
#   docker buildx build --platform linux/arm64 -f examples/deploy/docker/edge.Dockerfile -t poolrt:edge --load .
#   docker run --rm -p 8000:8000 --read-only -v poolrt-cache:/cache -v "$PWD/artifacts:/models:ro" \
#     -e POOLRT_API_KEY=secret poolrt:edge /models/all-MiniLM-L6-v2
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRAS=cpu,serve
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY package package
COPY runtime runtime
COPY exporter exporter
COPY serve serve
COPY recipes recipes
# Bytecode is written now: the root of a running container is read-only. pip stays behind in this stage, and so do tests, ONNX Runtime's
# library for C, which its Python module has inside (34 MB), and its converters.
RUN python -m venv --without-pip /opt/poolrt \
    && python -m pip --python /opt/poolrt/bin/python install --no-cache-dir --compile ".[${EXTRAS}]" \
    && find /opt/poolrt -type d -name tests -prune -exec rm -rf {} + \
    && ort=$(echo /opt/poolrt/lib/python*/site-packages/onnxruntime) \
    && rm -rf "$ort"/capi/libonnxruntime.so* "$ort/transformers" "$ort/quantization" "$ort/tools"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="poolrt" \
      org.opencontainers.image.description="Pooling models behind vLLM's HTTP API" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/poolrt /opt/poolrt
# Which engine is fastest on a machine, hashes that were checked and exported checkpoints are kept in /cache.
RUN install -d -o 10001 -g 10001 /cache
ENV PATH=/opt/poolrt/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    POOLRT_HOST=0.0.0.0 \
    POOLRT_PORT=8000 \
    POOLRT_LOG_FORMAT=json \
    POOLRT_SERVER_THREADS=2
VOLUME /cache
USER 10001:10001
WORKDIR /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['POOLRT_PORT'] + '/health', timeout=4)"]
# Other machines reach a container, so the server asks for a key: POOLRT_API_KEY, or --insecure-no-auth behind a gateway.
# Artifacts are arguments, or POOLRT_ARTIFACTS; every flag is a variable too (poolrt serve --help).
ENTRYPOINT ["poolrt", "serve"]
