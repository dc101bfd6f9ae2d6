"""`poolrt embed-dataset`: the arguments of a bulk job, and what it prints."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from .. import extras
from ..command_line.command import command
from ..command_line.flags import Argument, Flag
from ..dataset.settings import Number, OnError, Task
from ..errors import InputError
from .model_arguments import HELP, Json
from .printing import print_json

MODEL, OUTPUT, RAY = "model", "output", "Ray"


@dataclass(frozen=True, slots=True)
class Rows:
    """Which columns are read and written, and how."""

    column: Annotated[
        str | None,
        Flag("of the texts (default: text); of pictures the column for their paths (path)", OUTPUT),
    ] = None
    keep: Annotated[str | None, Flag("columns of the input to keep", OUTPUT, "A,B", default="all")] = None
    dtype: Annotated[Number, Flag("of the numbers", OUTPUT, own=True)] = "float32"
    fixed_size_list: Annotated[bool, Flag("vectors as fixed-size lists instead of lists", OUTPUT)] = False
    on_error: Annotated[
        OnError,
        Flag("a row that is null, no text or refused ends the job, is left out, or has no vector", OUTPUT),
    ] = "fail"
    rows_per_shard: Annotated[
        int | None, Flag("most rows that a kill can cost", OUTPUT, "N", at_least=1, default="10000")
    ] = None
    overwrite: Annotated[
        bool, Flag("begin anew in a folder that has another job's shards", OUTPUT, own=True)
    ] = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """Ray Data's workers."""

    ray: Annotated[
        str | None,
        Flag(
            "compute with Ray Data, on the cluster at ADDRESS (without one: this machine)",
            RAY,
            "ADDRESS",
            bare="",
        ),
    ] = None
    ray_workers: Annotated[
        int | None, Flag("models side by side", RAY, "N", at_least=1, default="what the cluster fits")
    ] = None
    ray_cpus: Annotated[float, Flag("processors of each worker", RAY, "N")] = 1.0
    ray_gpus: Annotated[float, Flag("GPUs of each worker", RAY, "N")] = 0.0


@dataclass(frozen=True, slots=True)
class Computing:
    """The model and what it computes."""

    model: Annotated[str | None, Flag(HELP, MODEL, "ARTIFACT")] = None
    task: Annotated[Task, Flag("what is computed of a row", MODEL, own=True)] = "embed"
    no_truncate: Annotated[bool, Flag("refuse texts beyond the model's limit", MODEL)] = False
    dimensions: Annotated[
        int | None, Flag("width of the vectors, for Matryoshka models", MODEL, "N", at_least=1)
    ] = None
    role: Annotated[
        Literal["query", "document"] | None, Flag("prepare texts as this side of a comparison", MODEL)
    ] = None
    prompt_name: Annotated[str | None, Flag("stored prompt to put in front of each text", MODEL)] = None
    engine: Annotated[str, Flag("auto, onnxruntime, openvino, tensorrt-rtx, ...", MODEL)] = "auto"
    threads: Annotated[
        int | None,
        Flag("threads of the engine", MODEL, "N", at_least=1, default="what this process may use"),
    ] = None


@command(
    extra="dataset",
    examples=[
        "poolrt embed-dataset texts.parquet --model artifacts/all-MiniLM-L6-v2 --out vectors",
        "poolrt embed-dataset 'logs/*.jsonl' --model ARTIFACT --column message --keep id,time --out vectors",
        "poolrt embed-dataset photos/ --model artifacts/clip --fixed-size-list --dtype float16 --out vectors",
        "poolrt embed-dataset texts.parquet --model ARTIFACT --out vectors --ray",
    ],
    notes="Killed at any moment, the same command goes on where it stopped. More in docs/datasets.md.",
)
def embed_dataset(
    input: Annotated[
        str,
        Argument(
            "INPUT", "Parquet, JSONL, CSV, Lance or pictures: a file, a folder or a glob", complete="file"
        ),
    ],
    *,
    out: Annotated[Path, Flag("folder of the shards", OUTPUT, "DIR", own=True)],
    computing: Computing,
    rows: Rows,
    cluster: Cluster,
    json: Json = False,
) -> None:
    """Computes every row of a dataset into shards of Parquet."""
    extras.require("ray" if cluster.ray is not None else "dataset")
    from ..dataset import job
    from ..dataset.inputs import listed
    from ..dataset.settings import Settings

    if computing.model is None:
        raise InputError("no model given: --model ARTIFACT, or POOLRT_MODEL", field="model")
    settings = Settings(
        column=rows.column or ("path" if listed(input)[0] == "pictures" else "text"),
        keep=None if rows.keep is None else tuple(filter(None, rows.keep.split(","))),
        task=computing.task,
        numbers=rows.dtype,
        fixed_size=rows.fixed_size_list,
        on_error=rows.on_error,
        truncate=not computing.no_truncate,
        dimensions=computing.dimensions,
        role=computing.role,
        prompt_name=computing.prompt_name,
        engine=computing.engine,
        rows_per_shard=job.rows_per_shard(out, rows.rows_per_shard),
    )
    workers: Any = None
    if cluster.ray is not None:
        from ..dataset.ray_data import RayWorkers
        from ..store import resolving

        workers = RayWorkers(
            resolving.artifact(computing.model).absolute(),
            address=cluster.ray or None,
            workers=cluster.ray_workers,
            cpus=cluster.ray_cpus,
            gpus=cluster.ray_gpus,
            threads=computing.threads,
        )
    try:
        summary = job.embed_dataset(
            input,
            computing.model,
            out,
            settings,
            workers=workers,
            overwrite=rows.overwrite,
            progress=None if json and not sys.stderr.isatty() else sys.stderr,
            threads=computing.threads,
        )
    except KeyboardInterrupt:
        kept = f"finished shards are in {out}; the same command goes on with the rest"
        raise KeyboardInterrupt(kept) from None
    if json:
        print_json(summary.plain())
    else:
        print(summary.text())
