"""`poolrt triton`: the arguments, and what is printed."""

from __future__ import annotations

import json as json_text
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from ...runtime.command_line.command import command
from ...runtime.command_line.flags import Argument, Flag
from ...runtime.commands.artifact_names import artifact_names
from .python_model import TritonTask
from .repository import Tokenizer, write


@command(
    extra="export",
    examples=[
        "poolrt triton artifacts/all-MiniLM-L6-v2 --out repository",
        "poolrt triton artifacts/bge-m3 --out repository --task embed --task score",
        "poolrt triton ARTIFACT --out repository --tokenizer client --cpu",
        "poolrt triton ARTIFACT --out repository --engine tensorrt --max-batch-size 32",
    ],
    notes="README.md in the folder says how to start tritonserver with it. More in docs/triton.md.",
)
def triton(
    artifact: Annotated[
        str,
        Argument(
            "ARTIFACT",
            "folder of an artifact, its name in the store, or its address",
            complete=artifact_names,
        ),
    ],
    *,
    out: Annotated[Path, Flag("folder of the repository, new or empty", metavar="REPO", own=True)],
    tokenizer: Annotated[
        Tokenizer,
        Flag("where texts become token ids: in Triton's Python backend, or in the client", own=True),
    ] = "python",
    task: Annotated[
        tuple[TritonTask, ...],
        Flag(
            "with --tokenizer python: what is computed; several become several models",
            metavar="embed|token_embed|classify|token_classify|score",
            default="the artifact's own",
            own=True,
        ),
    ] = (),
    engine: Annotated[
        str | None,
        Flag(
            "tensorrt or the file of a plan, or the file or precision of a graph",
            default="the artifact's first graph",
            own=True,
        ),
    ] = None,
    name: Annotated[str | None, Flag("of the model in Triton", default="the artifact's", own=True)] = None,
    max_batch_size: Annotated[int, Flag("most rows that Triton batches", at_least=1, own=True)] = 64,
    cpu: Annotated[bool, Flag("stay on processors where there are GPUs", own=True)] = False,
    json: Annotated[bool, Flag("print one JSON object for machines")] = False,
) -> None:
    """Writes a model repository of Triton Inference Server."""
    repository = write(
        artifact,
        out,
        tokenizer=tokenizer,
        tasks=task,
        engine=engine,
        name=name,
        max_batch_size=max_batch_size,
        cpu=cpu,
    )
    if json:
        print(json_text.dumps(asdict(repository), ensure_ascii=False))
        return
    print(f"{repository.folder}: {', '.join(repository.models)} ({repository.backend}, {repository.file})")
    print(f"start: tritonserver --model-repository={out.resolve()}   (more in {out / 'README.md'})")
