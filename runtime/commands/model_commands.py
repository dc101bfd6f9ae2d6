"""The commands that need an artifact and nothing else: inspect, embed, score, rerank, bench; and doctor."""

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

HELP = "artifact folder, as `poolrt export` made it"
PIECE = 1024
"""Texts that `embed --out` computes before it writes their vectors."""


def inspect(arguments: Sequence[str]) -> int:
    """poolrt inspect: checks the folder and shows its manifest."""
    from ..artifact import reading
    from ..artifact.records import to_plain
    from . import inspection

    parser = _parser("inspect", "Checks every file of an artifact and shows what it is.")
    parser.add_argument("--quick", action="store_true", help="compare file sizes only, not their sha256")
    asked = parser.parse_args(arguments)
    opened = reading.read(asked.artifact, check="quick" if asked.quick else "full")
    print(
        json.dumps(to_plain(opened.manifest), indent=1, ensure_ascii=False)
        if asked.json
        else inspection.text(opened)
    )
    return errors.EXIT_OK


def embed(arguments: Sequence[str]) -> int:
    """poolrt embed: one vector per text."""
    parser = _parser(
        "embed",
        "Embeds texts: from the command line, --file, or stdin with one text per line.",
        texts="TEXT",
    )
    parser.add_argument("--dimensions", type=int, help="width of the vectors, for Matryoshka models")
    parser.add_argument("--prompt-name", help="stored prompt to put in front of each text")
    parser.add_argument(
        "--role", choices=("query", "document"), help="prepare the texts as this side of a comparison"
    )
    parser.add_argument(
        "--out", type=Path, help="write the vectors to this .npy file instead of printing them"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="with --out: go on where an interrupted run of the same texts stopped",
    )
    asked = parser.parse_args(arguments)
    if asked.resume and asked.out is None:
        raise InputError("--resume goes with --out FILE, the file to go on with", field="resume")
    return _embedded(asked, _texts(asked.texts, asked.file))


def _embedded(asked: argparse.Namespace, texts: list[str]) -> int:
    """In pieces where the vectors go to a file, which then keeps those of every finished piece."""
    import numpy as np

    from ..progress import bar
    from .vector_file import VectorFile

    file = None if asked.out is None else VectorFile(asked.out, resume=asked.resume)
    begin = 0 if file is None else file.rows
    if begin > len(texts):
        raise InputError(
            f"--resume: {asked.out} has {begin} vectors, and there are {len(texts)} texts", field="resume"
        )
    piece = PIECE if file is not None else max(len(texts), 1)
    told: list[dict[str, Any]] = []
    tokens, padded, vectors = 0, 0.0, np.empty((0, 0), dtype=np.float32)
    try:
        with _model(asked) as model, bar(_bar(asked), len(texts) - begin) as progress:

            def embedded(several: list[str]) -> Any:
                return model.embed(
                    several,
                    use_tqdm=False if progress is None else _Shared(progress),
                    **_embed_options(asked),
                )

            if file is not None and begin:
                file.check(np.asarray(model.embed(texts[begin - 1], **_embed_options(asked)))[0])
            for start in range(begin, len(texts), piece):
                several = texts[start : start + piece]
                made = embedded(several)
                vectors = np.asarray(made)
                if file is not None:
                    file.append(vectors)
                tokens, padded = tokens + made.prompt_tokens, padded + made.padding * made.prompt_tokens
                for index, (one, text) in enumerate(zip(made, several, strict=True), start):
                    if asked.json:
                        vector = {} if file is not None else {"embedding": one.outputs.data.tolist()}
                        told.append(
                            {"index": index, "prompt_tokens": one.prompt_tokens, "truncated": one.truncated}
                            | vector
                        )
                    else:
                        shown = " ".join(f"{value:+.4f}" for value in one.outputs.data[:6])
                        size = (
                            f"{len(one.outputs.data)} dims, {one.prompt_tokens} tokens{_cut(one.truncated)}"
                        )
                        print(f"[{shown} ...] {size}  {_short(text)}")
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
    if asked.json:
        _print_json(
            {
                "model": name,
                "data": told,
                "prompt_tokens": tokens,
                "padding": round(padded / max(tokens, 1), 4),
            }
        )
    elif file is not None:
        print(f"{file.rows} vectors of {file.dim} dims -> {asked.out}")
    elif len(texts) == 2:
        print(f"cosine {_cosine(vectors):.4f}")
    return errors.EXIT_OK


def _embed_options(asked: argparse.Namespace) -> dict[str, Any]:
    params, truncation = _params(dimensions=asked.dimensions), _truncation(asked)
    return {
        "pooling_params": params,
        "truncate_prompt_tokens": truncation,
        "role": asked.role,
        "prompt_name": asked.prompt_name,
    }


class _Shared:
    """One progress bar for several calls: as much of tqdm as a call asks for."""

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
    parser = _scorer(
        "score",
        "Scores a query against documents: from the command line, --file, or stdin "
        "with one document per line.",
    )
    asked = parser.parse_args(arguments)
    documents = _texts(asked.texts, asked.file)
    with _model(asked) as model:
        made = model.score(asked.query, documents, use_tqdm=_bar(asked), **_score_options(asked))
    if asked.json:
        data = [
            {"index": index, "score": one.outputs.score, "truncated": one.truncated}
            for index, one in enumerate(made)
        ]
        _print_json({"model": model.name, "data": data, "prompt_tokens": made.prompt_tokens})
    else:
        for one, document in zip(made, documents, strict=True):
            print(f"{one.outputs.score:10.5f}{_cut(one.truncated)}  {_short(document)}")
    return errors.EXIT_OK


def rerank(arguments: Sequence[str]) -> int:
    """poolrt rerank: documents by falling score."""
    parser = _scorer(
        "rerank",
        "Sorts documents by their score: from the command line, --file, or stdin with one document per line.",
    )
    parser.add_argument("--top-n", type=int, default=0, help="how many to show; 0: all")
    asked = parser.parse_args(arguments)
    documents = _texts(asked.texts, asked.file)
    with _model(asked) as model:
        ranking = model.rerank(
            asked.query, documents, top_n=asked.top_n, use_tqdm=_bar(asked), **_score_options(asked)
        )
    if asked.json:
        results = [
            {"index": one.index, "relevance_score": one.score, "document": {"text": one.document}}
            for one in ranking
        ]
        _print_json({"model": model.name, "results": results, "prompt_tokens": ranking.prompt_tokens})
    else:
        for place, one in enumerate(ranking, start=1):
            print(f"{place:3}. {one.score:10.5f}  {_short(str(one.document))}")
    return errors.EXIT_OK


def bench(arguments: Sequence[str]) -> int:
    """poolrt bench: texts per second at several lengths."""
    from . import benchmark

    parser = _parser(
        "bench", "Measures one artifact in this process: texts and tokens per second at several lengths."
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="how long each line is measured (default 2)"
    )
    parser.add_argument(
        "--threads", type=int, help="threads of the engine; default: what this process may use"
    )
    asked = parser.parse_args(arguments)
    if asked.seconds <= 0:
        raise InputError(f"--seconds is {asked.seconds}, expected more than 0", field="seconds")
    with _model(asked) as model:
        lines = []
        if not asked.json:
            print(benchmark.HEADER)
        for line in benchmark.measure(model, asked.seconds):
            lines.append(line)
            if not asked.json:
                print(line.text(), flush=True)
    if asked.json:
        _print_json(
            {"model": model.name, "engine": model.engine.name, "lines": [line.plain() for line in lines]}
        )
    return errors.EXIT_OK


def doctor(arguments: Sequence[str]) -> int:
    """poolrt doctor: what this machine offers."""
    from . import doctor

    parser = Parser(prog="poolrt doctor", description="Says what this machine offers and what is missing.")
    parser.add_argument("--json", action="store_true", help="print for machines")
    asked = parser.parse_args(arguments)
    found = doctor.look()
    if asked.json:
        _print_json(found.plain())
    else:
        print(found.text())
    return errors.EXIT_OK


def _parser(name: str, description: str, *, texts: str | None = None) -> Parser:
    parser = Parser(prog=f"poolrt {name}", description=description)
    parser.add_argument("artifact", help=HELP)
    if name == "inspect":
        parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
        return parser
    parser.add_argument(
        "--engine",
        default="auto",
        help="auto, onnxruntime, tensorrt-rtx, ... or an engine file of the artifact",
    )
    parser.add_argument("--json", action="store_true", help="print for machines")
    if texts is not None:
        _add_texts(parser, texts)
    return parser


def _scorer(name: str, description: str) -> Parser:
    parser = _parser(name, description)
    parser.add_argument("query", help="the query")
    _add_texts(parser, "DOCUMENT")
    parser.add_argument("--instruction", help="for score templates that take one")
    parser.add_argument(
        "--preparation",
        choices=("model", "vllm"),
        default="model",
        help="as the model's own library (default) or as vLLM",
    )
    return parser


def _add_texts(parser: Parser, name: str) -> None:
    parser.add_argument(
        "texts", nargs="*", default=[], metavar=name, help="none: read lines from --file or stdin"
    )
    parser.add_argument("--file", type=Path, help="UTF-8 file with one text per line")
    parser.add_argument(
        "--no-truncate",
        action="store_true",
        help="refuse texts beyond the model's limit instead of cutting them",
    )


def _score_options(asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "truncate_prompt_tokens": _truncation(asked),
        "instruction": asked.instruction,
        "preparation": asked.preparation,
    }


def _truncation(asked: argparse.Namespace) -> int | None:
    return None if asked.no_truncate else -1


def _texts(given: list[str], file: Path | None) -> list[str]:
    """One text per argument, or per line that is not blank."""
    if given and file is not None:
        raise InputError("texts and --file: give one of them", field="file")
    if given:
        return given
    source = "stdin" if file is None else str(file)
    if file is None and sys.stdin.isatty():
        raise InputError(
            "no text: write texts behind the command, or give --file, or pipe lines in", field="texts"
        )
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})", field="file") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: byte {error.start} is not valid UTF-8; convert the text first", field="file"
        ) from None
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InputError(f"{source}: no line with text in it", field="file")
    return texts


def _model(asked: argparse.Namespace) -> Any:
    from ..loader import load

    return load(asked.artifact, asked.engine, threads=getattr(asked, "threads", None))


def _params(*, dimensions: int | None) -> Any:
    from ..answers.params import PoolingParams

    return PoolingParams(dimensions=dimensions)


def _bar(asked: argparse.Namespace) -> bool:
    return not asked.json and sys.stderr.isatty()


def _cosine(vectors: Any) -> float:
    from ..answers import scoring

    return float(scoring.cosine(vectors[0], vectors[1:])[0])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def _cut(truncated: bool) -> str:
    return " (cut)" if truncated else ""


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))
