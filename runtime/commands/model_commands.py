"""The commands that need one artifact (inspect, embed, score, rerank, bench), and doctor."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import InputError
from .command_line import Parser
from .model_arguments import PICTURES, VIDEOS, parser, prompts, score_options, scorer, texts, truncation

PIECE = 1024
"""Texts that `embed --out` computes before it writes their vectors."""


def inspect(arguments: Sequence[str]) -> int:
    """poolrt inspect: checks the folder and shows its manifest."""
    from ..artifact import reading
    from ..artifact.records import to_plain
    from ..store import resolving
    from . import inspection

    command = parser("inspect", "Checks every file of an artifact and shows what it is.")
    command.add_argument("--quick", action="store_true", help="compare file sizes only, not their sha256")
    options = command.parse_args(arguments)
    folder = resolving.artifact(options.artifact)
    opened = reading.read(folder, check="quick" if options.quick else "full")
    print(
        json.dumps(to_plain(opened.manifest), indent=1, ensure_ascii=False)
        if options.json
        else inspection.text(opened)
    )
    return errors.EXIT_OK


def embed(arguments: Sequence[str]) -> int:
    """poolrt embed: one vector per text or picture."""
    command = parser(
        "embed",
        "Embeds texts and pictures: from the command line, --file, or stdin with one text per line.",
        texts="TEXT",
    )
    command.add_argument("--dimensions", type=int, help="width of the vectors, for Matryoshka models")
    command.add_argument("--prompt-name", help="stored prompt to put in front of each text")
    command.add_argument(
        "--role", choices=("query", "document"), help="prepare the texts as this side of a comparison"
    )
    command.add_argument(
        "--out", type=Path, help="write the vectors to this .npy file instead of printing them"
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="with --out: go on where an interrupted run of the same texts stopped",
    )
    options = command.parse_args(arguments)
    if options.resume and options.out is None:
        raise InputError("--resume goes with --out FILE, the file to go on with", field="resume")
    return _embedded(options, texts(options.texts, options.file, options.images))


def _embedded(options: argparse.Namespace, texts: list[str | Path]) -> int:
    """Embeds the texts, in pieces where the vectors go to a file: it then has the vectors of
    every finished piece."""
    import numpy as np

    from ..progress import bar
    from .vector_file import VectorFile

    file = None if options.out is None else VectorFile(options.out, resume=options.resume)
    begin = 0 if file is None else file.rows
    if begin > len(texts):
        raise InputError(
            f"--resume: {options.out} has {begin} vectors, and there are {len(texts)} texts", field="resume"
        )
    piece = PIECE if file is not None else max(len(texts), 1)
    rows: list[dict[str, Any]] = []
    tokens, padded, vectors = 0, 0.0, np.empty((0, 0), dtype=np.float32)
    try:
        with _model(options) as model, bar(_bar(options), len(texts) - begin) as progress:

            def embedded(several: list[str | Path]) -> Any:
                return model.embed(
                    prompts(several, model),
                    use_tqdm=False if progress is None else _Shared(progress),
                    **_embed_options(options),
                )

            if file is not None and begin:
                [last] = prompts(texts[begin - 1 : begin], model)
                file.check(np.asarray(model.embed(last, **_embed_options(options)))[0])
            for start in range(begin, len(texts), piece):
                several = texts[start : start + piece]
                outputs = embedded(several)
                vectors = np.asarray(outputs)
                if file is not None:
                    file.append(vectors)
                tokens += outputs.prompt_tokens
                padded += outputs.padding * outputs.prompt_tokens
                for index, (output, text) in enumerate(zip(outputs, several, strict=True), start):
                    if options.json:
                        vector = {} if file is not None else {"embedding": output.outputs.data.tolist()}
                        rows.append(
                            {
                                "index": index,
                                "prompt_tokens": output.prompt_tokens,
                                "truncated": output.truncated,
                            }
                            | vector
                        )
                    else:
                        shown = " ".join(f"{value:+.4f}" for value in output.outputs.data[:6])
                        size = f"{len(output.outputs.data)} dims, {output.prompt_tokens} tokens"
                        print(f"[{shown} ...] {size}{_cut(output.truncated)}  {_short(text)}")
            name = model.name
    except KeyboardInterrupt:
        if file is None:
            raise
        kept = (
            f"{file.rows} of {len(texts)} vectors are in {file.path}; the same command with "
            "--resume goes on from there"
        )
        print(f"poolrt embed: interrupted: {kept if file.rows else 'nothing was written'}", file=sys.stderr)
        return errors.EXIT_INTERRUPTED
    if options.json:
        _print_json(
            {
                "model": name,
                "data": rows,
                "prompt_tokens": tokens,
                "padding": round(padded / max(tokens, 1), 4),
            }
        )
    elif file is not None:
        print(f"{file.rows} vectors of {file.dim} dims -> {options.out}")
    elif len(texts) == 2:
        print(f"cosine {_cosine(vectors):.4f}")
    return errors.EXIT_OK


def _embed_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "pooling_params": _params(dimensions=options.dimensions),
        "truncate_prompt_tokens": truncation(options),
        "role": options.role,
        "prompt_name": options.prompt_name,
    }


class _Shared:
    """One progress bar for several calls, with the part of tqdm that a call uses."""

    def __init__(self, update: Callable[[int], object]) -> None:
        self.update = update

    def __call__(self, *, total: int, desc: str) -> _Shared:
        return self

    def __enter__(self) -> _Shared:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def score(arguments: Sequence[str]) -> int:
    """poolrt score: a query against documents, in their order."""
    command = scorer(
        "score",
        "Scores a query against documents: from the command line, --file, or stdin "
        "with one document per line.",
    )
    options = command.parse_args(arguments)
    documents = texts(options.texts, options.file, options.images)
    with _model(options) as model:
        query, *others = prompts([options.query, *documents], model)
        outputs = model.score(query, others, use_tqdm=_bar(options), **score_options(options))
    if options.json:
        data = [
            {"index": index, "score": output.outputs.score, "truncated": output.truncated}
            for index, output in enumerate(outputs)
        ]
        _print_json({"model": model.name, "data": data, "prompt_tokens": outputs.prompt_tokens})
    else:
        for output, document in zip(outputs, documents, strict=True):
            print(f"{output.outputs.score:10.5f}{_cut(output.truncated)}  {_short(document)}")
    return errors.EXIT_OK


def rerank(arguments: Sequence[str]) -> int:
    """poolrt rerank: documents by falling score."""
    command = scorer(
        "rerank",
        "Sorts documents by their score: from the command line, --file, or stdin with one document per line.",
    )
    command.add_argument("--top-n", type=int, default=0, help="how many to show; 0: all")
    options = command.parse_args(arguments)
    documents = texts(options.texts, options.file, options.images)
    with _model(options) as model:
        query, *others = prompts([options.query, *documents], model)
        ranking = model.rerank(
            query, others, top_n=options.top_n, use_tqdm=_bar(options), **score_options(options)
        )
    if options.json:
        results = [
            {"index": ranked.index, "relevance_score": ranked.score, "document": _document(ranked.document)}
            for ranked in ranking
        ]
        _print_json({"model": model.name, "results": results, "prompt_tokens": ranking.prompt_tokens})
    else:
        for place, ranked in enumerate(ranking, start=1):
            print(f"{place:3}. {ranked.score:10.5f}  {_short(documents[ranked.index])}")
    return errors.EXIT_OK


def bench(arguments: Sequence[str]) -> int:
    """poolrt bench: texts per second at several lengths."""
    from . import benchmark

    command = parser(
        "bench", "Measures one artifact in this process: texts and tokens per second at several lengths."
    )
    command.add_argument(
        "--seconds", type=float, default=2.0, help="how long each line is measured (default 2)"
    )
    command.add_argument(
        "--threads", type=int, help="threads of the engine; default: what this process may use"
    )
    options = command.parse_args(arguments)
    if options.seconds <= 0:
        raise InputError(f"--seconds is {options.seconds}, expected more than 0", field="seconds")
    with _model(options) as model:
        lines = []
        if not options.json:
            print(benchmark.HEADER)
        for line in benchmark.measure(model, options.seconds):
            lines.append(line)
            if not options.json:
                print(line.text(), flush=True)
    if options.json:
        _print_json(
            {"model": model.name, "engine": model.engine.name, "lines": [line.plain() for line in lines]}
        )
    return errors.EXIT_OK


def doctor(arguments: Sequence[str]) -> int:
    """poolrt doctor: what this machine offers."""
    from . import doctor

    command = Parser(prog="poolrt doctor", description="Says what this machine offers and what is missing.")
    command.add_argument("--json", action="store_true", help="print for machines")
    options = command.parse_args(arguments)
    diagnosis = doctor.look()
    if options.json:
        _print_json(diagnosis.plain())
    else:
        print(diagnosis.text())
    return errors.EXIT_OK


def _model(options: argparse.Namespace) -> Any:
    from ..loader import load

    return load(options.artifact, options.engine, threads=getattr(options, "threads", None))


def _params(*, dimensions: int | None) -> Any:
    from ..answers.params import PoolingParams

    return PoolingParams(dimensions=dimensions)


def _bar(options: argparse.Namespace) -> bool:
    return not options.json and sys.stderr.isatty()


def _cosine(vectors: Any) -> float:
    from ..answers import scoring

    return float(scoring.cosine(vectors[0], vectors[1:])[0])


def _document(document: Any) -> dict[str, str]:
    """A document as JSON: its text, or the file of its picture."""
    if isinstance(document, str):
        return {"text": document}
    return {kind: str(path) for kind, path in document.items()}


def _short(text: str | Path) -> str:
    line = " ".join(str(text).split())
    if len(line) <= 60:
        return line
    # The end of a path says more than its beginning.
    return "..." + line[-57:] if Path(line).suffix.lower() in (*PICTURES, *VIDEOS) else line[:57] + "..."


def _cut(truncated: bool) -> str:
    return " (cut)" if truncated else ""


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))
