"""Tiny checkpoints of models that embed texts and pictures apart, in the layouts of their repositories.

CLIP's tokenizer is byte-level BPE, SigLIP's a SentencePiece model around which transformers has Python code,
SigLIP 2's is Gemma's, whose class forgets to lower-case.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

SENTENCES = (
    "a photo of a cat", "two cats sleeping on a pink couch in the snow", "what is this",
    "the red planet mars",
    "an image of a dog running", "a page of text", "numbers 1 2 3 4 5 6 7 8 9 0", "it s a test don t worry",
    "letters a b c d e f g h i j k l m n o p q r s t u v w x y z",
)  # fmt: skip
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def _clip_tokenizer(folder: Path) -> int:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    begin, end = "<|startoftext|>", "<|endoftext|>"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), begin, end]
    ids = {piece: index for index, piece in enumerate(pieces)}
    model = models.BPE(vocab=ids, merges=[], end_of_word_suffix="</w>", unk_token=end)
    words = Regex(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    )
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer: Any = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([begin, end])
    around = [(end, ids[end]), (begin, ids[begin])]
    tokenizer.post_processor = processors.RobertaProcessing(
        *around, trim_offsets=False, add_prefix_space=False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(
        folder, tokenizer_class="CLIPTokenizer", bos_token=begin, eos_token=end, unk_token=end, pad_token=end,
        model_max_length=77,
    )  # fmt: skip
    return len(pieces)


def _sentence_piece(folder: Path) -> int:
    """SigLIP's: spiece.model, and a tokenizer.json without the normalisation of its characters."""
    import sentencepiece
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    text = folder / "sentences.txt"
    text.write_text("\n".join(SENTENCES * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=80, model_type="unigram", pad_id=-1,
        bos_id=-1, eos_id=1, unk_id=2, hard_vocab_limit=False, minloglevel=2, user_defined_symbols=["<x>"],
    )  # fmt: skip
    text.unlink()
    (folder / "spiece.vocab").unlink()
    pieces: Any = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    count = pieces.get_piece_size()
    scored = [(pieces.id_to_piece(index), pieces.get_score(index)) for index in range(count)]
    tokenizer: Any = Tokenizer(models.Unigram(scored, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, lstrip=True, rstrip=True, normalized=False) for token in ("</s>", "<unk>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(
        folder, tokenizer_class="SiglipTokenizer", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
        model_max_length=64, do_lower_case=True, model_input_names=["input_ids"],
    )  # fmt: skip
    return count


def _gemma_tokenizer(folder: Path) -> int:
    """SigLIP 2's: nothing in it lower-cases."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = list(string.ascii_letters + string.digits + string.punctuation + "▁")
    pieces = [*special, *letters, *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("▁", "a"), ("▁", "p"), ("h", "o"), ("t", "o"), ("a", "t")]
    pieces += ["".join(merge) for merge in merges]
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer: Any = Tokenizer(
        models.BPE(vocab=ids, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
        ]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(
        folder, tokenizer_class="GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        pad_token="<pad>", model_max_length=10**30, add_bos_token=False, add_eos_token=True,
        padding_side="right",
    )  # fmt: skip
    return len(pieces)


def _settings(folder: Path, **values: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def write(
    folder: Path,
    name: str,
    tokenizer: Callable[[Path], int],
    *,
    seed: int = 0,
    heads: int = 2,
    side: int = 32,
    patch: int = 8,
    resample: int = 3,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    projection: int = 20,
    **saving: Any,
) -> Path:
    """A checkpoint of `CLIP` or `Siglip` with random weights.

    `text`, `vision`: settings of the towers. `projection`: width of CLIP's space. `saving`: dtype, and
    arguments of save_pretrained (max_shard_size).
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    count = tokenizer(folder)
    sizes = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": heads}
    wide = {**sizes, "hidden_size": 24 * heads, "image_size": side, "patch_size": patch} | (vision or {})
    written = {**sizes, "hidden_size": 16 * heads, "vocab_size": count, **(text or {})}
    if name == "CLIP":
        written = {"eos_token_id": count - 1, "bos_token_id": count - 2, "pad_token_id": 1, **written}
        config = {"text_config": written, "vision_config": wide, "projection_dim": projection}
    else:
        written = {"projection_size": 24 * heads, "eos_token_id": 1, "bos_token_id": 0, **written}
        config = {"text_config": written, "vision_config": wide}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind: Any = getattr(transformers, f"{name}Model")
        model = kind(getattr(transformers, f"{name}Config")(**config))
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn_like(parameter)
                parameter.copy_(noise * 0.3 if parameter.ndim > 1 else parameter + 0.2 * noise)
    dtype = saving.pop("dtype", None)
    (model if dtype is None else model.to(dtype)).save_pretrained(folder, **saving)
    processor: dict[str, Any] = {"do_resize": True, "do_normalize": True, "resample": resample}
    if name == "CLIP":
        # As of the first release: plain numbers for sizes, and a class of transformers 4.
        processor |= {"crop_size": side, "size": side, "do_center_crop": True}
        processor |= {"feature_extractor_type": "CLIPFeatureExtractor", "image_mean": CLIP_MEAN}
        processor |= {"image_std": CLIP_STD}
    else:
        processor |= {"size": {"height": side, "width": side}, "rescale_factor": 1 / 255}
        processor |= {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.5] * 3}
        processor |= {"image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def clip(folder: Path, **options: Any) -> Path:
    return write(folder, "CLIP", _clip_tokenizer, **options)


def clip_legacy(folder: Path) -> Path:
    """The wrong end token of files from before transformers 4.31."""
    return write(folder, "CLIP", _clip_tokenizer, text={"eos_token_id": 2}, seed=1)


def siglip(folder: Path, **options: Any) -> Path:
    return write(folder, "Siglip", _sentence_piece, **options)


def siglip2(folder: Path, **options: Any) -> Path:
    return write(folder, "Siglip", _gemma_tokenizer, resample=2, **options)


def naflex(folder: Path, **options: Any) -> Path:
    """google/siglip2-base-patch16-naflex: pictures in their own shape, of at most 20 patches."""
    write(folder, "Siglip2", _gemma_tokenizer, seed=4, vision={"num_patches": 9}, **options)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"].pop("image_size", None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = {
        "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255, "resample": 2,
        "image_processor_type": "Siglip2ImageProcessor", "processor_class": "Siglip2Processor",
        "max_num_patches": 20, "patch_size": 8,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


ALL: dict[str, Callable[..., Path]] = {
    "clip": clip,
    "clip_legacy": clip_legacy,
    "siglip": siglip,
    "siglip2": siglip2,
}
