"""What this machine offers poolrt and what is missing, for `poolrt doctor`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .. import machine
from .. import version as own
from ..engines import table
from .environment import ConfigFile, Variable

# Instructions that decide the speed of int8 and float kernels, as /proc/cpuinfo spells them.
_FLAGS = (
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
_LIBRARIES = (
    "numpy",
    "tokenizers",
    "jinja2",
    "click",
    "rich",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "starlette",
    "uvicorn",
    "torch",
    "transformers",
    "onnx",
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    poolrt: str
    """Its version."""
    python: str
    system: str
    processor: str
    flags: tuple[str, ...]
    processors: int
    """Of the host."""
    affinity: int
    """Processors that this process may run on."""
    quota: float | None
    """Processors' time that the cgroup grants; None: no quota."""
    threads: int
    """Threads that poolrt uses."""
    gpus: tuple[machine.Gpu, ...]
    libraries: dict[str, str]
    backends: dict[str, str | None]
    """Backend -> installed version."""
    environment: tuple[Variable, ...]
    """Variables that act on poolrt, and those that do not and look as if they should."""
    config: tuple[ConfigFile, ...]
    """Files of flags that variables name."""
    advice: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        quota = "no quota" if self.quota is None else f"a quota of {self.quota:g}"
        lines = [
            f"poolrt      {self.poolrt}",
            f"python      {self.python} on {self.system}",
            f"processor   {self.processor}; {' '.join(self.flags) or 'no vector instructions known to us'}",
            (
                f"threads     {self.threads}, of {self.processors} processors: affinity allows "
                f"{self.affinity}, {quota}"
            ),
            *(
                f"gpu         {gpu.name}, {gpu.device}, {gpu.memory_bytes / 2**30:.0f} GiB"
                for gpu in self.gpus
            ),
            *(["gpu         none that an NVIDIA driver shows"] if not self.gpus else []),
            *(f"engine      {name} {version or 'not installed'}" for name, version in self.backends.items()),
            f"libraries   {', '.join(f'{name} {version}' for name, version in self.libraries.items())}",
            *(f"variable    {variable.line()}" for variable in self.environment),
            *(["variable    none that acts"] if not self.environment else []),
            *(f"config      {file.line()}" for file in self.config),
            *(
                ["config      no file: --config, or POOLRT_SERVE_CONFIG and the like"]
                if not self.config
                else []
            ),
            *(f"advice      {line}" for line in self.advice),
        ]
        return "\n".join(lines)


def look(environment: Sequence[Variable] = (), config: Sequence[ConfigFile] = ()) -> Diagnosis:
    """Examines this machine and the libraries of this environment."""
    name, present = machine.processor()
    versions = {
        backend: machine.version(*distributions) for backend, (_, distributions, _) in table.TABLE.items()
    }
    return Diagnosis(
        poolrt=own.version(),
        environment=tuple(environment),
        config=tuple(config),
        python=platform.python_version(),
        system=platform.platform(),
        processor=name,
        flags=tuple(flag for flag in _FLAGS if flag in present),
        processors=os.cpu_count() or 1,
        affinity=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=machine.cpu_quota(),
        threads=machine.cpus(),
        gpus=machine.gpus(),
        libraries={name: version for name in _LIBRARIES if (version := machine.version(name))},
        backends=versions,
        advice=tuple(_advice(versions)),
    )


def _advice(versions: dict[str, str | None]) -> list[str]:
    advice = []
    if not any(versions.values()):
        advice.append("no engine library: pip install 'poolrt[cpu]'")
    if machine.version("onnxruntime") and machine.version("onnxruntime-gpu"):
        advice.append(
            "onnxruntime and onnxruntime-gpu overwrite each other's files: uninstall both, then install one"
        )
    if machine.gpus() and not (
        versions.get("tensorrt-rtx") or versions.get("tensorrt") or machine.version("onnxruntime-gpu")
    ):
        advice.append(
            "a GPU and no engine library that uses it: pip install 'poolrt[tensorrt-rtx]' or 'poolrt[gpu]'"
        )
    return advice
