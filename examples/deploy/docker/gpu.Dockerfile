# poolrt serve on NVIDIA GPUs by ONNX Runtime's CUDA provider; needs the NVIDIA container toolkit. From the repository's root:
#
#   docker build -f examples/deploy/docker/gpu.Dockerfile -t poolrt:gpu .
#   docker run --rm --gpus all -p 8000:8000 --read-only -v poolrt-cache:/cache -v "$PWD/artifacts:/models:ro" \
#     -e POOLRT_API_KEY=secret poolrt:gpu /models/all-MiniLM-L6-v2 --engine onnxruntime-cuda
#
# For engines of TensorRT: --build-arg EXTRAS=gpu,tensorrt,serve,images,otel (or tensorrt-rtx).
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRAS=gpu,serve,images,otel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY package package
COPY runtime runtime
COPY exporter exporter
COPY serve serve
COPY recipes recipes
# The libraries of CUDA come as the wheels that this onnxruntime-gpu asks for: no base image has to fit them.
RUN python -m venv --without-pip /opt/poolrt \
    && python -m pip --python /opt/poolrt/bin/python install --no-cache-dir --compile \
        ".[${EXTRAS}]" "onnxruntime-gpu[cuda,cudnn]"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="poolrt" \
      org.opencontainers.image.description="Pooling models behind vLLM's HTTP API, on GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/poolrt /opt/poolrt
# The loader finds the wheels' libraries: ONNX Runtime looks for them by name.
RUN find /opt/poolrt/lib -path '*/nvidia/*/lib' -type d > /etc/ld.so.conf.d/poolrt.conf \
    && ldconfig \
    && install -d -o 10001 -g 10001 /cache
ENV PATH=/opt/poolrt/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
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
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['POOLRT_PORT'] + '/health', timeout=4)"]
# Other machines reach a container, so the server asks for a key: POOLRT_API_KEY, or --insecure-no-auth behind a gateway.
# Artifacts are arguments, or POOLRT_ARTIFACTS; every flag is a variable too (poolrt serve --help).
ENTRYPOINT ["poolrt", "serve"]
