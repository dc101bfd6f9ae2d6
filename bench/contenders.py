"""Who is compared: libraries in a process of their own, and servers."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import conditions, prepare
from .in_process import Peer
from .servers import Server
from .works import Work

REFERENCE = "sentence-transformers"
BACKENDS = ("onnx", "openvino")
"""Of sentence-transformers, beside torch."""
CAUSAL = ("decoder", "reranker")
"""Shapes whose beginnings vLLM can keep."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every contender runs on."""

    work: Work
    source: Path
    artifacts: Mapping[str, Path]
    """Precision -> artifact."""
    engines: Sequence[str]
    """Of poolrt, for the fp32 artifact: `onnxruntime`, `openvino:bf16`, `auto`, ..."""
    dtypes: Sequence[str]
    """Of sentence-transformers, behind float32."""
    texts: Path
    threads: int
    scratch: Path
    folder: Path
    """Of what was exported before."""
    peers: str | None
    """The interpreter that has sentence-transformers' other backends and fastembed."""
    say: Callable[[str], None]
    missing: list[str]
    """A sentence for each contender that is left out."""

    @property
    def rows(self) -> list[tuple[str, Path, str]]:
        """(label, artifact, engine) of poolrt."""
        rows: list[tuple[str, Path, str]] = []
        for precision, path in self.artifacts.items():
            for engine in self.engines if precision == "fp32" else (f"auto:{precision}",):
                label = precision if engine in ("onnxruntime", f"auto:{precision}") else engine
                rows.append((f"poolrt {label}", path, engine))
        return rows


def library(work: Work) -> str:
    """What computes the reference."""
    return REFERENCE if work.tower is None else "transformers"


def reference(setup: Setup) -> Peer:
    return _torch(setup, library(setup.work), "float32")


def _torch(setup: Setup, label: str, dtype: str) -> Peer:
    return Peer(
        label,
        "sentence-transformers" if setup.work.tower is None else "transformers-tower",
        path=setup.source,
        texts=setup.texts,
        threads=setup.threads,
        dtype=dtype,
    )


def libraries(setup: Setup) -> list[Peer]:
    """All but the reference, each opened and warm. Those that cannot be are among `setup.missing`."""
    peers: list[Peer] = []

    def tried(label: str, open: Callable[[], Peer]) -> None:
        setup.say(f"      opening {label}")
        try:
            peers.append(open())
        except (RuntimeError, OSError) as error:
            setup.missing.append(f"{label} ({' '.join(str(error).split())[:300]})")

    for dtype in setup.dtypes:
        label = f"{library(setup.work)} {dtype}"
        tried(label, lambda label=label, dtype=dtype: _torch(setup, label, dtype))
    for backend in BACKENDS if setup.work.tower is None else ():
        label = f"{REFERENCE} {backend}"
        tried(label, lambda label=label, backend=backend: _backend(setup, label, backend))
    if setup.work.shape is None and setup.work.tower is None:
        tried("fastembed", lambda: _fastembed(setup))
    kind = "poolrt" if setup.work.tower is None else "poolrt-tower"
    for label, path, engine in setup.rows:
        more = {"path": path, "texts": setup.texts, "threads": setup.threads, "engine": engine}
        tried(label, lambda label=label, more=more: _twice(label, kind, more))
    return peers


def _twice(label: str, kind: str, more: dict[str, Any]) -> Peer:
    """Started twice, because the first start of an artifact chooses an engine and compiles."""
    first = Peer(label, kind, **more)
    first.close()
    peer = Peer(label, kind, **more)
    peer.first_ready_s = first.ready_s
    return peer


def _backend(setup: Setup, label: str, backend: str) -> Peer:
    if setup.peers is None:
        raise RuntimeError("set POOLRT_PEERS to an interpreter that has it, see CONTRIBUTING.md")
    place = prepare.library_folder(
        setup.source, backend, setup.folder, name=setup.source.name, python=setup.peers
    )
    return Peer(
        label, "sentence-transformers", path=place, texts=setup.texts, threads=setup.threads,
        python=setup.peers, backend=backend,
    )  # fmt: skip


def _fastembed(setup: Setup) -> Peer:
    python = {} if _is_installed("fastembed") or setup.peers is None else {"python": setup.peers}
    if not python and not _is_installed("fastembed"):
        raise RuntimeError("pip install fastembed, or set POOLRT_PEERS")
    plain = prepare.plain_onnx(setup.source, setup.folder / "plain")
    return Peer("fastembed", "fastembed", path=plain, texts=setup.texts, threads=setup.threads, **python)


def servers(
    setup: Setup, *, vllm: str | None, vllm_dtypes: Sequence[str], infinity: str | None
) -> list[Server]:
    """None of them started."""
    contenders = [_poolrt(setup, label, path, engine) for label, path, engine in setup.rows]
    if vllm is None:
        setup.missing.append("vLLM (set POOLRT_VLLM to the vllm command of an environment that has it)")
    else:
        contenders += [_vllm(setup, vllm, dtype) for dtype in vllm_dtypes]
    if infinity is None:
        setup.missing.append(
            "Infinity (set POOLRT_INFINITY to the infinity_emb command of such an environment)"
        )
    elif setup.work.shape is None:
        contenders.append(_infinity(setup, infinity))
    return contenders


def _poolrt(setup: Setup, label: str, path: Path, engine: str) -> Server:
    command = [
        str(prepare.POOLRT),
        "serve",
        str(path),
        "--port",
        "{port}",
        "--threads",
        str(setup.threads),
        "--disable-uvicorn-access-log",
        "--engine",
        engine,
        *_template(setup.work),
    ]
    file = label.replace(" ", "-").replace(":", "-")
    return Server(
        label,
        command,
        model=path.name,
        version=f"poolrt {importlib.metadata.version('poolrt')}",
        log=setup.scratch / f"{file}.log",
        variables=conditions.environment(setup.threads)
        | {"POOLRT_ENGINE_CACHE": str(setup.scratch / f"engines-{file}")},
        ready="/ready",
    )


def _vllm(setup: Setup, program: str, dtype: str) -> Server:
    command = [
        program,
        "serve",
        str(setup.source),
        "--runner",
        "pooling",
        "--dtype",
        dtype,
        "--served-model-name",
        prepare.MODEL,
        "--max-model-len",
        str(setup.work.tokens),
        *_template(setup.work),
    ]
    if setup.work.overrides is not None:
        command += ["--hf-overrides", json.dumps(setup.work.overrides)]
    if setup.work.shape in CAUSAL:
        command += ["--enable-prefix-caching"]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--disable-uvicorn-access-log"]
    # Unless nothing is bound, its worker takes one core of two. The KV cache is for generation and only takes
    # memory.
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    return Server(
        f"vLLM {dtype}",
        command,
        model=prepare.MODEL,
        version=f"vllm {_version(program, 'vllm')}",
        log=setup.scratch / f"vllm-{dtype}.log",
        variables=conditions.environment(setup.threads) | own,
    )


def _template(work: Work) -> list[str]:
    return [] if work.template is None else ["--chat-template", str(work.template)]


def _infinity(setup: Setup, program: str) -> Server:
    command = [
        program,
        "v2",
        "--model-id",
        str(setup.source),
        "--served-model-name",
        prepare.MODEL,
        "--engine",
        "torch",
        "--device",
        "cpu",
    ]
    command += ["--dtype", "float32", "--no-bettertransformer", "--no-compile", "--log-level", "warning"]
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    return Server(
        "Infinity",
        command,
        model=prepare.MODEL,
        version=f"infinity-emb {_version(program, 'infinity-emb')}",
        log=setup.scratch / "infinity.log",
        variables=conditions.environment(setup.threads) | {"DO_NOT_TRACK": "1"},
        embeddings="/embeddings",
        rerank=None,
    )


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _version(command: str, package: str) -> str:
    """Of a package in the environment that the command belongs to."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    printed = subprocess.run(
        [Path(command).with_name("python"), "-c", code], capture_output=True, text=True, check=False
    )
    if printed.returncode:
        raise SystemExit(f"bench: the environment of {command} has no {package}")
    return printed.stdout.strip()
