"""Qwen3.5 and ColQwen3.5: the gated delta rule, its layer and whole models beside transformers' own code."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint, pipeline
from poolrt.exporter.base import large
from poolrt.exporter.families.modules import delta_net
from poolrt.exporter.graph import rewriting, tracing
from poolrt.exporter.heads import planning
from poolrt.exporter.proof import library_reference
from poolrt.runtime import load
from poolrt.runtime.artifact.manifest import GraphRole, RoleName
from poolrt.runtime.artifact.reading import read
from poolrt.runtime.errors import CheckpointError, VerificationError
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.media.medium import Medium
from tokenizers import Tokenizer
from transformers.models.qwen3_5 import modeling_qwen3_5 as theirs

from tests.checkpoints import configure, rewrite_weights
from tests.conftest import exported
from tests.families import proof
from tests.families import qwen3_5 as tiny
from tests.families.pictured import Pictured, Prompt, pictured
from tests.families.qwen3_vl_prompts import CLIP, CLIP_FPS, PICTURES, PROMPTS
from tests.families.qwen3_vl_reference import normalised
from tests.painted import painted, png

COSINE = 1 - 1e-6  # float32 on both sides; worst measured 1 - 2e-7
EXACT = 2e-6  # largest difference to the recurrence over one token after the other; worst measured 3e-7
INT8 = 0.9  # random weights drift more than trained ones; this catches a broken graph
HALF = 0.999  # products in float16, the recurrence in float32; worst measured 0.99999
SCORE = 2e-5  # of probabilities
ROLES: tuple[GraphRole, ...] = ("text", "vision")
KINDS = {"alike": 0.999, "random": 0.0, "the same": 1.0}
"""How much of a token's key is that of all tokens. Blank patches and fillers have nearly one key."""
recurrence = partial(theirs.torch_recurrent_gated_delta_rule, use_qk_l2norm_in_kernel=True)


@pytest.fixture
def token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' layers compute one token after the other instead of chunks."""
    monkeypatch.setattr(theirs, "torch_chunk_gated_delta_rule", theirs.torch_recurrent_gated_delta_rule)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strongest", [0.0, 0.05, 20.0], ids=["keeps", "fades", "forgets"])
def test_the_rule_is_the_recurrence(kind: str, strongest: float) -> None:
    generator = torch.Generator().manual_seed(3)
    rows, tokens, heads, shared, width = 2, 192, 2, 2, 32
    random = partial(torch.randn, generator=generator)
    uniform = partial(torch.rand, generator=generator)
    share = KINDS[kind]
    key = share * random(rows, 1, heads, width) + (1 - share) * random(rows, tokens, heads, width)
    query, value = random(rows, tokens, heads, width), random(rows, tokens, heads * shared, width)
    beta = 0.8 + 0.2 * uniform(rows, tokens, heads * shared)
    decay = -strongest * uniform(rows, tokens, heads * shared)
    decay[:, ::3] *= 1e-3  # heads that forget at some tokens and keep at others
    places = torch.arange(tokens)
    chunked = partial(delta_net.chunked, places=places)
    result = delta_net.delta_rule(
        delta_net.unit(chunked(query.flatten(2), sizes=(heads, 1, width))) * width**-0.5,
        delta_net.unit(chunked(key.flatten(2), sizes=(heads, 1, width))),
        chunked(value.flatten(2), sizes=(heads, shared, width)),
        chunked(decay, sizes=(heads, shared, 1)),
        chunked(beta, sizes=(heads, shared, 1)),
    )
    ours = result.permute(1, 0, 4, 2, 3, 5).reshape(rows, tokens, heads * shared, width)
    expected, _ = recurrence(query, key, value, g=decay, beta=beta)
    assert float((ours - expected).abs().max()) < EXACT


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_neighbours_change_no_token(side: str, tmp_path: Path, token_by_token: None) -> None:
    """Texts of 150, 97, 64 and 1 tokens, one of them a hundred times the same, on either side of a batch."""
    folder = tiny.colqwen3_5(tmp_path / "tiny", contract="causal")
    tower = checkpoint.read(folder, recipe=None).family.load(checkpoint.read(folder, recipe=None))
    reference = tiny.HybridReference(folder)
    generator = np.random.default_rng(0)
    texts = [generator.integers(0, 200, length) for length in (150, 97, 64, 1)]
    texts[0][20:120] = 5
    ids, mask, positions = np.full((4, 150), 7), np.zeros((4, 150), np.int64), np.zeros((4, 3, 150), np.int64)
    for row, text in enumerate(texts):
        place = slice(150 - len(text), 150) if side == "left" else slice(len(text))
        ids[row, place], mask[row, place], positions[row, :, place] = text, 1, np.arange(len(text))
    with torch.inference_mode():
        ours = tower(
            *map(torch.from_numpy, (ids, mask)),
            torch.zeros(1, 64),
            torch.zeros(4, 150, dtype=torch.int64),
            torch.from_numpy(positions),
        ).numpy()
    for row, text in enumerate(texts):
        expected = reference.hidden(text.tolist())
        assert proof.cosines([ours[row][mask[row] == 1]], [expected], of="").min() > COSINE
        np.testing.assert_allclose(normalised(ours[row][mask[row] == 1]), normalised(expected), atol=EXACT)


def media(of: Pictured) -> dict[str, Medium]:
    assert of.plan.vision is not None
    images = of.plan.vision.images
    known = {name: prepared.image(images, picture) for name, picture in PICTURES.items()}
    return known | {"clip": prepared.video(images, CLIP, fps=CLIP_FPS)}


def prompts(of: Pictured) -> list[Prompt]:
    known = media(of)
    rows = [Prompt(prompt.text, tuple(known[name] for name in prompt.media)) for prompt in PROMPTS]
    return [*rows, Prompt("the " * 120)]


@pytest.mark.parametrize(
    ("contract", "more"),
    [
        ("causal", {"outer": "base_model.model.", "dtype": "bfloat16", "shard": "200KB"}),
        ("bidirectional", {}),
        (
            "bidirectional",
            {
                "seed": 9,
                "text": {
                    "linear_num_key_heads": 1, "linear_num_value_heads": 3, "linear_conv_kernel_dim": 2,
                    "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 48,
                    "rope_parameters": {
                        "mrope_interleaved": True, "mrope_section": [3, 2, 1], "rope_type": "default",
                        "partial_rotary_factor": 0.25, "rope_theta": 1e4,
                    },
                },
                "vision": {"out_hidden_size": 48, "hidden_size": 60, "num_heads": 5, "depth": 2},
                "head": {"custom_text_proj.weight": (40, 48), "custom_text_proj.bias": (40,)},
            },
        ),
    ],
    ids=["causal, another prefix", "bidirectional", "other sizes"],
)  # fmt: skip
def test_pages_become_the_vectors_of_transformers(
    contract: str, more: dict[str, Any], tmp_path: Path, token_by_token: None
) -> None:
    folder = tiny.colqwen3_5(tmp_path / "col", contract=contract, **more)
    of = pictured(folder)
    reference = tiny.HybridReference(folder, both_ways=contract == "bidirectional")
    rows = prompts(of)
    expected = [reference.projected(reference.hidden(of.item(row).ids, row.media)) for row in rows]
    assert proof.cosines(of.answers("token_embed", rows), expected, of="").min() > COSINE


@pytest.mark.parametrize("place", ["model", "text_config"])
def test_the_contract_decides_which_way_full_attention_looks(place: str, tmp_path: Path) -> None:
    folder = tiny.colqwen3_5(tmp_path / "col")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    inner = config["text_config"]
    assert any("attention: causal" in str(guess) for guess in checkpoint.read(folder, recipe=None).guesses)
    for stated, expected in (
        ({"retrieval_attention_contract": "bidirectional"}, False),
        ({"retrieval_attention_contract": "causal", "is_causal": False}, True),
        ({"is_causal": False}, False),
        ({"is_causal": True}, True),
    ):
        configure(folder, **(config | (stated if place == "model" else {"text_config": inner | stated})))
        of = checkpoint.read(folder, recipe=None)
        assert of.family.load(of).causal is expected
        assert not any(guess.what == "attention" for guess in of.guesses)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("top", "inner", "reason"),
    [
        ("causal", "bidirectional", "says retrieval_attention_contract 'causal', its text_config 'bidirec"),
        ("sideways", None, "contract 'sideways'; expected 'causal' or 'bidirectional'"),
    ],
    ids=["differ", "unknown"],
)
def test_contracts_that_cannot_be_kept_are_refused(
    top: str, inner: str | None, reason: str, tmp_path: Path
) -> None:
    said: dict[str, Any] = {} if inner is None else {"text": {"retrieval_attention_contract": inner}}
    folder = tiny.colqwen3_5(tmp_path / "col", contract=top, **said)
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.read(folder, recipe=None)


def test_tensors_without_a_place_are_named(tmp_path: Path) -> None:
    folder = tiny.published(tmp_path / "qwen")
    rewrite_weights(folder, lambda name: name.replace("mtp.norm", "audio.norm"))
    read = checkpoint.read(folder, recipe=None)
    with pytest.raises(CheckpointError, match=r"Qwen3_5 has no place for: audio\.norm\.weight"):
        tracing.module(read, planning.plan(read))


@pytest.mark.parametrize("convert", ["embed", "classify"])
def test_a_chat_model_is_converted(convert: Any, tmp_path: Path) -> None:
    """The last token, with a `score` layer behind it for a classifier."""
    head = {"score.weight": (3, 64)} if convert == "classify" else {}
    labels = {"num_labels": 3} if convert == "classify" else {}
    folder = tiny.published(tmp_path / "qwen", head={"mtp.norm.weight": (64,), **head}, **labels)
    of, reference = pictured(folder, convert=convert), tiny.HybridReference(folder)
    proof.note(architecture=tiny.CHAT_MODEL, file="qwen3_5", tasks=list(of.plan.tasks))
    rows = prompts(of)
    last = np.stack([reference.hidden(of.item(row).ids, row.media)[-1] for row in rows])
    if convert == "embed":
        assert proof.cosines(of.answers("embed", rows), list(last)).min() > COSINE
    else:
        logits = torch.from_numpy(last) @ reference.tensors["score.weight"].T
        expected = list(torch.softmax(logits, dim=-1).numpy())
        assert proof.differences(of.answers("classify", rows), expected) < SCORE


@pytest.mark.parametrize("contract", ["causal", "bidirectional"])
def test_an_export_compares_pages_with_transformers(contract: str, tmp_path: Path) -> None:
    folder = tiny.colqwen3_5(tmp_path / "col", contract=contract)
    reading = library_reference.compare(folder, recipe=None)
    assert reading.reference.endswith("Qwen3_5ForConditionalGeneration")
    counts = {agreement.what: agreement.texts for agreement in reading.agreements}
    assert counts["prepared pictures"] == 4
    assert counts["token_embed of prompts with pictures"] == 5


def test_an_export_that_attends_the_other_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.colqwen3_5(tmp_path / "col", contract="bidirectional")
    plain = delta_net.HybridTower.__init__

    def wrong(self: delta_net.HybridTower, model: Any, *, causal: bool) -> None:
        plain(self, model, causal=not causal)

    monkeypatch.setattr(delta_net.HybridTower, "__init__", wrong)
    with pytest.raises(VerificationError, match="token_embed of pictures otherwise"):
        library_reference.compare(folder, recipe=None)


# --- exported


@pytest.fixture(scope="module")
def col(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its artifact."""
    artifact = exported("colqwen3_5", lambda folder: tiny.short(folder / "colqwen3_5"))
    return tiny.short(tmp_path_factory.mktemp("col") / "colqwen3_5"), artifact


PAGES: dict[str, Any] = {
    **PICTURES,
    "transparent": png(painted(60, 50, 6, channels=4)),
    "grey": png(painted(90, 70, 7, channels=1)),
    "a point": painted(1, 1, 8),
}
SEEN = "<|vision_start|>{}<|vision_end|>"
FILLER = "<|endoftext|>" * 10


def features(medium: Medium) -> str:
    """The expanded placeholder of a picture."""
    return SEEN.format("<|image_pad|>" * sum(rows * columns for rows, columns in medium.grids))


def test_an_artifact_reads_pages_and_words_as_transformers_model_does(
    col: tuple[Path, Path], token_by_token: None
) -> None:
    folder, artifact = col
    reference = tiny.HybridReference(folder, both_ways=True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with load(artifact) as model:
        images = model.manifest.images
        assert images is not None
        proof.shown(model.manifest)
        known = {name: prepared.image(images, page) for name, page in PAGES.items()}
        clip = prepared.video(images, CLIP, fps=CLIP_FPS)
        described = "<|im_start|>user\n{}Describe the {}.{}<|im_end|><|endoftext|>"
        wide, tall = known["wide"], known["tall"]
        # (input, role, prompt, media)
        cases: list[tuple[Any, RoleName, str, list[Medium]]] = [
            ("the red planet!", "query", "the red planet!" + FILLER, []),
            ("the " * 100, "document", "the " * 100, []),
            *(
                (
                    {"image": page}, "document", described.format(features(known[name]), "image", ""),
                    [known[name]],
                )
                for name, page in PAGES.items()
            ),
            (
                {"image": [PAGES["wide"], PAGES["tall"]], "text": "mars"}, "document",
                described.format(features(wide) + features(tall), "image", " mars"), [wide, tall],
            ),
            (
                {"video": (CLIP, {"fps": CLIP_FPS})}, "document",
                described.format(clip.text, "video", ""), [clip],
            ),
        ]  # fmt: skip
        vectors = []
        for source, role, prompt, media in cases:
            [output] = model.token_embed([source], role=role)
            assert output.prompt_token_ids == tokenizer.encode(prompt).ids
            expected = reference.projected(reference.hidden(output.prompt_token_ids, media))
            assert proof.cosines([output.outputs.data], [expected]).min() > COSINE
            vectors.append(expected)
        pages = [case[0] for case in cases[2:4]]
        scores = [output.outputs.score for output in model.score("the red planet!", pages)]
    best = [(vectors[0] @ page.T).max(axis=1).sum() for page in vectors[2:4]]
    np.testing.assert_allclose(scores, best, atol=1e-4)


def test_padding_in_front_changes_no_token_of_the_graph(col: tuple[Path, Path]) -> None:
    """Packing fills padding with rows of other tokens, which no layer may carry into a text."""
    graph = read(col[1]).manifest.graph("text")
    assert graph.packed
    session = proof.opened(col[1] / graph.file)
    generator = np.random.default_rng(1)

    def vectors(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {
            "input_ids": ids, "attention_mask": mask, "features": np.zeros((1, 64), np.float32),
            "feature_index": np.zeros_like(ids),
            "position_ids": np.tile(np.maximum(mask.cumsum(1) - 1, 0)[:, None], (1, 3, 1)),
        })[0])  # fmt: skip

    texts = [generator.integers(0, 200, (1, length)) for length in (130, 70, 3)]
    ids, mask = np.full((3, 130), 9), np.zeros((3, 130), np.int64)
    for row, text in enumerate(texts):
        ids[row, -text.size :], mask[row, -text.size :] = text[0], 1
    together = vectors(ids, mask)
    for row, text in enumerate(texts):
        alone = vectors(text, np.ones_like(text))[0]
        np.testing.assert_allclose(together[row, -text.size :], alone, atol=1e-5)


def test_the_graph_lowers(col: tuple[Path, Path], tmp_path: Path) -> None:
    """The recurrence stays in float32, which fp16 and int8 leave alone."""
    folder, artifact = col
    opened = read(artifact)
    proof.shown(opened.manifest)
    exact, graph = pictured(folder), opened.manifest.graph("text")
    rows = prompts(exact)
    expected = exact.answers("token_embed", rows)
    rewriting.mixed_from_onnx(artifact / graph.file, tmp_path / "fp16.onnx", "fp16")
    rewriting.int8_from_onnx(artifact / graph.file, tmp_path / "int8.onnx")
    vision = proof.opened(artifact / opened.manifest.graph("vision").file)
    for name, least in (("fp16", HALF), ("int8", INT8)):
        exact.sessions = (proof.opened(tmp_path / f"{name}.onnx"), vision)
        answers = exact.answers("token_embed", rows)
        assert np.median(proof.cosines(answers, expected, of=name)) > least


@pytest.mark.slow
def test_a_checkpoint_too_large_for_memory_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "text": tiny.SHORT,
        "vision": {"depth": 1},
        "dtype": "bfloat16",
        "shard": "200KB",
    }
    folder = tiny.colqwen3_5(tmp_path / "col", contract="bidirectional", seed=8, **settings)
    monkeypatch.setenv(large.SETTING, "0")
    pipeline.export(folder, out=tmp_path / "artifacts", recipe=None, precision="fp16")
    monkeypatch.delenv(large.SETTING)
    of, reference = pictured(folder), tiny.HybridReference(folder, both_ways=True)
    rows = prompts(of)
    expected = [reference.projected(reference.hidden(of.item(row).ids, row.media)) for row in rows]
    manifest = read(tmp_path / "artifacts" / "col").manifest
    files = [manifest.graph(role, "fp16").file for role in ROLES]
    of.sessions = tuple(proof.opened(tmp_path / "artifacts" / "col" / file) for file in files)
    assert proof.cosines(of.answers("token_embed", rows), expected, of="").min() > HALF


@pytest.mark.slow
@pytest.mark.parametrize("convert", ["embed", "classify"])
def test_a_converted_chat_model_is_exported_in_int8(convert: Any, tmp_path: Path) -> None:
    """From raw pictures through the runtime, beside transformers."""
    more = {"num_labels": 3} if convert == "classify" else {}
    folder = tiny.published(tmp_path / "qwen", text=tiny.SHORT, vision={"depth": 1}, **more)
    if convert == "classify":
        # Labels that random weights are less sure of: probabilities near 0 and 1 change places in int8
        weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)) * 0.05
        rewrite_weights(folder, lambda name: name, add={"score.weight": weight})
    pipeline.export(folder, out=tmp_path / "artifacts", recipe=None, convert=convert, precision="int8")
    of, reference = pictured(folder, convert=convert), tiny.HybridReference(folder)
    row = Prompt(SEEN.format("<|image_pad|>") + "mars", (media(of)["wide"],))
    with load(tmp_path / "artifacts" / "qwen") as model:
        proof.shown(model.manifest)
        assert model.manifest.reading is not None
        assert model.manifest.reading.reference.endswith("Qwen3_5ForConditionalGeneration")
        prompt: Any = {"prompt": row.text, "multi_modal_data": {"image": PICTURES["wide"]}}
        if convert == "embed":
            [output] = model.embed([prompt])
            answer = output.outputs.embedding
        else:
            [output] = model.classify([prompt])
            answer = output.outputs.probs
        last = reference.hidden(output.prompt_token_ids, row.media)[-1]
    if convert == "embed":
        assert proof.cosines([np.asarray(answer)], [last], of="int8").min() > INT8
    else:
        logits = torch.from_numpy(last) @ reference.tensors["score.weight"].T
        np.testing.assert_allclose(answer, torch.softmax(logits, dim=-1).numpy(), atol=0.05)
