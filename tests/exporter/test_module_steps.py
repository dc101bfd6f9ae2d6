"""Which of Sentence Transformers' modules make an answer, with which tensors, and what each one computes:
the library's own, alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from poolrt.exporter.files import module_chain
from poolrt.exporter.files.sentence_files import POOLED, SCORES, TOKENS, Module, SentenceFiles
from poolrt.exporter.heads import operations, sentence_modules
from poolrt.exporter.heads.layers import Operation
from poolrt.runtime.errors import CheckpointError
from safetensors.torch import save_file

ASIDE = "aside"


def module(
    kind: str, reads: str = POOLED, writes: str | None = None, folder: str = "", **settings: Any
) -> Module:
    return Module(
        kind=kind, folder=folder or kind.lower(), reads=reads, writes=writes or reads, settings=settings
    )


def transformer(writes: str = TOKENS) -> Module:
    return Module(kind="Transformer", folder="", reads="", writes=writes, settings={})


def pooling(kind: str = "Pooling") -> Module:
    return module(kind, TOKENS, POOLED)


def files(*modules: Module, kind: str = "", **text: Any) -> SentenceFiles:
    return SentenceFiles(
        generation=6, kind=kind, chain=modules, max_tokens=None, lowercase=False, prompts={},
        default_prompt=None, settings={},
        answers=None, text=text, mask=None,
    )  # fmt: skip


def names(modules: tuple[Module, ...]) -> list[str]:
    return [each.folder for each in modules]


# --- the way to an answer
# ------------------------------------------------------------------------------------------------------------


def test_only_modules_on_the_way_count():
    chain = files(
        transformer(), module("Dense", TOKENS, folder="on tokens"),
        module("Dense", TOKENS, ASIDE, folder="beside"), module("Dropout"),
        module("MultiVectorMask", TOKENS, flag=False), module("Normalize"), pooling(),
        module("Dense", folder="on the vector"),
        module("Normalize", ASIDE, folder="of the other"),
    )  # fmt: skip
    found = module_chain.route(chain, POOLED)
    assert found is not None
    assert (found.source, found.task) == (TOKENS, "feature-extraction")
    assert (names(found.tokens), names(found.pooled)) == (["on tokens"], ["on the vector"])
    assert found.pooling == pooling()
    aside = module_chain.route(chain, ASIDE)
    assert aside is not None
    assert (names(aside.tokens), aside.pooling, aside.pooled) == (
        ["on tokens", "beside", "of the other"],
        None,
        (),
    )
    assert module_chain.route(chain, SCORES) is None


def test_layers_are_mixed_from_the_transformer_on_where_it_hands_them_on():
    mix = module("WeightedLayerPooling", TOKENS)
    chain = files(transformer(), module("Dense", TOKENS, folder="lost"), mix, pooling())
    for all_layers, kept in ((True, ["weightedlayerpooling"]), (False, ["lost"])):
        found = module_chain.route(chain, POOLED, all_layers=all_layers)
        assert found is not None
        assert names(found.tokens) == kept


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([], "expected one transformer, in front"),
        ([pooling(), transformer()], "Pooling → Transformer; expected one transformer"),
        ([transformer(), transformer()], "expected one transformer"),
        (
            [transformer(), module("Dense")],
            "Dense in dense reads 'sentence_embedding', which no module in front of it writes",
        ),
        (
            [transformer(), module("Dense", TOKENS, "attention_mask")],
            "writes 'attention_mask', which the library keeps for itself",
        ),
        ([transformer(), module("Dense", TOKENS, "all_layer_embeddings")], "keeps for itself"),
        (
            [transformer(), module("MultiVectorMask", TOKENS, skip=[1]), pooling()],
            "behind a MultiVectorMask that leaves tokens out",
        ),
        ([transformer(), pooling(), module("Pooling", POOLED, POOLED)], "takes a pooled vector for tokens"),
        ([transformer(), pooling(), module("Dense", POOLED, TOKENS)], "takes a pooled vector for tokens"),
        (
            [transformer(), pooling("SpladePooling"), module("SpladePooling", POOLED, ASIDE)],
            "takes a pooled vector for tokens",
        ),
        (
            [transformer(), module("WordWeights", TOKENS, ASIDE), pooling()],
            "does not pool what WordWeights made",
        ),
        ([transformer("pixels"), module("Pooling", "pixels", POOLED)], "module_output_name 'pixels'"),
    ],
)
def test_chains_that_the_library_or_poolrt_does_not_run(modules: list[Module], told: str):
    with pytest.raises(CheckpointError, match=told):
        module_chain.route(files(*modules), POOLED)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ({"transformer_task": "question-answering"},
        "transformer_task 'question-answering'; expected one of feature-extraction, fill-mask"),
        ({"modality_config": {"text": {"method": "encode", "method_output_name": "last_hidden_state"}}},
        "texts go through encode"),
        ({"modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}},
        "become its logits"),
        ({"modality_config": {"message": {"method": "forward", "method_output_name": "x"}}}, "become its x"),
        ({"modality_config": {"image": {"method": "forward"}}}, "texts go through None"),
        ({"transformer_task": "fill-mask",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}},
         "knows forward and logits"),
    ],
)  # fmt: skip
def test_transformers_that_hand_on_something_else(text: dict[str, Any], told: str):
    with pytest.raises(CheckpointError, match=told):
        module_chain.route(files(transformer(), pooling(), **text), POOLED)
    given: dict[str, Any] = {
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    }
    for settings in ({}, given):
        assert module_chain.route(files(transformer(), pooling(), **settings), POOLED) is not None
    assert module_chain.route(files(transformer(POOLED)), POOLED) is not None
    with pytest.raises(CheckpointError, match="become its last_hidden_state as 'sentence_embedding'"):
        module_chain.route(files(transformer(POOLED), **given), POOLED)


def test_scores_are_those_of_cross_encoders_made_of_modules():
    last = module("Dense", POOLED, SCORES, folder="last")
    for kind, expected in (("CrossEncoder", ["last"]), ("", ["last"]), ("SentenceTransformer", None)):
        found = module_chain.scores(files(transformer(), pooling(), last, kind=kind))
        assert (None if found is None else names(found.pooled)) == expected
    assert module_chain.scores(files(transformer(SCORES))) is None
    assert (
        module_chain.scores(
            files(transformer(), pooling(), last, module("LogitScore", "causal_logits", SCORES))
        )
        is None
    )
    assert module_chain.scores(files(transformer(), pooling())) is None


# --- tensors
# ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """A checkpoint with module folders, as far as modules look at it: 5 tokens, 3 layers, width 6."""
    folders = {
        "words": {"emb_layer.weight": torch.arange(5.0)[:, None]},
        "few": {"emb_layer.weight": torch.ones(4, 1)},
        "mix": {"layer_weights": torch.tensor([1.0, 2.0, 5.0])}, "empty": {"other": torch.ones(1)},
    }  # fmt: skip
    for folder, tensors in folders.items():
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
    return SimpleNamespace(
        source="here", beside=tmp_path, folder=tmp_path, architecture="BertModel",
        number={"num_hidden_layers": 3, "hidden_size": 6}.get,
        sentence=SimpleNamespace(settings={}), config={},
        family=SimpleNamespace(width=None, vocabulary=(), names=("BertModel",)),
        text=SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 4, "b": 0})),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "step", "width"),
    [
        (module("Normalize"), Operation(kind="normalize"), 6),
        (module("WordWeights", folder="words"), Operation(kind="word_weights", where="words"), 6),
        (module("WeightedLayerPooling", folder="mix", layer_start=1),
        Operation(kind="layer_mix", where="mix", number=1), 6),
        (module("CNN", folder="cnn"), Operation(kind="convolve", where="cnn"), 768),
        (module("CNN", folder="cnn", kernel_sizes=[3], out_channels=4, stride_sizes=[1],
        in_embedding_dimension=6),
         Operation(kind="convolve", where="cnn"), 4),
        (module("SparseAutoEncoder", folder="sae", input_dim=6),
        Operation(kind="code", where="sae", number=8), 512),
        (module("SparseAutoEncoder", folder="sae", input_dim=6, k=2, hidden_dim=9, normalize=True),
         Operation(kind="code", where="sae", number=2, flag=True), 9),
    ],
)  # fmt: skip
def test_the_step_of_a_module_and_its_width(read: Any, asked: Module, step: Operation, width: int):
    assert sentence_modules.steps(read, [asked], 6) == ((step,), width)


def test_active_values_are_those_of_the_whole_model(read: Any):
    read.sentence.settings["max_active_dims"] = 3
    ((step,), _) = sentence_modules.steps(read, [module("SparseAutoEncoder", input_dim=6, k=2)], 6)
    assert isinstance(step, Operation)
    assert step.number == 3


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (module("WordWeights", folder="few"), "weighs 4 tokens, the vocabulary goes up to id 4"),
        (module("WordWeights", folder="empty"), "weighs 0 tokens"),
        (module("WeightedLayerPooling", folder="mix"),
        "weighs 3 layers from layer 4 on, the transformer has 0"),
        (module("WeightedLayerPooling", folder="mix", layer_start=0),
        "weighs 3 layers from layer 0 on, the transformer has 4"),
        (module("WeightedLayerPooling", folder="empty", layer_start=1), "weighs 0 layers"),
        (module("CNN", kernel_sizes=[3, 2]), "expected odd kernels"),
        (module("CNN", stride_sizes=[2]), "strides of 1"),
        (module("CNN", in_embedding_dimension=5), "over 6 values"),
        (module("CNN", out_channels=0), "out_channels is 0, expected a count"),
        (module("SparseAutoEncoder", input_dim=5), "reads 5 values, there are 6"),
        (module("Dropout"), "does not know what it does there"),
        (module("HierarchicalTokenPooling", pool_factor=2), "joins token vectors"),
        (module("HierarchicalTokenPooling", normalize_embeddings=True), "joins token vectors"),
    ],
)  # fmt: skip
def test_modules_that_do_not_fit_are_refused(read: Any, asked: Module, told: str):
    with pytest.raises(CheckpointError, match=told):
        sentence_modules.steps(read, [asked], 6)


def test_a_token_pooling_that_joins_nothing_passes(read: Any):
    nothing: tuple[dict[str, Any], ...] = ({}, {"pool_factor": 1})
    for settings in nothing:
        assert sentence_modules.steps(read, [module("HierarchicalTokenPooling", TOKENS, **settings)], 6) == (
            (),
            6,
        )
    both = [
        module("Normalize", TOKENS),
        module("HierarchicalTokenPooling", TOKENS, normalize_embeddings=True),
    ]
    assert sentence_modules.steps(read, both, 6) == ((Operation(kind="normalize"),), 6)


def test_normalisations_at_the_end_are_the_runtime_s():
    dense, normalize = module("Dense"), module("Normalize")
    assert sentence_modules.split([dense, normalize, normalize]) == ((dense,), True)
    assert sentence_modules.split([normalize, dense]) == ((normalize, dense), False)
    assert sentence_modules.split([normalize]) == ((), True)
    assert sentence_modules.split([]) == ((), False)


def test_a_layer_is_what_its_settings_say():
    plain = sentence_modules._layer(module("Dense"))
    assert (plain.activation, plain.bias, plain.residual, plain.kind) == (
        "torch.nn.modules.activation.Tanh",
        True,
        False,
        "linear",
    )
    assert {plain.name, *plain.names} == {"linear", "dense", ""}
    other = sentence_modules._layer(module("Dense", activation_function=None, bias=False, use_residual=True))
    assert (other.activation, other.bias, other.residual, other.where) == ("identity", False, True, "dense")
    norm = sentence_modules._layer(module("LayerNorm"))
    assert (norm.name, norm.where, norm.kind) == ("norm", "layernorm", "layer_norm")


def test_what_a_transformer_s_own_head_makes(read: Any):
    def route(task: str) -> module_chain.Route:
        return module_chain.Route(source=TOKENS, task=task)

    assert sentence_modules.source(read, None) == ((), 6)
    assert sentence_modules.source(read, route("feature-extraction")) == ((), 6)
    with pytest.raises(CheckpointError, match="BertModel has no masked-language-model head"):
        sentence_modules.source(read, route("fill-mask"))
    with pytest.raises(CheckpointError, match="a transformer for text-generation"):
        sentence_modules.source(read, route("text-generation"))
    assert sentence_modules.mixes(read) is False
    read.config["output_hidden_states"] = True
    assert sentence_modules.mixes(read) is True


# --- numbers
# ------------------------------------------------------------------------------------------------------------

VALUES = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(5))
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def operation(read: Any, kind: Any, folder: str = "", **settings: Any) -> torch.nn.Module:
    return operations.OPERATIONS[kind](read, Operation(kind=kind, where=folder, **settings))


def saved(read: Any, model: Any) -> str:
    folder = read.folder / "saved"
    folder.mkdir()
    model.save(str(folder))
    return "saved"


def test_convolutions_are_the_library_s(read: Any):
    from sentence_transformers.sentence_transformer.modules import CNN

    torch.manual_seed(0)
    model = CNN(6, out_channels=4, kernel_sizes=[1, 3, 5])
    found = operation(read, "convolve", saved(read, model))(VALUES, MASK)
    for row, length in ((0, 5), (1, 2)):  # each text alone, without padding
        expected = model({"token_embeddings": VALUES[row : row + 1, :length]})["token_embeddings"][0]
        torch.testing.assert_close(found[row, :length], expected)


@pytest.mark.parametrize("normalize", [True, False])
def test_sparse_codes_are_the_library_s(read: Any, normalize: bool):
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    torch.manual_seed(0)
    model = SparseAutoEncoder(input_dim=6, hidden_dim=16, k=3, k_aux=4, normalize=normalize)
    with torch.no_grad():
        model.pre_bias.normal_()
        model.latent_bias.normal_()
    found = operation(read, "code", saved(read, model), number=3, flag=normalize)(VALUES[0])
    expected = model.eval()({"sentence_embedding": VALUES[0]})["sentence_embedding"]
    torch.testing.assert_close(found, expected.to_dense())
    assert ((found > 0).sum(-1) <= 3).all()


def test_small_operations(read: Any):
    one = VALUES[0]
    torch.testing.assert_close(operation(read, "normalize")(VALUES).norm(dim=-1), torch.ones(2, 5))
    ids = torch.tensor([[4, 0, 3]])
    assert operation(read, "word_weights", "words")(ids).tolist() == [[4.0, 0.0, 3.0]]
    layers = torch.randn(4, 2, 5, 6)
    expected = (1 * layers[1] + 2 * layers[2] + 5 * layers[3]) / 8
    torch.testing.assert_close(operation(read, "layer_mix", "mix", number=1)(layers), expected)
    kept = operation(read, "largest", number=2)(one)
    assert ((kept != 0).sum(-1) == 2).all()
    torch.testing.assert_close(kept.sum(-1), one.topk(2).values.sum(-1))
    torch.testing.assert_close(operation(read, "largest", number=6)(one), one)
    torch.testing.assert_close(operation(read, "largest", number=7)(one), one)
    torch.testing.assert_close(operation(read, "log1p_relu")(one), torch.log(1 + one.clamp(min=0)))
    torch.testing.assert_close(operation(read, "scale", number=0.3)(one), one * 0.3)
    torch.testing.assert_close(operation(read, "cap", number=2.0)(one * 9), 2 * torch.tanh(one * 4.5))
    torch.testing.assert_close(operation(read, "subtract")(one[:, :2])[:, 0], one[:, 0] - one[:, 1])
    with pytest.raises(CheckpointError, match="here: missing layer_weights in words"):
        operation(read, "layer_mix", "words")
