"""The commands that need one artifact (inspect, embed, score, rerank, bench), and doctor."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from .. import errors
from ..command_line.command import command
from ..command_line.flags import Flag
from ..errors import InputError
from .model_arguments import (
    ArtifactFolder,
    Documents,
    EngineName,
    Json,
    Query,
    Texts,
    prompts,
    truncation,
)
from .printing import cut, opened, print_json, progress_bar, short

PIECE = 1024
"""Texts that `embed --out` computes before it writes their vectors."""


@command(examples=["poolrt inspect artifacts/all-MiniLM-L6-v2", "poolrt inspect ARTIFACT --json | jq .tasks"])
def inspect(
    artifact: ArtifactFolder,
    *,
    quick: Annotated[bool, Flag("compare file sizes only, not their sha256")] = False,
    json: Json = False,
) -> None:
    """Checks every file of an artifact and shows what it is."""
    from ..artifact import reading
    from ..artifact.records import to_plain
    from ..store import resolving
    from . import inspection

    checked = reading.read(resolving.artifact(artifact), check="quick" if quick else "full")
    if json:
        print_json(to_plain(checked.manifest))
    else:
        print(inspection.text(checked))


@dataclass(frozen=True, slots=True)
class Embedding:
    """How texts become vectors, and where the vectors go."""

    dimensions: Annotated[int | None, Flag("width of the vectors, for Matryoshka models", group="model")] = (
        None
    )
    prompt_name: Annotated[str | None, Flag("stored prompt to put in front of each text", group="model")] = (
        None
    )
    role: Annotated[
        Literal["query", "document"] | None,
        Flag("prepare the texts as this side of a comparison", group="model"),
    ] = None
    out: Annotated[
        Path | None,
        Flag("write the vectors to this .npy file instead of printing them", metavar="FILE", own=True),
    ] = None
    resume: Annotated[
        bool, Flag("with --out: go on where an interrupted run of the same texts stopped", own=True)
    ] = False


@command(
    examples=[
        'poolrt embed artifacts/all-MiniLM-L6-v2 "a cat" "a kitten"',
        "poolrt embed ARTIFACT --file lines.txt --out vectors.npy",
        "cat lines.txt | poolrt embed ARTIFACT --json",
    ]
)
def embed(
    artifact: ArtifactFolder,
    source: Texts,
    *,
    engine: EngineName = "auto",
    embedding: Embedding,
    json: Json = False,
) -> int:
    """Embeds texts and pictures: from the command line, --file, or stdin with one text per line."""
    if embedding.resume and embedding.out is None:
        raise InputError("--resume goes with --out FILE, the file to go on with", field="resume")
    return _embedded(artifact, engine, source, embedding, as_json=json)


def _embedded(artifact: str, engine: str, source: Texts, embedding: Embedding, *, as_json: bool) -> int:
    """Embeds the texts, in pieces where the vectors go to a file: it then has the vectors of
    every finished piece."""
    import numpy as np

    from ..progress import bar
    from .vector_file import VectorFile

    texts = source.read()
    options = {
        "pooling_params": _params(dimensions=embedding.dimensions),
        "truncate_prompt_tokens": truncation(source),
        "role": embedding.role,
        "prompt_name": embedding.prompt_name,
    }
    file = None if embedding.out is None else VectorFile(embedding.out, resume=embedding.resume)
    begin = 0 if file is None else file.rows
    if begin > len(texts):
        raise InputError(
            f"--resume: {embedding.out} has {begin} vectors, and there are {len(texts)} texts", field="resume"
        )
    piece = PIECE if file is not None else max(len(texts), 1)
    rows: list[dict[str, Any]] = []
    tokens, padded, vectors = 0, 0.0, np.empty((0, 0), dtype=np.float32)
    try:
        with opened(artifact, engine) as model, bar(progress_bar(as_json), len(texts) - begin) as progress:

            def embedded(several: list[str | Path]) -> Any:
                return model.embed(
                    prompts(several, model),
                    use_tqdm=False if progress is None else _Shared(progress),
                    **options,
                )

            if file is not None and begin:
                [last] = prompts(texts[begin - 1 : begin], model)
                file.check(np.asarray(model.embed(last, **options))[0])
            for start in range(begin, len(texts), piece):
                several = texts[start : start + piece]
                outputs = embedded(several)
                vectors = np.asarray(outputs)
                if file is not None:
                    file.append(vectors)
                tokens += outputs.prompt_tokens
                padded += outputs.padding * outputs.prompt_tokens
                for index, (output, text) in enumerate(zip(outputs, several, strict=True), start):
                    if as_json:
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
                        print(f"[{shown} ...] {size}{cut(output.truncated)}  {short(text)}")
            name = model.name
    except KeyboardInterrupt:
        if file is None:
            raise
        kept = (
            f"{file.rows} of {len(texts)} vectors are in {file.path}; the same command with "
            "--resume goes on from there"
        )
        raise KeyboardInterrupt(kept if file.rows else "nothing was written") from None
    if as_json:
        print_json(
            {
                "model": name,
                "data": rows,
                "prompt_tokens": tokens,
                "padding": round(padded / max(tokens, 1), 4),
            }
        )
    elif file is not None:
        print(f"{file.rows} vectors of {file.dim} dims -> {embedding.out}")
    elif len(texts) == 2:
        print(f"cosine {_cosine(vectors):.4f}")
    return errors.EXIT_OK


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


@command(examples=['poolrt score artifacts/bge-reranker-base "capital of France" "Paris" "Mars"'])
def score(
    artifact: ArtifactFolder,
    query: Query,
    source: Documents,
    *,
    engine: EngineName = "auto",
    json: Json = False,
) -> None:
    """Scores a query against documents: from the command line, --file, or stdin with one document per
    line."""
    documents = source.read()
    with opened(artifact, engine) as model:
        first, *others = prompts([query, *documents], model)
        outputs = model.score(first, others, use_tqdm=progress_bar(json), **source.options())
    if json:
        data = [
            {"index": index, "score": output.outputs.score, "truncated": output.truncated}
            for index, output in enumerate(outputs)
        ]
        print_json({"model": model.name, "data": data, "prompt_tokens": outputs.prompt_tokens})
    else:
        for output, document in zip(outputs, documents, strict=True):
            print(f"{output.outputs.score:10.5f}{cut(output.truncated)}  {short(document)}")


@command(
    examples=[
        'poolrt rerank artifacts/bge-reranker-base "capital of France" "Paris" "Mars" --top-n 1',
        'poolrt rerank ARTIFACT "capital of France" --file documents.txt --json',
    ]
)
def rerank(
    artifact: ArtifactFolder,
    query: Query,
    source: Documents,
    *,
    top_n: Annotated[int, Flag("how many to show; 0: all", group="scores")] = 0,
    engine: EngineName = "auto",
    json: Json = False,
) -> None:
    """Sorts documents by their score: from the command line, --file, or stdin with one document per line."""
    documents = source.read()
    with opened(artifact, engine) as model:
        first, *others = prompts([query, *documents], model)
        ranking = model.rerank(first, others, top_n=top_n, use_tqdm=progress_bar(json), **source.options())
    if json:
        results = [
            {"index": ranked.index, "relevance_score": ranked.score, "document": _document(ranked.document)}
            for ranked in ranking
        ]
        print_json({"model": model.name, "results": results, "prompt_tokens": ranking.prompt_tokens})
    else:
        for place, ranked in enumerate(ranking, start=1):
            print(f"{place:3}. {ranked.score:10.5f}  {short(documents[ranked.index])}")


@command(examples=["poolrt bench artifacts/all-MiniLM-L6-v2 --seconds 5 --threads 2"])
def bench(
    artifact: ArtifactFolder,
    *,
    engine: EngineName = "auto",
    threads: Annotated[
        int | None, Flag("threads of the engine", group="model", default="what this process may use")
    ] = None,
    seconds: Annotated[float, Flag("how long each line is measured", above=0)] = 2.0,
    json: Json = False,
) -> None:
    """Measures one artifact in this process: texts and tokens per second at several lengths."""
    from . import benchmark

    with opened(artifact, engine, threads=threads) as model:
        lines = []
        if not json:
            print(benchmark.HEADER)
        for line in benchmark.measure(model, seconds):
            lines.append(line)
            if not json:
                print(line.text(), flush=True)
    if json:
        print_json(
            {"model": model.name, "engine": model.engine.name, "lines": [line.plain() for line in lines]}
        )


@command(examples=["poolrt doctor", "poolrt doctor --json | jq .backends"])
def doctor(*, json: Json = False) -> None:
    """Says what this machine offers and what is missing, and which variables and files set flags."""
    from ..command_line import terminal
    from . import cli, doctor, environment

    commands = cli.loaded()
    diagnosis = doctor.look(
        environment.variables(commands, os.environ), environment.files(commands, os.environ)
    )
    if json:
        print_json(diagnosis.plain())
    else:
        terminal.facts(diagnosis.text().splitlines())


def _params(*, dimensions: int | None) -> Any:
    from ..answers.params import PoolingParams

    return PoolingParams(dimensions=dimensions)


def _cosine(vectors: Any) -> float:
    from ..answers import scoring

    return float(scoring.cosine(vectors[0], vectors[1:])[0])


def _document(document: Any) -> dict[str, str]:
    """A document as JSON: its text, or the file of its picture."""
    if isinstance(document, str):
        return {"text": document}
    return {kind: str(path) for kind, path in document.items()}
