"""ColPali, ColModernVBERT and ColSmolVLM: pages and questions as transformers' classes and colpali-engine's
read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.runtime import load
from poolrt.runtime.answers.scoring import maxsim
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs.media import prepared

from tests.conftest import exported
from tests.families import idefics, pages, proof

GOLDENS = Path(__file__).parents[1] / "goldens" / "pages"
COSINE = 1 - 1e-6  # float32 on both sides; worst measured 1 - 3e-7
SCORE = 1e-4  # of scores up to 30, a sum over some 40 tokens; worst measured 2e-5


@dataclass
class Modules:
    """The two halves of a checkpoint, in torch."""

    read: checkpoint.Checkpoint
    plan: planning.Plan
    text: Any
    vision: Any

    def vectors(
        self, role: str, text: str = "", page: Any = None
    ) -> tuple[list[int], npt.NDArray[np.float32]]:
        """Token ids of a prompt, and the vectors of its tokens."""
        vision = self.read.family.vision
        assert vision is not None
        images = vision.images(self.read)
        known = self.plan.text.roles[role]
        assert known.template is not None
        medium = None if page is None else prepared.image(images, page)
        prompt = jinja2.Template(known.template, keep_trailing_newline=True).render(
            text=text, media="" if medium is None else medium.text, images=int(medium is not None)
        )
        encoded = self.read.text.tokenizer.encode(prompt, add_special_tokens=known.add_special_tokens)
        ids = torch.tensor([encoded.ids])
        features = torch.zeros(1, vision.width(self.read.config))
        index = torch.zeros_like(ids)
        with torch.inference_mode():
            if medium is not None:
                rows = np.stack([item.arrays["pixel_values"] for item in medium.items])
                computed = self.vision(torch.from_numpy(rows)).flatten(0, 1)
                features = torch.cat((features, computed))
                places = ids[0] == self.read.text.id(images.token)
                assert int(places.sum()) == len(computed)
                index[0, places] = torch.arange(1, len(features))
            hidden = self.text(ids, torch.ones_like(ids), features, index)[0][0]
        return encoded.ids, torch.nn.functional.normalize(hidden, dim=-1).numpy()


def opened(folder: Path, adapter: Path | None = None) -> Modules:
    read = checkpoint.read(folder, recipe=None, adapter=adapter)
    plan = planning.plan(read)
    text = tracing.module(read, plan)
    assert read.family.vision is not None
    return Modules(read, plan, text, read.family.vision.load(read, text.backbone.model))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Modules]:
    known: dict[str, Modules] = {}

    def find(name: str) -> Modules:
        if name not in known:
            write = {**pages.ALL, **idefics.LATE}[name]
            known[name] = opened(write(tmp_path_factory.mktemp("pages") / name))
        return known[name]

    return find


def native(name: str, folder: Path) -> Any:
    """transformers' class with the weights of a checkpoint whose names it cannot read."""
    if name == "colpali_nested":
        return pages._colpali(folder, seed=7, side=42, heads=2)
    module = pages._colmodernvbert(folder, seed=5, side=48, factor=3, longest=96)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    return module


RECORDED = ("colpali", "colpali_engine", "colmodernvbert", "colmodernvbert_merged", "col_smol")


@pytest.mark.parametrize("name", RECORDED)
def test_pages_and_questions_become_the_vectors_of_the_authors_code(
    modules: Callable[[str], Modules], name: str
):
    golden = np.load(GOLDENS / f"{name}.npz")
    vectors: dict[str, list[Any]] = {"page": [], "question": []}
    for kind in vectors:
        count = len([key for key in golden if key.startswith(kind) and key.endswith("_ids")])
        for index in range(count):
            ids, rows = (
                modules(name).vectors("document", page=pages.PAGES[index])
                if kind == "page"
                else modules(name).vectors("query", pages.QUESTIONS[index])
            )
            assert ids == golden[f"{kind}_{index}_ids"].tolist(), f"{kind} {index}"
            expected = golden[f"{kind}_{index}"]
            assert (rows * expected).sum(-1).min() > COSINE, f"{kind} {index}"
            vectors[kind].append(rows)
    for question, expected in zip(vectors["question"], golden["scores"], strict=True):
        np.testing.assert_allclose(maxsim(question, vectors["page"]), expected, atol=SCORE)


@pytest.mark.parametrize("name", ["colpali_nested", "colmodernvbert_split"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_older_names_of_tensors_give_the_same_vectors(
    modules: Callable[[str], Modules], tmp_path: Path, name: str, count: int
):
    both = modules(name)
    assert both.read.family.vision is not None
    images = both.read.family.vision.images(both.read)
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(count, 3, images.height, images.width, generator=generator)
    token, places = int(both.read.text.id("<image>") or 0), count * images.tokens
    ids = torch.randint(5, 150, (2, places + 30), generator=generator)
    ids[ids == token] = 6
    ids[0, 2 : 2 + places] = token
    mask, index = torch.ones_like(ids), torch.zeros_like(ids)
    mask[1, -7:] = 0
    index[0, 2 : 2 + places] = torch.arange(1, places + 1)
    more: dict[str, Any] = {"token_type_ids": torch.zeros_like(ids)} if "colpali" in name else {}
    if count:
        stacked = pictures if "colpali" in name else torch.stack((pictures, torch.zeros_like(pictures)))
        more["pixel_values"] = stacked
    with torch.inference_mode():
        features = torch.zeros(1, both.read.family.vision.width(both.read.config))
        if count:
            features = torch.cat((features, both.vision(pictures).flatten(0, 1)))
        ours = torch.nn.functional.normalize(both.text(ids, mask, features, index)[0], dim=-1)
        theirs = native(name, tmp_path)(input_ids=ids, attention_mask=mask, **more).embeddings
    rows = mask.bool()
    assert (ours * theirs).sum(-1)[rows].min() > COSINE


def configured(folder: Path, name: str, file: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A checkpoint with another setting in one of its files."""
    pages.ALL[name](folder)
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    change(content)
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "file", "change", "reason"),
    [
        ("colpali_exact", "config.json", lambda config: config["vlm_config"]["text_config"].update(
            model_type="gemma2"), "ColPali over 'gemma2'; expected 'gemma'"),
        ("colpali_exact", "preprocessor_config.json", lambda settings: settings["size"].update(
            height=28, width=28), "makes pictures of 28 x 28, the vision model reads 56 x 56"),
        ("colmodernvbert", "preprocessor_config.json", lambda settings: settings["max_image_size"].update(
            longest_edge=32), "the vision model has positions for 64 x 64 pixels"),
        ("colmodernvbert", "preprocessor_config.json", lambda settings: settings.update(
            size={"shortest_edge": 64}), "has no longest_edge in size and max_image_size"),
        ("colmodernvbert", "preprocessor_config.json", lambda settings: settings.update(
            image_processor_type="LlavaNextImageProcessor"), "whose tiles poolrt does not cut"),
        ("colmodernvbert", "processor_config.json", lambda settings: settings.update(
            image_seq_len=5), "image_seq_len in processor_config.json is 5, the vision model makes 4"),
        ("colmodernvbert", "processor_config.json", lambda settings: settings.update(
            visual_prompt_prefix="what is it"), "expected one <image> in it"),
        ("colmodernvbert", "config.json", lambda config: config["vlm_config"].update(
            image_token_id=7), "a picture is token 7 in config.json, and <image> is token"),
        ("colpali_exact", "preprocessor_config.json", lambda settings: settings.update(
            image_seq_length=9), "image_seq_length in preprocessor_config.json is 9, the vision"),
        ("colpali_exact", "config.json", lambda config: config["vlm_config"].update(
            image_token_index=7), "a picture is token 7 in config.json, and <image> is token 4"),
    ],
    ids=[
        "gemma2", "size", "tile", "no longest edge", "other tiles", "tokens of a tile", "no place",
        "token of tiles", "tokens of a picture", "token",
    ],
)  # fmt: skip
def test_settings_that_no_half_can_follow_are_refused(
    tmp_path: Path, name: str, file: str, change: Callable[[dict[str, Any]], object], reason: str
):
    folder = configured(tmp_path / name, name, file, change)
    with pytest.raises(CheckpointError, match=reason):
        opened(folder)


def test_a_picture_is_not_cut_where_the_processor_says_so(tmp_path: Path):
    folder = configured(
        tmp_path / "whole",
        "colmodernvbert",
        "preprocessor_config.json",
        lambda settings: settings.update(do_image_splitting=False),
    )
    read = checkpoint.read(folder, recipe=None)
    assert read.family.vision is not None
    images = read.family.vision.images(read)
    assert images.tiling is not None
    assert not images.tiling.split
    medium = prepared.image(images, pages.PAGES[1])
    assert len(medium.items) == 1
    assert medium.text == f"{pages.AROUND}<global-img>{'<image>' * 4}{pages.AROUND}"
    again = prepared.image(images, pages.PAGES[1], options={"do_image_splitting": True})
    assert len(again.items) == 7


@pytest.mark.parametrize("name", ["colpali", "colmodernvbert", "col_smol"])
def test_an_artifact_scores_pages_as_the_authors_code_does(name: str):
    golden, write = np.load(GOLDENS / f"{name}.npz")["scores"], {**pages.ALL, **idefics.LATE}[name]
    documents: Any = list(pages.PAGES[: golden.shape[1]])
    with load(exported(f"pages-{name}", lambda folder: write(folder / name))) as model:
        assert model.manifest.scoring == "late-interaction"
        proof.shown(model.manifest)
        for question, expected in zip(pages.QUESTIONS, golden, strict=True):
            scores = np.array([output.outputs.score for output in model.score(question, documents)])
            assert proof.differences([scores], [expected]) < SCORE


def test_prompts_that_a_processor_states_are_taken_even_where_they_are_empty(tmp_path: Path):
    folder = pages.colpali_exact(tmp_path / "checkpoint")
    settings = {"query_prefix": "", "visual_prompt_prefix": "look"}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("<image>", "<picture>"))
    both = opened(folder)
    tokenizer = both.read.text.tokenizer
    page, _ = both.vectors("document", page=pages.PAGES[0])
    assert page == tokenizer.encode("<picture>" * 16 + "<bos>look\n", add_special_tokens=False).ids
    question, _ = both.vectors("query", "red")
    assert question == tokenizer.encode("<bos>red" + "<pad>" * 10 + "\n", add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("name", "published"),
    [("colpali_exact", "ColPaliForRetrieval"), ("colmodernvbert", "ColModernVBertForRetrieval")],
)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_finds_its_tensors_under_the_names_of_another_release(
    name: str, published: str, tmp_path: Path
):
    """transformers names a module otherwise in memory than in its files, and adapters have the former."""
    import transformers

    peft = pytest.importorskip("peft")
    folder = pages.ALL[name](tmp_path / name)
    whole = getattr(transformers, published).from_pretrained(folder, dtype=torch.float32)
    modules = r".*((language_model|text_model).*(q_proj|down_proj|Wqkv|Wo)|embedding_proj_layer)$"
    adapted = peft.get_peft_model(whole, peft.LoraConfig(r=3, lora_alpha=7, target_modules=modules)).eval()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.data.normal_(0, 0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    both = opened(folder, adapter=tmp_path / "adapter")
    ids, ours = both.vectors("query", "what is the capital of france")
    tokens = torch.tensor([ids])
    more = {"token_type_ids": torch.zeros_like(tokens)} if "colpali" in name else {}
    with torch.inference_mode():
        output = adapted(input_ids=tokens, attention_mask=torch.ones_like(tokens), **more)
    assert (ours * output.embeddings[0].numpy()).sum(-1).min() > COSINE
    _, plain = opened(folder).vectors("query", "what is the capital of france")
    assert (ours * plain).sum(-1).min() < 0.99
