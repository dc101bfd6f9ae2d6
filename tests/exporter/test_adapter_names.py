"""LoRA adapters of models that read pictures, under the names that tensors had in other releases, and as
vidore publishes those of ColPali, ColQwen2, ColQwen2.5 and ColSmolVLM beside the checkpoints they fit."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.families import registry
from poolrt.exporter.files import adapter as adapters
from poolrt.exporter.files import adapter_merge, weights
from poolrt.exporter.files.adapted_parameter import Adapted
from poolrt.exporter.heads import planning
from poolrt.exporter.proof import library_reference
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs.media import prepared
from safetensors.torch import load_file, save_file

from tests.checkpoints import _json
from tests.families import gemmas, idefics, llava, pages, proof, qwen2_vl, qwen3_vl
from tests.families.pictured import Prompt, pictured
from tests.painted import painted

from .test_pages import opened

COSINE = 1 - 1e-6  # float32 on both sides
RANK, ALPHA = 3, 7
SETTINGS: dict[str, Any] = {
    "auto_mapping": None, "base_model_name_or_path": "vidore/colqwen2-base", "bias": "none",
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": "gaussian", "lora_alpha": ALPHA,
    "lora_dropout": 0.1, "modules_to_save": None, "peft_type": "LORA", "r": RANK, "rank_pattern": {},
    "target_modules": "(.*(model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$|"
    ".*(custom_text_proj).*$)", "task_type": "FEATURE_EXTRACTION", "use_dora": False, "use_rslora": False,
}  # fmt: skip
"""As beside colqwen2-v1.0; the rank and alpha are 32 there."""


def written(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """An adapter of random factors. `shapes`: module by the adapter's name -> shape of its weight."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    tensors: dict[str, torch.Tensor] = {}
    for module, (rows, columns) in shapes.items():
        for side, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = 0.15 * torch.randn(
                shape, generator=generator
            )
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    return folder


BASES: dict[str, Callable[[Path], Path]] = {
    "qwen2_vl": qwen2_vl.qwen2_vl,
    "qwen2_5_vl": lambda folder: qwen2_vl.qwen2_vl(folder, newer=True, modern=True),
    "colqwen2": lambda folder: qwen2_vl.colqwen2(folder, engine=False),
    "qwen3_vl": qwen3_vl.qwen3_vl_embedding,
    "e5_v": llava.e5_v,
    "llava_next": llava.llava_next_new,
    "paligemma": gemmas.paligemma,
    "gemma3": gemmas.gemma3,
    "smolvlm": idefics.smolvlm,
    "colpali": pages.colpali,
}
LAYER, SIGLIP = "layers.1.self_attn.q_proj", "encoder.layers.1.self_attn.v_proj"
QWEN: dict[str, tuple[str, ...]] = {
    "before 4.52": (f"model.{LAYER}", "visual.blocks.1.attn.qkv"),
    "since 4.52": (f"model.language_model.{LAYER}", "model.visual.blocks.1.attn.qkv"),
    "the model alone": (f"language_model.{LAYER}", "visual.blocks.1.attn.qkv"),
    "nested": (f"language_model.model.{LAYER}", "visual.blocks.1.attn.qkv"),
    "retrieval": (f"vlm.model.language_model.{LAYER}", "vlm.model.visual.blocks.1.attn.qkv"),
    "retrieval of 5": (f"vlm.language_model.{LAYER}", "vlm.visual.blocks.1.attn.qkv"),
}
LLAVA: dict[str, tuple[str, ...]] = {
    "before 4.52": (f"language_model.model.{LAYER}", f"vision_tower.vision_model.{SIGLIP}"),
    "since 4.52": (f"model.language_model.{LAYER}", f"model.vision_tower.vision_model.{SIGLIP}"),
    "of 5": (f"model.language_model.{LAYER}", f"model.vision_tower.{SIGLIP}"),
    "of colpali-engine": (f"model.language_model.model.{LAYER}", f"model.vision_tower.vision_model.{SIGLIP}"),
    "the language model alone": (f"model.{LAYER}",),
}
IDEFICS: dict[str, tuple[str, ...]] = {
    "as stored": (f"model.text_model.{LAYER}", f"model.vision_model.{SIGLIP}"),
    "the model alone": (f"text_model.{LAYER}", f"vision_model.{SIGLIP}"),
    "the language model alone": (f"model.{LAYER}",),
}
SPELLINGS = {"qwen": QWEN, "smolvlm": IDEFICS, "colqwen": QWEN}


def spellings(base: str) -> dict[str, tuple[str, ...]]:
    return next((known for stem, known in SPELLINGS.items() if base.startswith(stem)), LLAVA)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in folders:
            folders[name] = BASES[name](tmp_path_factory.mktemp("bases") / name)
        return folders[name]

    return find


def homes(folder: Path, modules: Iterable[str]) -> dict[str, str]:
    """Adapted module -> stored name of its weight, told by what stands behind the names of towers."""
    stored = list(weights.open_folder(folder))
    ends = {module: re.search(r"(?:encoder\.|blocks\.)?(?:layers\.)?1\..*", module) for module in modules}
    vision = re.compile("vis")
    return {
        module: next(
            name
            for name in stored
            if end is not None
            and name.endswith(f"{end.group()}.weight")
            and bool(vision.search(name)) == bool(vision.search(module))
        )
        for module, end in ends.items()
    }


CASES = [(name, spelling) for name in BASES for spelling in spellings(name)]


@pytest.mark.parametrize(("name", "spelling"), CASES, ids=["-".join(case) for case in CASES])
def test_an_adapter_finds_its_tensors_under_the_names_of_every_release(
    name: str, spelling: str, base: Callable[[str], Path], tmp_path: Path
):
    folder = base(name)
    weights_ = weights.open_folder(folder)
    expected = homes(folder, spellings(name)[spelling])
    adapter = written(tmp_path, {module: weights_.shapes[home][:2] for module, home in expected.items()})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = registry.find(name, config, weights_.shapes)

    def merged() -> adapter_merge.Merged:
        return adapter_merge.merged(
            name, weights_, adapters.read(adapter), family.prefixes, spelled=family.spelled
        )

    assert set(merged().changes) == set(expected.values())
    path = adapter / "adapter_model.safetensors"
    save_file({key.replace("s.1.", "s.9."): value for key, value in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=r"s\.9\..*weight has no place in the checkpoint"):
        merged()


# --- adapters as they are published
# ------------------------------------------------------------------------------------------------------------

INSIDE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def corrected(model: Any, factors: Mapping[str, torch.Tensor], stem: str) -> None:
    """Adds an adapter's products, unmerged, to the layers of a language model. `stem`: in front of `layers.`
    in the adapter's names."""

    def hook(name: str) -> Any:
        first, second = (factors[f"base_model.model.{stem}{name}.lora_{side}.weight"] for side in "AB")
        return lambda _, inputs, output: output + inputs[0] @ first.T @ second.T * (ALPHA / RANK)

    for name, module in model.named_modules():
        if name.endswith(INSIDE):
            module.register_forward_hook(hook(name))


def published(folder: Path, base_folder: Path, stem: str, *, tower: str, head: str = "") -> Path:
    """An adapter of every layer of a language model.

    Args:
        folder: of the adapter.
        base_folder: of the checkpoint that it fits.
        stem: in front of `layers.` in the adapter's names.
        tower: in front of `layers.` in the checkpoint's.
        head: name of the adapted projection; empty: it is not adapted.
    """
    shapes = weights.open_folder(base_folder).shapes
    layers = [f"layers.{layer}.{name}" for layer in range(2) for name in INSIDE]
    modules = {f"{stem}{name}": shapes[f"{tower}{name}.weight"][:2] for name in layers}
    return written(folder, modules | ({head: shapes[f"{head}.weight"][:2]} if head else {}))


@pytest.mark.parametrize("newer", [False, True], ids=["colqwen2-v1.0", "colqwen2.5-v0.2"])
def test_colqwen2(newer: bool, tmp_path: Path):
    """`base_model.model.model.layers` over `model.layers`; and over names of transformers 5."""
    folder = qwen2_vl.colqwen2(tmp_path / "base", newer=newer)
    head = "custom_text_proj"
    adapter = published(tmp_path / "adapter", folder, "model.", tower="model.", head=head)
    of, reference = pictured(folder, adapter=adapter), qwen2_vl.Reference(folder)
    assert of.plan.vision is not None
    factors = load_file(adapter / "adapter_model.safetensors")
    corrected(reference.model.language_model, factors, "model.")
    stored = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    first, second = (factors[f"base_model.model.{head}.lora_{side}.weight"] for side in "AB")
    projection = (stored[f"{head}.weight"] + second @ first * (ALPHA / RANK)).numpy()
    page = prepared.image(of.plan.vision.images, painted(70, 40, 0))
    rows = [Prompt("the red planet"), Prompt("{}mars", (page,))]
    theirs = [
        qwen2_vl.normalised(
            reference.hidden(of.item(row).ids, row.media) @ projection.T + stored[f"{head}.bias"].numpy()
        )
        for row in rows
    ]
    assert proof.cosines(of.answers("token_embed", rows), theirs).min() > COSINE
    # The export's own comparison runs the adapter by PEFT over transformers' class.
    reading = library_reference.compare(folder, adapter=adapter, recipe=None)
    compared = {agreement.what: agreement.worst_cosine for agreement in reading.agreements}
    assert (compared["token_embed of prompts with pictures"] or 0.0) > COSINE


def _as_sentence_transformers(adapter: Path, **mask: Any) -> None:
    """Files of version 6 beside an adapter: texts go through the chat template, and the projection is a Dense
    module of its own."""
    stem = "sentence_transformers."
    kinds = {
        "": "base.modules.transformer.Transformer", "1_Dense": "base.modules.dense.Dense",
        "2_Normalize": "sentence_transformer.modules.normalize.Normalize",
        "3_MultiVectorMask": "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    }  # fmt: skip
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": stem + kind}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    method = {"method": "forward", "method_output_name": "last_hidden_state"}
    tokens = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    dense = {"in_features": 128, "out_features": 40, "activation_function": "torch.nn.Identity", **tokens}
    text = {
        "modality_config": {"text": method, "image": method, "message": {**method, "format": "structured"}}
    }
    for file, content in {
        "modules.json": modules,
        "config_sentence_transformers.json": {"model_type": "MultiVectorEncoder"},
        "sentence_bert_config.json": text,
        "1_Dense/config.json": dense,
        "3_MultiVectorMask/config.json": {"skiplist_words": [], "keep_only_token_ids": None, **mask},
    }.items():
        _json(adapter / file, content)
    (adapter / "2_Normalize").mkdir(exist_ok=True)


def test_an_adapter_with_the_files_of_sentence_transformers_keeps_the_prompts_of_pages(tmp_path: Path):
    folder = qwen2_vl.colqwen2(tmp_path / "base")
    adapter = published(tmp_path / "adapter", folder, "model.", tower="model.", head="custom_text_proj")
    plain = planning.plan(checkpoint.read(folder, adapter=adapter, recipe=None))
    _as_sentence_transformers(adapter)
    plan = planning.plan(checkpoint.read(folder, adapter=adapter, recipe=None))
    assert (plan.text.roles, plan.heads) == (plain.text.roles, plain.heads)
    _as_sentence_transformers(adapter, keep_only_token_ids=[7])
    with pytest.raises(CheckpointError, match="drops vectors of tokens by keep_only_token_ids"):
        planning.plan(checkpoint.read(folder, adapter=adapter, recipe=None))


def test_a_streamed_model_takes_an_adapter_of_its_projection(tmp_path: Path):
    """The class has no place for the projection, whose change waits beside its stored weight."""
    folder = qwen2_vl.colqwen2(tmp_path / "base", dtype="bfloat16")
    adapter = published(tmp_path / "adapter", folder, "model.", tower="model.", head="custom_text_proj")
    read = checkpoint.read(folder, adapter=adapter, recipe=None)
    module = read.family.load(dataclasses.replace(read, large=True))
    changed = [name for name, value in module.named_parameters() if isinstance(value, Adapted)]
    assert len(changed) == 2 * len(INSIDE)


def test_colpali(tmp_path: Path):
    """colpali-v1.3: `base_model.model.model.language_model.model.layers`, and the projection."""
    folder = pages.colpali_engine(tmp_path / "base")
    stem = "model.language_model.model."
    stored = weights.open_folder(folder)
    [tower] = {
        name.removesuffix("layers.0.mlp.down_proj.weight")
        for name in stored
        if name.endswith("layers.0.mlp.down_proj.weight") and "language_model" in name
    }
    adapter = published(tmp_path / "adapter", folder, stem, tower=tower, head="custom_text_proj")
    both = opened(folder, adapter=adapter)
    native = pages._colpali(tmp_path / "native", seed=8, dim=pages.ENGINE)
    factors = load_file(adapter / "adapter_model.safetensors")
    corrected(native.vlm.language_model, factors, stem)
    first, second = (factors[f"base_model.model.custom_text_proj.lora_{side}.weight"] for side in "AB")
    native.embedding_proj_layer.weight.data += second @ first * (ALPHA / RANK)
    page = torch.from_numpy(_pixels(both, pages.PAGES[0]))
    for ids, ours, more in (
        (*both.vectors("query", "red"), {}),
        (*both.vectors("document", page=pages.PAGES[0]), {"pixel_values": page}),
    ):
        tokens = torch.tensor([ids])
        kinds = torch.zeros_like(tokens)
        with torch.inference_mode():
            output = native(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), token_type_ids=kinds, **more
            )
        assert (ours * output.embeddings[0].numpy()).sum(-1).min() > COSINE


def _pixels(both: Any, page: Any) -> np.ndarray[Any, Any]:
    images = both.read.family.vision.images(both.read)
    return np.stack([item.arrays["pixel_values"] for item in prepared.image(images, page).items])


@pytest.mark.parametrize("size", ["256M", "500M"])
def test_col_smol(size: str, tmp_path: Path):
    """colSmol-256M and -500M: `base_model.model.model.text_model.layers`; `linear` is not adapted."""
    more: dict[str, Any] = {} if size == "256M" else {"num_hidden_layers": 2, "intermediate_size": 64}
    folder = idefics.col_smol(tmp_path / "base", **more)
    stem = "model.text_model."
    adapter = published(tmp_path / "adapter", folder, stem, tower=stem)
    both = opened(folder, adapter=adapter)
    native = idefics._module(tmp_path / "native", "SmolVLM", **{"seed": 63, "longest": 84, **more}).model
    corrected(native.text_model, load_file(adapter / "adapter_model.safetensors"), stem)
    stored = load_file(folder / "model.safetensors")
    pixels = torch.from_numpy(_pixels(both, pages.PAGES[0]))[None]
    for ids, ours, seen in (
        (*both.vectors("query", "red"), {}),
        (*both.vectors("document", page=pages.PAGES[0]), {"pixel_values": pixels}),
    ):
        with torch.inference_mode():
            tokens = torch.tensor([ids])
            hidden = native(input_ids=tokens, **seen).last_hidden_state[0]
            rows = hidden @ stored["linear.weight"].T + stored["linear.bias"]
        theirs = torch.nn.functional.normalize(rows, dim=-1).numpy()
        assert (ours * theirs).sum(-1).min() > COSINE
