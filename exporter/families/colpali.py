"""ColPali (https://arxiv.org/abs/2407.01449): a SigLIP tower and Gemma (PaliGemma), one vector of each token.

All tokens see one another: transformers' processor marks the whole prompt, queries too, as a prefix. The
tower's features enter as they are, while embeddings of tokens are multiplied by the root of the width.
Residuals exceed float16's range, so lowered precisions are bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import Role
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _pages, _pictures
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

CLASSES = ("ColPaliForRetrieval", "ColPaliModel", "ColPali")
PREFIXES = ("base_model.model.", "vlm.", "model.")
NAMES = (
    ("language_model.model.", "language_model."),
    ("vision_tower.vision_model.", "vision_tower."),
)
"""Beginnings of tensor names behind the prefixes: older transformers' and today's."""
UNUSED = ("lm_head.", "language_model.lm_head.", "vision_tower.head.")
VISION = {"image_size": 224, "patch_size": 16}
"""Defaults of transformers' SiglipVisionConfig, for a tower of which config.json states a part."""
WHOLE_VISION = {**VISION, "patch_size": 14}
"""Those of PaliGemmaConfig, for one of which it states nothing."""
ENGINE = "published_by_colpali_engine"
"""Key of the translated settings: whether colpali-engine's processor is the published one."""
AUGMENTATION = 10
"""Padding tokens behind a query, which are attended to."""


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether config.json says ColPali, or is PaliGemma's beside a projection of tokens (colpali-engine)."""
    return config.get("model_type") == "colpali" or _pages.projected(shapes)


def translate(config: Config) -> Config:
    """PaliGemma's settings as `vlm_config`, those of its text model at the top, and of its tower beside
    them."""
    engine = config.get("model_type") == "paligemma"
    inner = dict(config if engine else config.get("vlm_config") or {})
    image_id = inner.get("image_token_index", inner.get("image_token_id", 256000))
    text = inner.get("text_config") or {}
    return {
        **_pages.flat(config, text, width=2048, rows=257152, image_id=image_id),
        "model_type": "colpali",
        "architectures": list(CLASSES[:1]),
        "vlm_config": inner,
        "vision_config": _pictures.inner(
            inner, "vision_config", VISION if inner.get("vision_config") else WHOLE_VISION
        ),
        "image_token_id": image_id,
        ENGINE: engine,
    }


def load(files: Files) -> nn.Module:
    from .modules.features import FeatureText

    settings = dict(files.config["vlm_config"])
    text = dict(settings.get("text_config") or {})
    if text.get("model_type", "gemma") != "gemma":
        raise CheckpointError(
            f"{files.source}: ColPali over {text['model_type']!r}; expected 'gemma', the text model of "
            "PaliGemma 1"
        )
    settings["text_config"] = text | {"is_causal": False, "use_cache": False}
    settings["vision_config"] = dict(settings.get("vision_config") or {}) | {"vision_use_head": False}
    model = backbone(files, "PaliGemmaModel", config=settings, rename=_renamed)
    return FeatureText(model.language_model, model.vision_tower, model.multi_modal_projector)


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the names of today's PaliGemmaModel."""
    return _pages.renamed(state, PREFIXES, NAMES, unused=UNUSED)


def images(files: Files) -> Images:
    """A picture squashed to the tower's size. Raises CheckpointError for a size that it has no positions
    for."""
    side, patch = _pictures.sides(files)
    tokens = (side // patch) ** 2
    _pages.stated(files, processor.images(files.source, files.inner), "image_seq_length", tokens)
    token = _pages.placeholder(files, files.config["image_token_id"])
    return _pictures.fixed(
        files,
        "Siglip",
        tokens=tokens,
        placeholder=token,
        token=token,
        prompt=_pages.expression("media", _pages.literal(_start(files)), "text", _pages.literal("\n")),
        most=1,
    )


def _start(files: Files) -> str:
    """The first token of a text."""
    return files.text.special.get("bos_token", "")


def roles(files: Files) -> dict[str, Role]:
    """Both sides alike, as the published processor does: a page is described, and text is a question.

    Its strings hold the special tokens, so the tokenizer adds none. colpali-engine's repeats the first one
    behind a page, and has no words around a question.
    """
    settings, engine = processor.processor(files.source, files.inner).values, files.config[ENGINE]
    begin, filler = _start(files), files.text.special.get("pad_token", "")
    page, words = (
        default if settings.get(key) is None else str(settings[key])
        for key, default in (("visual_prompt_prefix", "Describe the image."), ("query_prefix", "Question: "))
    )
    words = "" if engine else words
    end = filler * AUGMENTATION + ("" if engine else "\n")
    literal, joined = _pages.literal, _pages.joined
    start = literal(begin * (2 if engine else 1))
    described = joined("media", start, f"(text or {literal(page)})", literal("\n"))
    question = joined(literal(begin + words), "text", literal(end))
    role = Role(template=_pages.template(described, question), add_special_tokens=False)
    return {"query": role, "document": role}


ARCHITECTURE = _pages.family(
    model_types=("colpali", "paligemma"),
    names=CLASSES,
    load=load,
    matches=matches,
    translate=translate,
    prefixes=PREFIXES,
    spelled=_pages.speller(PREFIXES, NAMES),
    pool="last",
    images=images,
    roles=roles,
)
