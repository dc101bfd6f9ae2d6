"""lora_request of vLLM's offline class: each prompt is answered by the artifact
that has its adapter in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import LLM, InputError, LoRARequest, PoolingParams, load
from poolrt.runtime.artifact.manifest import FILE, MergedAdapter, Source
from poolrt.runtime.outputs import Outputs, RequestOutput
from poolrt.runtime.vllm import lora

from tests import adapters

TEXTS = ["the red planet", "a", "which city is the capital of france ?"]
SAME = 1e-6  # the same graph on batches of another shape


class Stand:
    """Stands in for a model: remembers what it was asked."""

    def __init__(self, name: str, *, weights: str = "w", adapter: bool = True) -> None:
        added = MergedAdapter(name=name, rank=1) if adapter else None
        source = Source(checkpoint="base", weights={"model": weights}, adapter=added)
        self.name, self.manifest, self.closed = name, SimpleNamespace(source=source), False

    def close(self) -> None:
        self.closed = True


def test_a_list_of_adapters_keeps_texts_parameters_and_order(tmp_path: Path):
    opened: list[Path] = []

    def open(folder: Path) -> Any:
        opened.append(folder)
        return Stand(folder.name)

    def ask(model: Any, prompts: Any, parameters: Any) -> Any:
        rows = [
            SimpleNamespace(text=f"{model.name} {text} {one.dimensions}")
            for text, one in zip(prompts, parameters, strict=True)
        ]
        made = tuple(RequestOutput(row, [0], len(row.text)) for row in rows)  # type: ignore[type-var]
        return Outputs(made, padding=0.5 if model.name == "base" else 0.0)

    requests = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text("{}")
        requests[name] = LoRARequest(name, 1, str(tmp_path / name))
    (tmp_path / "link").symlink_to(tmp_path / "one")
    linked = LoRARequest("link", 3, str(tmp_path / "link"))
    adapters = lora.AdapterModels(Stand("base"), open)  # type: ignore[arg-type]
    order = [requests["two"], None, linked, requests["two"]]
    made = adapters.answers(
        order, ["a", "b", "c", "d"], [PoolingParams(dimensions=index) for index in range(1, 5)], ask
    )
    assert [row.outputs.text for row in made] == ["two a 1", "base b 2", "one c 3", "two d 4"]
    assert [row.request_id for row in made] == ["0", "1", "2", "3"]
    assert made.padding == pytest.approx(8 * 0.5 / (7 + 8 + 7 + 7))
    assert opened == [tmp_path / "two", tmp_path / "one"]
    with pytest.raises(InputError, match=r"lengths of prompts \(2\) and lora_request \(1\)"):
        adapters.answers([None], ["a", "b"], None, ask)
    assert adapters.single([linked, requests["one"]]) is adapters.model(linked)
    for several in ([None, linked], []):
        with pytest.raises(InputError, match="one call of score uses one adapter"):
            adapters.single(several)


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"weights": "x"}, "adapts other weights"), ({"adapter": False}, "has no adapter in it")],
)
def test_an_artifact_of_another_checkpoint_is_closed_again(
    tmp_path: Path, changed: dict[str, Any], told: str
):
    (tmp_path / FILE).write_text("{}")
    other = Stand("other", **changed)
    adapters = lora.AdapterModels(Stand("base"), lambda folder: other)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match=told) as error:
        adapters.model(LoRARequest("a", 1, str(tmp_path)))
    assert other.closed
    assert error.value.field == "lora_request"


@pytest.fixture(scope="module")
def adapted(
    checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> list[LoRARequest]:
    """Two artifacts of one checkpoint, an adapter in each."""
    from poolrt.exporter import pipeline

    folder, base = tmp_path_factory.mktemp("lora"), checkpoints("minilm_like")
    made = []
    for index, name in enumerate(("sports", "law")):
        pipeline.export(
            base, lora=adapters.adapted(base, folder / name, seed=index), name=name, out=folder / "artifacts"
        )
        made.append(LoRARequest(name, index + 1, str(folder / "artifacts" / name)))
    return made


@pytest.fixture(scope="module")
def llm(artifacts: Callable[[str], Path]) -> LLM:
    return LLM(str(artifacts("minilm_like")), enable_lora=True, max_loras=2, max_lora_rank=16)


def alone(path: str, texts: list[str]) -> np.ndarray:
    with load(path, threads=1) as model:
        return np.asarray(model.embed(texts))


def test_one_adapter_answers_all_prompts(llm: LLM, adapted: list[LoRARequest]) -> None:
    found = np.asarray(llm.embed(TEXTS, lora_request=adapted[0], use_tqdm=False))
    np.testing.assert_allclose(found, alone(adapted[0].lora_path, TEXTS), rtol=0, atol=SAME)
    assert np.abs(found - np.asarray(llm.embed(TEXTS, use_tqdm=False))).max() > 0.01


def test_each_prompt_may_have_its_own(llm: LLM, adapted: list[LoRARequest]) -> None:
    texts = [*TEXTS, "mars", "venus"]
    requests = [adapted[1], None, adapted[0], adapted[1], None]
    params = [PoolingParams(use_activation=bool(index % 2)) for index in range(5)]
    made = llm.encode(texts, params, pooling_task="embed", lora_request=requests, use_tqdm=False)
    for index, (text, request, one) in enumerate(zip(texts, requests, params, strict=True)):
        (expected,) = llm.encode(text, one, pooling_task="embed", lora_request=request, use_tqdm=False).arrays
        # Not normalised: values up to 3
        np.testing.assert_allclose(made[index].outputs.data, expected, rtol=0, atol=1e-5)
    assert [one.request_id for one in made] == list("01234")
    assert made.padding >= 0


def test_a_score_takes_one(llm: LLM, adapted: list[LoRARequest]) -> None:
    first = np.asarray(llm.score("a", TEXTS, lora_request=adapted[0], use_tqdm=False))
    listed: Any = [adapted[0]] * 3
    np.testing.assert_allclose(
        np.asarray(llm.score("a", TEXTS, lora_request=listed, use_tqdm=False)), first, rtol=0, atol=SAME
    )
    with pytest.raises(InputError, match="one call of score uses one adapter"):
        llm.score("a", TEXTS, lora_request=[adapted[0], None, adapted[0]], use_tqdm=False)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda llm, one, other: llm.embed(["a"], lora_request=[one, one]),
        r"of prompts \(1\) and lora_request \(2\) must be the same"),
        (lambda llm, one, other: llm.embed([], lora_request=[]), "at least one prompt"),
        (lambda llm, one, other: llm.embed("a", lora_request="sports"),
        r"LoRARequest\(name, id, path\), found str"),
        (lambda llm, one, other: llm.embed("a", lora_request=LoRARequest("a", 1, "/nowhere")),
        "poolrt export CHECKPOINT --lora /nowhere"),
        (lambda llm, one, other: llm.embed("a", lora_request=LoRARequest("a", 1, str(llm.model.folder))),
        "has no adapter in it; expected"),
        (lambda llm, one, other: llm.embed("a", lora_request=LoRARequest("a", 0, "x")),
        "lora_int_id is 0, expected 1 or more"),
        (lambda llm, one, other: llm.embed("a", lora_request=LoRARequest("a", 1, "")),
        "lora_path cannot be empty"),
        (lambda llm, one, other: LLM(str(other)).embed("a", lora_request=one),
        r"LoRA is not enabled; .* enable_lora=True"),
        (lambda llm, one, other: LLM(str(other), enable_lora=True).embed("a", lora_request=one),
        "adapts other weights; expected one of"),
    ],
    ids=["lengths", "nothing", "no request", "no artifact", "no adapter", "id", "no path", "off",
    "another base"],
)  # fmt: skip
def test_what_cannot_be_asked_says_what_to_do(
    llm: LLM, adapted: list[LoRARequest], artifacts: Callable[[str], Path], ask: Any, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        ask(llm, adapted[0], artifacts("bert_classifier"))
