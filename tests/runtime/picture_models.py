"""Tiny artifacts of models that read pictures, with graphs made by hand, and what they compute in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from poolrt.exporter.base.artifact import draft
from poolrt.runtime.artifact.images import Images, Patches, Videos
from poolrt.runtime.artifact.manifest import (
    FORMAT,
    Graph,
    Head,
    Manifest,
    Role,
    Source,
    Tensor,
    TextPreparation,
)
from poolrt.runtime.inputs.items import Item, VisionItem
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WIDTH = 8
PATCH = 4
VALUES = 3 * 2 * PATCH * PATCH
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
START, END = "<|vision_start|>", "<|vision_end|>"
TEXT = (
    "a red blue green page of text query document yes no what is on the system user assistant judge "
    "passage Represent input . : seconds < > 0 1 2 3 4 5 6 7 8 9 words more and so long that it must be cut"
)
WORDS = TEXT.split()
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", START, END, IMAGE, VIDEO, "<|im_start|>", "<|im_end|>")

PICTURES = Images(
    scheme="patches",
    resample="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    patches=Patches(size=PATCH, merge=2, temporal=2, min_pixels=64, max_pixels=64 * 32),
    placeholder=f"{START}{IMAGE}{END}",
    token=IMAGE,
    videos=Videos(
        placeholder=f"{START}{VIDEO}{END}",
        token=VIDEO,
        frame_text=f"<{{seconds}} seconds>{START}{{tokens}}{END}",
        fps=2.0,
        min_frames=4,
        max_frames=8,
        min_pixels=64,
        max_pixels=64 * 64,
    ),
)
APART = Images(
    scheme="fixed",
    resample="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    height=8,
    width=8,
    tokens=1,
    cost=4,
    apart=True,
    most=1,
)
TEMPLATE = (
    "<|im_start|>system {{ instruction }}<|im_end|><|im_start|>user {{ media }}{{ text or 'no text' }}"
    "<|im_end|>"
)


def weights(name: str, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(len(name) * 1000 + sum(map(ord, name))).normal(size=shape).astype(np.float32)


TABLE = weights("table", len(SPECIAL) + len(WORDS), WIDTH)
SEE = weights("see", VALUES, WIDTH) / 8
PLACES = weights("places", 4, WIDTH) / 16
AXES = np.array([0.01, 0.02, 0.05], np.float32)
LOGIT = weights("logit", WIDTH, 1)
EYE = weights("eye", 3 * 8 * 8, WIDTH) / 8


# What the graphs compute, in numpy


def seen(item: VisionItem) -> NDArray[np.float32]:
    """[rows, WIDTH]: the features of one picture."""
    patches = item.arrays["pixel_values"] @ SEE + item.arrays["patch_positions"].astype(np.float32) @ PLACES
    return patches.reshape(-1, 4, WIDTH).mean(axis=1) + patches.mean(axis=0)


def read(item: Item) -> NDArray[np.float32]:
    """[tokens, WIDTH]: the rows of one prompt."""
    rows = TABLE[item.ids].copy()
    if item.vision:
        assert item.feature_places is not None
        rows[item.feature_places] = np.concatenate([seen(picture) for picture in item.vision])
    positions = np.tile(np.arange(len(item.ids)), (3, 1)) if item.positions is None else item.positions
    return rows + (positions * AXES[:, None]).sum(axis=0)[:, None].astype(np.float32)


# The graphs


def _model(
    nodes: list[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor], constants: dict[str, Any]
) -> Any:
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}

    def info(tensor: Tensor) -> Any:
        return helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], list(tensor.axes))

    graph = helper.make_graph(
        nodes,
        "tiny",
        [info(tensor) for tensor in inputs],
        [info(tensor) for tensor in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _n(operation: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operation, inputs.split(), [output], **attributes)


IDS = Tensor(name="input_ids", dtype="int64", axes=("batch", "tokens"))
MASK = Tensor(name="attention_mask", dtype="int64", axes=("batch", "tokens"))
TEXT_OUTPUTS = (
    Tensor(name="out_embed", dtype="float32", axes=("batch", WIDTH)),
    Tensor(name="out_tokens", dtype="float32", axes=("batch", "tokens", WIDTH)),
    Tensor(name="out_classify", dtype="float32", axes=("batch", 1)),
)


def _text_graph(*, pictures: bool) -> tuple[Any, Graph]:
    inputs = [IDS, MASK]
    nodes = [_n("Gather", "table input_ids", "words")]
    if pictures:
        inputs += [
            Tensor(name="features", dtype="float32", axes=("features", WIDTH)),
            Tensor(name="feature_index", dtype="int64", axes=("batch", "tokens")),
            Tensor(name="position_ids", dtype="int64", axes=("batch", 3, "tokens")),
        ]
        nodes += [
            _n("Gather", "features feature_index", "pictures"),
            _n("Greater", "feature_index zero", "is_picture"),
            _n("Unsqueeze", "is_picture last", "where"),
            _n("Where", "where pictures words", "merged"),
            _n("Cast", "position_ids", "floats", to=TensorProto.FLOAT),
            _n("Mul", "floats axes", "scaled"),
            _n("ReduceSum", "scaled first", "shift", keepdims=0),
            _n("Unsqueeze", "shift last", "shifts"),
            _n("Add", "merged shifts", "rows"),
        ]
    else:
        nodes.append(_n("Identity", "words", "rows"))
    nodes += [
        _n("Cast", "attention_mask", "mask", to=TensorProto.FLOAT),
        _n("Unsqueeze", "mask last", "masks"),
        _n("Mul", "rows masks", "out_tokens"),
        _n("ReduceSum", "out_tokens first", "sums", keepdims=0),
        _n("ReduceSum", "masks first", "counts", keepdims=0),
        _n("Div", "sums counts", "out_embed"),
        _n("MatMul", "out_embed logit", "out_classify"),
    ]
    constants = {
        "table": TABLE,
        "zero": np.int64(0),
        "last": np.array([-1]),
        "first": np.array([1]),
        "axes": AXES[None, :, None],
        "logit": LOGIT,
    }
    graph = Graph(file="text.onnx", precision="fp32", opset=20, inputs=tuple(inputs), outputs=TEXT_OUTPUTS)
    return _model(nodes, inputs, TEXT_OUTPUTS, constants), graph


def _vision_graph(images: Images) -> tuple[Any, Graph]:
    if images.apart:
        inputs = [Tensor(name="pixel_values", dtype="float32", axes=("batch", 3, 8, 8))]
        outputs = (Tensor(name="out_embed", dtype="float32", axes=("batch", WIDTH)),)
        nodes = [_n("Reshape", "pixel_values flat", "values"), _n("MatMul", "values eye", "out_embed")]
        constants: dict[str, Any] = {"flat": np.array([-1, 3 * 8 * 8]), "eye": EYE}
    else:
        inputs = [
            Tensor(name="pixel_values", dtype="float32", axes=("batch", "patches", VALUES)),
            Tensor(name="patch_positions", dtype="int64", axes=("batch", "patches", 4)),
            Tensor(name="patch_mask", dtype="int64", axes=("batch", "patches")),
        ]
        outputs = (Tensor(name="features", dtype="float32", axes=("batch", "rows", WIDTH)),)
        nodes = [
            _n("MatMul", "pixel_values see", "values"),
            _n("Cast", "patch_positions", "floats", to=TensorProto.FLOAT),
            _n("MatMul", "floats places", "shifts"),
            _n("Add", "values shifts", "patches_"),
            _n("Cast", "patch_mask", "mask", to=TensorProto.FLOAT),
            _n("Unsqueeze", "mask last", "masks"),
            _n("Mul", "patches_ masks", "masked"),
            _n("ReduceSum", "masked first", "sums", keepdims=1),
            _n("ReduceSum", "masks first", "counts", keepdims=1),
            _n("Div", "sums counts", "mean"),
            _n("Reshape", "patches_ blocks", "grouped"),
            _n("ReduceMean", "grouped second", "merged", keepdims=0),
            _n("Add", "merged mean", "features"),
        ]
        constants = {
            "see": SEE,
            "places": PLACES,
            "last": np.array([-1]),
            "first": np.array([1]),
            "second": np.array([2]),
            "blocks": np.array([0, -1, 4, WIDTH]),
        }
    graph = Graph(
        role="vision", file="vision.onnx", precision="fp32", opset=20, inputs=tuple(inputs), outputs=outputs
    )
    return _model(nodes, inputs, outputs, constants), graph


def tokenizer() -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return tokenizer


def write(
    out: Path,
    *,
    images: Images | None = PICTURES,
    name: str = "tiny",
    scoring: str = "bi-encoder",
    roles: dict[str, Role] | None = None,
    score_template: str | None = None,
    chat_template: str | None = None,
    **text: Any,
) -> Path:
    """Writes the artifact and returns its folder."""
    heads = {
        "bi-encoder": {"embed": Head(output="out_embed", dim=WIDTH, pool="mean", activation="l2")},
        "late-interaction": {
            "token_embed": Head(output="out_tokens", dim=WIDTH, pool="tokens", activation="l2")
        },
        "cross-encoder": {"classify": Head(output="out_classify", dim=1, pool="mean", activation="sigmoid")},
    }
    tasks = {"bi-encoder": "embed", "late-interaction": "token_embed", "cross-encoder": "classify"}
    with draft(out, name) as drafted:
        model, graph = _text_graph(pictures=images is not None and not images.apart)
        onnx.save(model, drafted.folder / graph.file)
        graphs = [graph]
        if images is not None:
            model, graph = _vision_graph(images)
            onnx.save(model, drafted.folder / graph.file)
            graphs.append(graph)
        tokenizer().save(str(drafted.folder / "tokenizer.json"))
        for file, template in (("score.jinja", score_template), ("chat.jinja", chat_template)):
            if template is not None:
                (drafted.folder / file).write_text(template)
        preparation = TextPreparation(
            max_tokens=256,
            vocab_size=len(TABLE),
            pad_id=0,
            roles=roles or {},
            special_tokens={"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"},
            score_template=None if score_template is None else "score.jinja",
            chat_template=None if chat_template is None else "chat.jinja",
        )
        return drafted.commit(
            Manifest(
                format=FORMAT,
                name=name,
                architecture="CLIPModel" if images is not None and images.apart else "TinyVLModel",
                source=Source(checkpoint="tiny"),
                tasks=(tasks[scoring],),  # pyright: ignore[reportArgumentType]
                scoring=scoring,  # pyright: ignore[reportArgumentType]
                text=replace(preparation, **text),
                images=images,
                graphs=tuple(graphs),
                heads=heads[scoring],
            )
        )
