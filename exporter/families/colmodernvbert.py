"""ColModernVBERT (https://arxiv.org/abs/2510.01149): a SigLIP tower over tiles, a pixel shuffle, ModernBERT,
and one vector of each token.

It is published in two layouts: transformers' own (`colmodernvbert` around `vlm_config`), and that of
colpali-engine, flat (`modernvbert`, often without `architectures`), whose oldest files hold the vocabulary in
two tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...runtime.artifact.images import Images, Tiling
from ...runtime.artifact.manifest import Role
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _pages
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

CLASSES = ("ColModernVBertForRetrieval", "ColModernVBert")
PREFIXES = ("base_model.model.", "vlm.", "model.")
NAMES = (
    ("vision_model.vision_model.", "vision_model."),
    ("connector.modality_projection.proj.", "connector.modality_projection."),
)
"""Beginnings of tensor names behind the prefixes: of older files and of today's transformers."""
UNUSED = ("vision_model.head.", "lm_head.")
TABLE, MORE = (f"text_model.embeddings.tok_embeddings.{name}weight" for name in ("", "additional_embedding."))
"""The vocabulary, and its last rows where a file keeps them apart."""
SPELLINGS = {"embed_dim": "hidden_size"}
"""Keys of the oldest vision settings -> today's."""
AUGMENTATION = "<end_of_utterance>" * 10
"""Behind a query, attended to."""
PROMPT = "<|begin_of_text|>User:<image>Describe the image.<end_of_utterance>\nAssistant:"
"""Around a page."""
DESCRIBE = "Describe the image."


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether config.json says ColModernVBERT, or is ModernVBERT's beside a projection of tokens."""
    return config.get("model_type") == "colmodernvbert" or _pages.projected(shapes)


def translate(config: Config) -> Config:
    """ModernVBERT's settings as `vlm_config`, and those of its text model at the top."""
    inner = dict(config.get("vlm_config") or config)
    text, vision = dict(inner.get("text_config") or {}), dict(inner.get("vision_config") or {})
    vision = {SPELLINGS.get(key, key): value for key, value in vision.items()} | {"vision_use_head": False}
    image_id = int(inner.get("image_token_id", 50407))
    kept = {key: inner[key] for key in ("image_token_id", "pixel_shuffle_factor") if key in inner}
    return {
        **_pages.flat(config, text, width=768, rows=50368, image_id=image_id),
        "model_type": "colmodernvbert",
        "architectures": list(CLASSES[:1]),
        "vlm_config": kept | {"model_type": "modernvbert", "text_config": text, "vision_config": vision},
    }


def load(files: Files) -> nn.Module:
    from .modules.features import FeatureText

    settings = dict(files.config["vlm_config"])
    # Its rows may lie in two tables, whose sum no file states.
    settings["text_config"] = settings["text_config"] | {"vocab_size": _rows(files)}
    model = backbone(files, "ModernVBertModel", config=settings, rename=_renamed)
    return FeatureText(model.text_model, model.vision_model, model.connector)


def _rows(files: Files) -> int:
    """Rows of the vocabulary. Raises CheckpointError where no tensor holds it."""
    sizes = (
        files.weights.shapes[stored][0]
        for table in (TABLE, MORE)
        if (stored := files.weights.find(table, PREFIXES)) is not None
    )
    rows = sum(sizes)
    if not rows:
        raise CheckpointError(f"{files.source}: the weights lack {TABLE}; download the repository again")
    return rows


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names of today's ModernVBertModel, the vocabulary as one table."""
    import torch

    tensors = _pages.renamed(state, PREFIXES, NAMES, unused=UNUSED)
    if (more := tensors.pop(MORE, None)) is not None:
        tensors[TABLE] = torch.cat((tensors[TABLE], more.to(tensors[TABLE].dtype)))
    return tensors


def images(files: Files) -> Images:
    """Tiles of the tower's size. Raises CheckpointError for tiles that it has no positions for."""
    settings = processor.images(files.source, files.inner)
    vlm = files.config["vlm_config"]
    if settings.stem not in ("", "Idefics3"):
        raise CheckpointError(
            f"{files.source}: {settings.file} names {settings.kind}, whose tiles poolrt does not cut; "
            "expected Idefics3ImageProcessor"
        )
    size = settings.size(default={"longest_edge": 1456})
    side = settings.size("max_image_size", {"longest_edge": 364}).get("longest_edge")
    if not side or not (set(size) == {"height", "width"} or size.get("longest_edge")):
        raise CheckpointError(
            f"{files.source}: {settings.file} has no longest_edge in size and max_image_size, which say how "
            "pictures are cut"
        )
    patches = _pages.square(files, vlm["vision_config"], settings, {"height": side, "width": side})
    tokens = patches // int(vlm.get("pixel_shuffle_factor", 4)) ** 2
    _pages.stated(files, processor.processor(files.source, files.inner), "image_seq_len", tokens)
    token = _pages.placeholder(files, int(vlm.get("image_token_id", 50407)))
    mean, std = settings.normalisation(processor.HALF, processor.HALF)
    around = "<fake_token_around_image>"
    whole = f"{around}<global-img>{{tokens}}{around}"
    return Images(
        scheme="tiles",
        resample=settings.resample("lanczos"),
        kernel=settings.kernel(),
        # The published processor drops transparency before anything else.
        background="none",
        mean=mean,
        std=std,
        height=side,
        width=side,
        squashed=(size["height"], size["width"]) if "height" in size else None,
        resize=settings.flag("do_resize", True),
        tiling=Tiling(
            rule="idefics3",
            longest_edge=size.get("longest_edge", 0),
            split=settings.flag("do_image_splitting", True),
            tile_text=f"{around}<row_{{row}}_col_{{column}}>{{tokens}}",
            row_end="\n",
            overview_text=f"\n{whole}",
            single_text=whole,
        ),
        tokens=tokens,
        cost=patches,
        placeholder=token,
        token=token,
    )


def roles(files: Files) -> dict[str, Role]:
    """Pages are described; questions end in tokens that the model may think in; a document of text is
    plain."""
    settings = processor.processor(files.source, files.inner).values
    prompt = str(settings.get("visual_prompt_prefix") or PROMPT)
    if prompt.count("<image>") != 1:
        raise CheckpointError(
            f"{files.source}: visual_prompt_prefix in processor_config.json is {prompt!r}; expected "
            "one <image> in it"
        )
    before, _, after = prompt.partition("<image>")
    start, middle, end = after.rpartition(DESCRIBE)
    literal, joined = _pages.literal, _pages.joined
    # Text beside a picture takes the place of a page alone is asked.
    words = f"(text or {literal(middle)})" if middle else "text"
    described = joined(literal(before), "media", literal(start), words, literal(end))
    question = joined(literal(str(settings.get("query_prefix") or "")), "text", literal(AUGMENTATION))
    return {
        "query": Role(template=_pages.template(described, question)),
        "document": Role(template=_pages.template(described, "text")),
    }


ARCHITECTURE = _pages.family(
    model_types=("colmodernvbert", "modernvbert"),
    names=CLASSES,
    load=load,
    matches=matches,
    translate=translate,
    prefixes=PREFIXES,
    spelled=lambda name: _pages.spelled(name, PREFIXES, (*NAMES, *_pages.PROJECTIONS)),
    pool="cls",
    images=images,
    roles=roles,
)
