"""The command of an artifact with labels: of whole texts, or of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from ..command_line.command import command
from ..command_line.flags import Flag
from ..outputs import label_of
from .model_arguments import ArtifactFolder, EngineName, Json, Texts, prompts, truncation
from .printing import cut, opened, print_json, progress_bar, short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..model import Model


@command(
    examples=[
        'poolrt classify artifacts/sentiment "what a good film" "never again"',
        "poolrt classify ARTIFACT --file reviews.txt --top-k 3",
        'poolrt classify artifacts/entities "Ada lives in London" --json',
    ]
)
def classify(
    artifact: ArtifactFolder,
    source: Texts,
    *,
    top_k: Annotated[
        int, Flag("labels to print, the likeliest first; 0: all", group="labels", at_least=0)
    ] = 1,
    engine: EngineName = "auto",
    json: Json = False,
) -> None:
    """Labels texts, or tokens of texts: from the command line, --file, or stdin with one text per line."""
    texts = source.read()
    with opened(artifact, engine) as model:
        values = prompts(texts, model)
        of_tokens = "classify" not in model.tasks and "token_classify" in model.tasks
        rows: list[dict[str, Any]]
        if of_tokens:
            outputs = model.token_classify(
                values, use_tqdm=progress_bar(json), truncate_prompt_tokens=truncation(source)
            )
            labels = model.manifest.heads["token_classify"].labels
            rows = [{"tokens": _tokens(model, output, labels)} for output in outputs]
        else:
            outputs = model.classify(
                values, use_tqdm=progress_bar(json), truncate_prompt_tokens=truncation(source)
            )
            labels = model.manifest.heads["classify"].labels
            rows = [_row(output.outputs.probs, labels) for output in outputs]
    rows = [
        {"index": index} | row | {"truncated": output.truncated}
        for index, (row, output) in enumerate(zip(rows, outputs, strict=True))
    ]
    if json:
        facts = {"model": model.name, "labels": list(labels), "data": rows}
        print_json(facts | {"prompt_tokens": outputs.prompt_tokens})
        return
    for row, text in zip(rows, texts, strict=True):
        if of_tokens:
            print(f"{short(text)}{cut(row['truncated'])}")
            for token in row["tokens"]:
                print(f"  {token['token']:16} {_likeliest(token['probs'], labels, top_k)}")
        else:
            print(f"{_likeliest(row['probs'], labels, top_k)}{cut(row['truncated'])}  {short(text)}")


def _tokens(model: Model, output: Any, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row for each token of a text."""
    pairs = zip(output.prompt_token_ids, output.outputs.data, strict=True)
    return [{"token": model.detokenize([token_id])} | _row(probs, labels) for token_id, probs in pairs]


def _row(probs: NDArray[np.float32], labels: Sequence[str]) -> dict[str, Any]:
    """Returns what /classify returns of one text: [labels] values, and the label of the largest."""
    return {
        "label": label_of(int(probs.argmax()), labels),
        "probs": probs.tolist(),
        "num_classes": len(probs),
    }


def _likeliest(probs: Sequence[float], labels: Sequence[str], top_k: int) -> str:
    """Returns the largest values with their labels; top_k 0: all of them."""
    order = sorted(range(len(probs)), key=lambda place: -probs[place])[: top_k or None]
    return "  ".join(f"{probs[place]:8.5f} {label_of(place, labels)}" for place in order)
