# poolrt serve on processors, x86-64 and ARM64. From the repository's root:
#
#   docker build -f examples/deploy/docker/cpu.Dockerfile -t poolrt:cpu .
#   docker run --rm -p 8000:8000 --read-only -v poolrt-cache:/cache -v "$PWD/artifacts:/models:ro" \
#     -e POOLRT_API_KEY=secret poolrt:cpu /models/all-MiniLM-L6-v2
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRAS=cpu,serve,images
# The extra otel without gRPC, which takes 20 MB.
ARG MORE=opentelemetry-exporter-otlp-proto-http
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
    && python -m pip --python /opt/poolrt/bin/python install --no-cache-dir --compile ".[${EXTRAS}]" ${MORE} \
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
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    POOLRT_HOST=0.0.0.0 \
    POOLRT_PORT=8000 \
    POOLRT_LOG_FORMAT=json
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
