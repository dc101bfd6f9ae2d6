"""Sentence Transformers' modules in orders and with settings of all kinds, built and saved by the
library, against its own encode."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.heads import planning
from poolrt.exporter.heads.head_modules import HeadsModule
from poolrt.runtime.answers import postprocess
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs.items import Item
from torch import nn

from tests.checkpoints import HIDDEN, randomise
from tests.families import TEXTS
from tests.families.proof import prove

Paths = Callable[[str], Path]
CLOSE = 2e-5  # of values around 1; worst measured 3e-6


def dense(width: int, out: int, activation: nn.Module | None = None, **more: Any) -> Any:
    from sentence_transformers.base.modules import Dense

    return randomise(Dense(width, out, activation_function=activation or nn.Tanh(), **more), seed=width + out)


def pooling(width: int = HIDDEN, mode: Any = "mean", **more: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(width, mode, **more)


def normalize(name: str = "sentence_embedding") -> Any:
    from sentence_transformers.base.modules import Normalize

    return Normalize(module_input_name=name)


def norm(width: int) -> Any:
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    return randomise(LayerNorm(width), seed=width)


def dropout() -> Any:
    from sentence_transformers.sentence_transformer.modules import Dropout

    return Dropout(0.5)


def weights(tokenizer: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import WordWeights

    words = [
        tokenizer.convert_ids_to_tokens(index) or f"<{index}>"
        for index in range(max(tokenizer.get_vocab().values()) + 1)
    ]
    return WordWeights(
        words,
        {word: 0.2 + index % 7 for index, word in enumerate(words) if index % 3},
        unknown_word_weight=0.5,
    )


def convolution() -> Any:
    from sentence_transformers.sentence_transformer.modules import CNN

    return randomise(CNN(HIDDEN, 16, [1, 3, 5]), seed=4)


def layer_weights(start: int) -> Any:
    from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling

    return WeightedLayerPooling(
        HIDDEN,
        num_hidden_layers=2,
        layer_start=start,
        layer_weights=nn.Parameter(torch.tensor([0.5, 2.0, 1.5][start:])),
    )


TOKENS: dict[str, Any] = {"module_input_name": "token_embeddings"}
Build = Callable[[Any], Sequence[Any]]
"""The transformer's tokenizer -> the modules behind it."""

CHAINS: dict[str, Build] = {
    "normalize before dense": lambda _: [pooling(), normalize(), dense(HIDDEN, 24)],
    "normalize twice": lambda _: [pooling(), normalize(), dense(HIDDEN, 24), normalize()],
    "normalize tokens": lambda _: [normalize("token_embeddings"), pooling(), dense(HIDDEN, 24)],
    "normalize tokens after pooling": lambda _: [pooling(), normalize("token_embeddings")],
    "dense before pooling": lambda _: [dense(HIDDEN, 24, **TOKENS), pooling(24), normalize()],
    "dense on tokens twice": lambda _: [dense(HIDDEN, 24, nn.GELU(), **TOKENS), dense(24, 12, **TOKENS),
    pooling(12, "max")],
    "dense on tokens after pooling": lambda _: [pooling(), dense(HIDDEN, 24, **TOKENS), normalize()],
    "dense on both sides": lambda _: [dense(HIDDEN, 24, **TOKENS), pooling(24, ("cls", "mean")), dense(48, 8),
    normalize()],
    "dense under a name nobody reads": lambda _: [pooling(), dense(HIDDEN, 24, module_output_name="other"),
    normalize()],
    "dense that comes back": lambda _: [
        pooling(),
        dense(HIDDEN, 24, module_output_name="other"),
        dense(24, 8, module_input_name="other", module_output_name="sentence_embedding"),
    ],
    "tokens kept aside": lambda _: [
        dense(HIDDEN, 24, **TOKENS, module_output_name="aside"),
        dense(24, HIDDEN, module_input_name="aside", module_output_name="token_embeddings"), pooling(),
    ],
    "several dense": lambda _: [
        pooling(), dense(HIDDEN, 48, nn.ReLU()), dense(48, 24, nn.Identity()), dense(24, 12, nn.SiLU()),
        normalize(),
    ],
    "residual": lambda _: [pooling(), dense(HIDDEN, HIDDEN, use_residual=True),
    dense(HIDDEN, 24, use_residual=True)],
    "no bias": lambda _: [pooling(), dense(HIDDEN, 24, bias=False), normalize()],
    "layer norm": lambda _: [pooling(), norm(HIDDEN), dense(HIDDEN, 24), norm(24), normalize()],
    "layer norm at the end": lambda _: [pooling(), normalize(), norm(HIDDEN)],
    "dropout": lambda _: [pooling(), dropout(), dense(HIDDEN, 24), dropout(), normalize(), dropout()],
    "two poolings": lambda _: [pooling(HIDDEN, "cls"), pooling(HIDDEN, "max"), normalize()],
    "two poolings, the first kept": lambda _: [
        pooling(HIDDEN, "cls"), dense(HIDDEN, 8, module_output_name="first"), pooling(HIDDEN, "max"),
        dense(8, 8, module_input_name="first", module_output_name="sentence_embedding"),
    ],
    "poolings in their own order": lambda _: [pooling(HIDDEN, ("lasttoken", "mean", "cls", "max")),
    dense(4 * HIDDEN, 24)],
    "all poolings": lambda _: [pooling(HIDDEN,
    ("max", "weightedmean", "mean_sqrt_len_tokens", "lasttoken", "mean", "cls"))],
    "pooled twice the same": lambda _: [pooling(HIDDEN, ("mean", "mean")), normalize()],
    "word weights": lambda tokenizer: [weights(tokenizer), pooling(), normalize()],
    "word weights, other means": lambda tokenizer: [weights(tokenizer),
    pooling(HIDDEN, ("weightedmean", "mean_sqrt_len_tokens", "max"))],
    "word weights and dense": lambda tokenizer: [weights(tokenizer), dense(HIDDEN, 24, **TOKENS),
    pooling(24)],
    "layers that are not handed on": lambda _: [layer_weights(1), pooling()],
    "convolution": lambda _: [convolution(), pooling(48), normalize()],
}  # fmt: skip


@pytest.fixture(scope="module")
def first(checkpoints: Paths) -> Any:
    """A Transformer module over a tiny BERT; every model of these tests starts with it."""
    from sentence_transformers.base.modules import Transformer

    return Transformer(str(checkpoints("minilm_like")))


def written(folder: Path, first: Any, build: Build, **settings: Any) -> Any:
    """A SentenceTransformer of those modules, saved to `folder`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(modules=[first, *build(first.tokenizer)], device="cpu", **settings)
    model.save_pretrained(str(folder), create_model_card=False)
    return model.eval()


def encoded(model: Any, **options: Any) -> np.ndarray:
    return np.stack([model.encode([text], show_progress_bar=False, **options)[0] for text in TEXTS])


def headed(folder: Path, hidden: torch.Tensor, mask: torch.Tensor, ids: torch.Tensor) -> np.ndarray:
    """What our head makes of given hidden states, the runtime's part included."""
    read = checkpoint.read(folder, recipe=None)
    plan = planning.plan(read)
    head, items = plan.heads["embed"], [Item(ids=row.tolist()) for row in ids]
    with torch.inference_mode():
        rows = HeadsModule(read, plan.parts)(hidden, mask, ids)[plan.tasks.index("embed")].numpy()
    return np.stack(postprocess.answers("embed", head, list(rows), items, [PoolingParams()] * len(items)))


def given(width: int = HIDDEN) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [4, 9, width], two rows of them padded, their mask and ids."""
    generator = torch.Generator().manual_seed(7)
    hidden, ids = (
        torch.randn(4, 9, width, generator=generator),
        torch.randint(9, 100, (4, 9), generator=generator),
    )
    return hidden, (torch.arange(9) < torch.tensor([[9], [1], [5], [9]])).long(), ids


def of_the_modules(model: Any, hidden: torch.Tensor, mask: torch.Tensor, ids: torch.Tensor) -> np.ndarray:
    """The library's own modules behind its transformer, one text at a time, as a
    convolution sees what pads a batch."""
    rows = []
    for row in range(len(hidden)):
        count = int(mask[row].sum())
        features = {
            "token_embeddings": hidden[row : row + 1, :count],
            "attention_mask": mask[row : row + 1, :count],
        }
        features["input_ids"] = ids[row : row + 1, :count]
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # softmax without a dim
            for module in list(model)[1:]:
                features = module(features)
        rows.append(features["sentence_embedding"][0].numpy())
    return np.stack(rows)


WHOLE = ("normalize before dense", "dense on both sides", "word weights")
"""Those that are compared from text to vector too."""


@pytest.mark.parametrize("name", CHAINS)
def test_modules_are_computed_in_their_order(name: str, first: Any, tmp_path: Path):
    model = written(tmp_path, first, CHAINS[name])
    np.testing.assert_allclose(headed(tmp_path, *given()), of_the_modules(model, *given()), atol=CLOSE)
    if name in WHOLE:
        np.testing.assert_allclose(
            np.stack(prove(tmp_path).answers("embed", list(TEXTS))), encoded(model), atol=CLOSE
        )


ACTIVATIONS = [
    "Threshold", "RReLU", "Hardtanh", "ReLU6", "Hardsigmoid", "Mish", "Hardswish", "ELU", "CELU", "SELU",
    "GLU", "Hardshrink", "LeakyReLU",
    "LogSigmoid", "Softplus", "Softshrink", "PReLU", "Softsign", "Tanhshrink", "Softmin", "Softmax",
    "Softmax2d", "LogSoftmax",
]  # fmt: skip
WITHOUT_FILE = {"Threshold": "needs arguments", "Softmax2d": "does not take vectors"}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_any_activation_of_torch(name: str, first: Any, tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    folder = tmp_path / "written"
    if name in WITHOUT_FILE:
        written(folder, first, lambda _: [pooling(), dense(HIDDEN, 24)])
        rewrite(folder / "2_Dense/config.json", activation_function=f"torch.nn.modules.activation.{name}")
        with pytest.raises(CheckpointError, match=WITHOUT_FILE[name]):
            prove(folder)
        return
    written(folder, first, lambda _: [pooling(), dense(HIDDEN, 24, getattr(nn, name)())])
    # Loaded again: RReLU and its like are as their file tells, not as they were built.
    again = SentenceTransformer(str(folder), device="cpu").eval()
    np.testing.assert_allclose(headed(folder, *given()), of_the_modules(again, *given()), atol=CLOSE)


def rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_activations_outside_torch_are_refused(first: Any, tmp_path: Path):
    written(tmp_path, first, lambda _: [pooling(), dense(HIDDEN, 24)])
    for name in (
        "custom.Swish",
        "torch.tanh",
        "torch.nn.functional.relu",
        "transformers.activations.GELUActivation",
    ):
        rewrite(tmp_path / "2_Dense/config.json", activation_function=name)
        with pytest.raises(CheckpointError, match="no other code is run"):
            prove(tmp_path)


def test_dense_without_activation_function_is_a_tanh(first: Any, tmp_path: Path):
    model = written(tmp_path, first, lambda _: [pooling(), dense(HIDDEN, 24)])
    path = tmp_path / "2_Dense/config.json"
    path.write_text(
        json.dumps(
            {
                key: value
                for key, value in json.loads(path.read_text()).items()
                if key != "activation_function"
            }
        )
    )
    np.testing.assert_allclose(
        np.stack(prove(tmp_path).answers("embed", list(TEXTS))), encoded(model), atol=CLOSE
    )


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_mean_of_layers_is_taken_when_the_model_hands_them_on(
    start: int, checkpoints: Paths, tmp_path: Path
):
    """Exported: ONNX has to carry the hidden states of every layer."""
    from sentence_transformers.base.modules import Transformer

    handing = Transformer(str(checkpoints("minilm_like")), config_kwargs={"output_hidden_states": True})
    model = written(
        tmp_path / "written",
        handing,
        lambda _: [layer_weights(start), dense(HIDDEN, 24, **TOKENS), pooling(24)],
    )
    proved = prove(tmp_path / "written", tmp_path if start == 1 else None)
    np.testing.assert_allclose(np.stack(proved.answers("embed", list(TEXTS))), encoded(model), atol=CLOSE)


def old(folder: Path) -> None:
    """The same folder as versions before 6 wrote it."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rsplit('.', 1)[-1]}"
        settings = folder / module["path"] / "config.json"
        if module["path"] and settings.is_file():
            known = json.loads(settings.read_text())
            if "pooling_mode" in known:
                mode = known.pop("pooling_mode")
                flags = {
                    f"pooling_mode_{OLD.get(name, name)}": True
                    for name in ([mode] if isinstance(mode, str) else mode)
                }
                known = {"word_embedding_dimension": known["embedding_dimension"], **flags}
            for name in ("module_input_name", "module_output_name"):
                if known.get(name) == "sentence_embedding":
                    del known[name]
            settings.write_text(json.dumps(known))
    path.write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 64, "do_lower_case": False})
    )


OLD = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "max": "max_tokens",
    "lasttoken": "lasttoken",
    "weightedmean": "weightedmean_tokens",
}


@pytest.mark.parametrize(
    "name",
    ["normalize before dense", "layer norm", "dense on tokens twice", "dense on both sides", "two poolings"],
)
def test_old_folders_are_read_in_their_order_too(name: str, first: Any, tmp_path: Path):
    model = written(tmp_path, first, CHAINS[name])
    old(tmp_path)
    np.testing.assert_allclose(headed(tmp_path, *given()), of_the_modules(model, *given()), atol=CLOSE)


@pytest.mark.parametrize("ends", ["normalize", "layer norm"])
def test_truncate_dim_cuts_what_the_modules_made(ends: str, first: Any, tmp_path: Path):
    last = normalize() if ends == "normalize" else norm(HIDDEN)
    model = written(tmp_path, first, lambda _: [pooling(), last], truncate_dim=24)
    proved = prove(tmp_path)
    np.testing.assert_allclose(np.stack(proved.answers("embed", list(TEXTS))), encoded(model), atol=CLOSE)
    assert proved.plan.heads["embed"].dimensions == 24
    wide = proved.answers("embed", list(TEXTS), dimensions=HIDDEN)
    np.testing.assert_allclose(np.stack(wide), encoded(model, truncate_dim=HIDDEN), atol=CLOSE)


PROMPTS = {
    "query": "search query: ",
    "document": "passage: ",
    "empty": "",
    "long": "which planet is known " * 5,
}


def test_prompts_that_are_not_pooled(first: Any, tmp_path: Path):
    from poolrt.exporter import pipeline
    from poolrt.runtime import load

    every = pooling(
        HIDDEN,
        ("cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"),
        include_prompt=False,
    )
    model = written(tmp_path / "written", first, lambda _: [every, normalize()], prompts=PROMPTS)
    texts = [
        "mars",
        "the red planet!",
        "mars, known as the red planet, is deep in the passage of a document",
        "",
    ]
    pipeline.export(str(tmp_path / "written"), name="model", out=str(tmp_path))
    with load(tmp_path / "model") as opened:
        for prompt in (None, *PROMPTS):
            expected = np.stack(
                [model.encode([text], prompt_name=prompt, show_progress_bar=False)[0] for text in texts]
            )
            found = opened.embed(texts, prompt_name=prompt, truncate_prompt_tokens=-1)
            np.testing.assert_allclose(np.asarray(found), expected, atol=CLOSE)


def test_what_cannot_be_computed_is_refused_by_name(first: Any, tmp_path: Path):
    """Each is one folder's modules.json with one line changed."""
    written(tmp_path, first, lambda _: [pooling(), dense(HIDDEN, 24)])
    path = tmp_path / "modules.json"
    good = json.loads(path.read_text())
    for name in ("LSTM", "BoW", "WordEmbeddings", "CLIPModel", "StaticThing"):
        path.write_text(json.dumps([good[0], good[1] | {"type": f"sentence_transformers.models.{name}"}]))
        with pytest.raises(CheckpointError, match=name):
            prove(tmp_path)
    for modules, match in (
        (
            [good[0], good[2]],
            "Dense in 2_Dense reads 'sentence_embedding', which no module in front of it writes",
        ),
        ([good[1], good[0]], "expected one transformer, in front of all other modules"),
        ([good[0], good[0]], "expected one transformer, in front of all other modules"),
    ):
        path.write_text(json.dumps(modules))
        with pytest.raises(CheckpointError, match=match):
            prove(tmp_path)


def test_a_transformer_that_hands_on_something_else_is_refused(first: Any, tmp_path: Path):
    written(tmp_path, first, lambda _: [pooling()])
    for changed, match in (
        (
            {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
            "pooler_output",
        ),
        ({"transformer_task": "retrieval"}, "transformer_task 'retrieval'"),
    ):
        good = (tmp_path / "sentence_bert_config.json").read_text()
        rewrite(tmp_path / "sentence_bert_config.json", **changed)
        with pytest.raises(CheckpointError, match=match):
            prove(tmp_path)
        (tmp_path / "sentence_bert_config.json").write_text(good)


MULTI: dict[str, Build] = {
    "one": lambda _: [dense(HIDDEN, 24, nn.Identity(), bias=False, **TOKENS), mask(),
    normalize("token_embeddings")],
    "two": lambda _: [
        dense(HIDDEN, 32, nn.GELU(), **TOKENS), dense(32, 16, use_residual=True, **TOKENS), mask(),
        normalize("token_embeddings"),
    ],
    "normalised between": lambda _: [normalize("token_embeddings"), dense(HIDDEN, 24, **TOKENS), mask()],
    "not normalised": lambda _: [mask(), dense(HIDDEN, 24, **TOKENS)],
    "no projection": lambda _: [mask(), normalize("token_embeddings")],
    "pooled beside": lambda _: [dense(HIDDEN, 24, **TOKENS), pooling(24), normalize(), mask(),
    normalize("token_embeddings")],
    "kept aside": lambda _: [dense(HIDDEN, 24, **TOKENS, module_output_name="aside"), mask(),
    normalize("token_embeddings")],
}  # fmt: skip


def mask() -> Any:
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    return MultiVectorMask(skiplist_words=["!", ","])


@pytest.mark.parametrize("name", MULTI)
def test_multi_vector_modules_are_computed_in_their_order(name: str, first: Any, tmp_path: Path):
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(modules=[first, *MULTI[name](first.tokenizer)], device="cpu")
    model.save_pretrained(str(tmp_path), create_model_card=False)
    proved = prove(tmp_path)
    for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
        expected = [
            np.asarray(encode([text], convert_to_numpy=True, show_progress_bar=False)[0]) for text in TEXTS
        ]
        for ours, theirs in zip(proved.answers("token_embed", list(TEXTS), role=role), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=CLOSE)


@pytest.mark.parametrize("settings", [{}, {"k": 3}, {"normalize": True}, {"max_active_dims": 5}], ids=str)
def test_sparse_codes(settings: dict[str, Any], first: Any, tmp_path: Path):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    count = settings.get("max_active_dims")
    own = {key: value for key, value in settings.items() if key != "max_active_dims"}
    coder = randomise(SparseAutoEncoder(HIDDEN, hidden_dim=128, k_aux=16, **own), seed=5)
    model = SparseEncoder(modules=[first, pooling(), coder], device="cpu", max_active_dims=count)
    model.save_pretrained(str(tmp_path), create_model_card=False)
    proved = prove(tmp_path, tmp_path if settings == {"normalize": True} else None)
    assert proved.plan.heads["embed"].sparse
    expected = [
        model.encode([text], convert_to_sparse_tensor=False, show_progress_bar=False)[0].numpy()
        for text in TEXTS
    ]
    np.testing.assert_allclose(np.stack(proved.answers("embed", list(TEXTS))), np.stack(expected), atol=CLOSE)
    assert {int((vector != 0).sum()) for vector in expected} <= set(range(1, 9))


@pytest.mark.parametrize("behind", ["nothing", "normalize", "few"])
def test_splade_with_modules_behind_it(behind: str, tmp_path: Path):
    from sentence_transformers import SparseEncoder

    from tests.families import find

    folder = find("splade_bert")(tmp_path / "checkpoint")
    model = SparseEncoder(str(folder), device="cpu", max_active_dims=4 if behind == "few" else None)
    if behind == "normalize":
        model.append(normalize())
    model.save_pretrained(str(tmp_path / "written"), create_model_card=False)
    expected = [
        model.encode([text], convert_to_sparse_tensor=False, show_progress_bar=False)[0].numpy()
        for text in TEXTS
    ]
    found = prove(tmp_path / "written").answers("embed", list(TEXTS))
    np.testing.assert_allclose(np.stack(found), np.stack(expected), rtol=1e-4, atol=CLOSE)
