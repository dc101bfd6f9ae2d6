"""`poolrt embed-dataset`: the arguments of a bulk job, and what it prints."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import errors, extras
from ..errors import InputError
from .command_line import Parser, positive
from .model_arguments import HELP

EXAMPLES = """examples:
  poolrt embed-dataset texts.parquet --model artifacts/all-MiniLM-L6-v2 --out vectors
  poolrt embed-dataset 'logs/**/*.jsonl' --model ARTIFACT --column message --keep id,time --out vectors
  poolrt embed-dataset photos/ --model artifacts/clip --fixed-size-list --dtype float16 --out vectors
  poolrt embed-dataset texts.parquet --model ARTIFACT --out vectors --ray   # the same job on a cluster
Killed at any moment, the same command goes on where it stopped."""


def embed_dataset(arguments: Sequence[str]) -> int:
    """poolrt embed-dataset: every row of a dataset, into shards of Parquet."""
    options = _parser().parse_args(arguments)
    extras.require("ray" if options.ray is not None else "dataset")
    from ..dataset import job
    from ..dataset.inputs import listed
    from ..dataset.settings import Settings

    if options.model is None:
        raise InputError("no model given: --model ARTIFACT, or POOLRT_MODEL", field="model")
    column = options.column or ("path" if listed(options.input)[0] == "pictures" else "text")
    settings = Settings(
        column=column,
        keep=None if options.keep is None else tuple(filter(None, options.keep.split(","))),
        task=options.task,
        numbers=options.dtype,
        fixed_size=options.fixed_size_list,
        on_error=options.on_error,
        truncate=not options.no_truncate,
        dimensions=options.dimensions,
        role=options.role,
        prompt_name=options.prompt_name,
        engine=options.engine,
        rows_per_shard=job.rows_per_shard(options.out, options.rows_per_shard),
    )
    workers: Any = None
    if options.ray is not None:
        from ..dataset.ray_data import RayWorkers
        from ..store import resolving

        workers = RayWorkers(
            resolving.artifact(options.model).absolute(),
            address=options.ray or None,
            workers=options.ray_workers,
            cpus=options.ray_cpus,
            gpus=options.ray_gpus,
            threads=options.threads,
        )
    try:
        summary = job.embed_dataset(
            options.input,
            options.model,
            options.out,
            settings,
            workers=workers,
            overwrite=options.overwrite,
            progress=None if options.json and not sys.stderr.isatty() else sys.stderr,
            threads=options.threads,
        )
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: finished shards are in {options.out}; the same command goes on with the rest",
            file=sys.stderr,
        )
        return errors.EXIT_INTERRUPTED
    print(json.dumps(summary.plain(), ensure_ascii=False) if options.json else summary.text())
    return errors.EXIT_OK


def _parser() -> Parser:
    parser = Parser(
        prog="poolrt embed-dataset",
        description="Computes every row of a dataset into shards of Parquet (docs/datasets.md).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("input", metavar="INPUT", help="Parquet, JSONL, CSV, Lance or pictures: a file, a folder or a glob")
    add("--model", default=os.environ.get("POOLRT_MODEL"), metavar="ARTIFACT", help=HELP)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the shards")
    add("--column", help="of the texts (default: text); of pictures the column for their paths (path)")
    add("--keep", metavar="A,B", help="columns of the input to keep (default: all)")
    add("--task", choices=("embed", "token_embed", "sparse", "classify", "token_classify"), default="embed")
    add(
        "--dtype", choices=("float32", "float16"), default="float32", help="of the numbers (default: float32)"
    )
    add("--fixed-size-list", action="store_true", help="vectors as fixed-size lists instead of lists")
    add(
        "--on-error",
        choices=("fail", "skip", "null"),
        default="fail",
        help="a row that is null, no text or refused ends the job, is left out, or has no vector "
        "(default: fail)",
    )
    add("--no-truncate", action="store_true", help="refuse texts beyond the model's limit")
    add("--dimensions", type=positive, help="width of the vectors, for Matryoshka models")
    add("--role", choices=("query", "document"), help="prepare texts as this side of a comparison")
    add("--prompt-name", help="stored prompt to put in front of each text")
    add("--engine", default="auto", help="auto, onnxruntime, openvino, tensorrt-rtx, ...")
    add("--threads", type=positive, help="threads of the engine; default: what this process may use")
    add(
        "--rows-per-shard", type=positive, metavar="N", help="most rows that a kill can cost (default: 10000)"
    )
    add("--overwrite", action="store_true", help="begin anew in a folder that has another job's shards")
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="compute with Ray Data, on the cluster at ADDRESS (without one: this machine)",
    )
    add(
        "--ray-workers",
        type=positive,
        metavar="N",
        help="models side by side (default: what the cluster fits)",
    )
    add("--ray-cpus", type=float, default=1.0, metavar="N", help="processors of each worker (default: 1)")
    add("--ray-gpus", type=float, default=0.0, metavar="N", help="GPUs of each worker (default: 0)")
    add("--json", action="store_true", help="print the summary for machines")
    return parser
