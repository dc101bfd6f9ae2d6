"""Requests with pictures, sent to the real vLLM once (tests/goldens/record_picture_answers.py) and to poolrt
in every test run (test_picture_goldens.py).

A case is (name, method, path, body). They run in order on one server: `uuid` names what an earlier one sent.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.painted import painted, png, url

from .cases import Case

PAGE = url(png(painted(70, 40, 1)))
WIDE = url(png(painted(200, 100, 2)))
THIN = url(png(painted(33, 500, 3)))
CLEAR = url(png(painted(40, 70, 4, channels=4)))
GREY = url(png(painted(64, 48, 5, channels=1)))
DOT = url(png(painted(1, 1, 6)))
RED = url(png(np.full((48, 48, 3), (255, 0, 0), np.uint8)))
BROKEN = url(png(painted(70, 40, 1))[:300])
SVG = url(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "image/svg+xml")
HTML = url(b"<html><body>no picture</body></html>")
EMPTY = url(b"")
TEXT = "what is the capital of france"


def image(address: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}, **more}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def chat(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(parts)}]


def side(*parts: Any) -> dict[str, Any]:
    return {"content": list(parts)}


SHAPES = {"page": PAGE, "wide": WIDE, "thin": THIN, "clear": CLEAR, "grey": GREY, "dot": DOT}
FAULTS: dict[str, Any] = {
    "bad-base64": "data:image/png;base64,####",
    "not-base64": "data:image/png,abc",
    "no-comma": "data:image/png;base64",
    "svg": SVG, "html": HTML, "empty": EMPTY, "truncated": BROKEN,
    "ftp": "ftp://example.com/a.png",
    "file": "file:///etc/passwd",
    "no-scheme": "a.png",
    "refused": "http://127.0.0.1:9/a.png",
}  # fmt: skip
"""Addresses that no picture comes from."""


def chats(path: str, **fields: Any) -> list[Case]:
    """Chat messages on a route that embeds or classifies."""

    def case(name: str, *parts: Any, **more: Any) -> Case:
        return (name, "POST", path, {"model": "m", "messages": chat(*parts), **fields, **more})

    cases = [case(f"shape-{name}", image(address)) for name, address in SHAPES.items()]
    cases += [case(f"fault-{name}", image(address)) for name, address in FAULTS.items()]
    return [
        *cases,
        case("text-part", words(TEXT)),
        case("text-and-picture", words(TEXT), image(PAGE)),
        case("picture-and-text", image(PAGE), words(TEXT)),
        case("two-pictures", image(PAGE), image(RED)),
        case("bare", {"image_url": PAGE}),
        case("bare-object", {"image_url": {"url": PAGE}}),
        case("address-as-text", {"type": "image_url", "image_url": PAGE}),
        case("no-address", {"type": "image_url", "image_url": {}}),
        case("unknown-part", {"type": "picture", "picture": PAGE}),
        case("input-image", {"type": "input_image", "image_url": PAGE}),
        case("uuid-unknown", image("", uuid="never-sent") | {"image_url": None}),
        case("uuid-first", image(PAGE, uuid="page-1")),
        case("uuid-again", {"type": "image_url", "image_url": None, "uuid": "page-1"}),
        case("embeds", {"type": "image_embeds", "image_embeds": "AAAA"}),
        case("video", {"type": "video_url", "video_url": {"url": PAGE}}),
        case("audio", {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AAAA"}}),
        case("processor-kwargs", image(PAGE), mm_processor_kwargs={"do_resize": True}),
        case("media-kwargs", image(PAGE), media_io_kwargs={"image": {"rgba_background_color": [0, 0, 0]}}),
        case("truncated-prompt", image(PAGE), truncate_prompt_tokens=3),
        ("system", "POST", path, {"messages": [{"role": "system", "content": "look"}, *chat(image(PAGE))],
         **fields}),
        ("two-messages", "POST", path, {"messages": [*chat(image(PAGE)), *chat(words(TEXT))], **fields}),
        ("string", "POST", path, {"messages": [{"role": "user", "content": TEXT}], **fields}),
    ]  # fmt: skip


def tokenised() -> list[Case]:
    return [
        ("tokenize-page", "POST", "/tokenize", {"messages": chat(image(PAGE))}),
        ("tokenize-mixed", "POST", "/tokenize", {"messages": chat(image(PAGE), words(TEXT))}),
        ("tokenize-strings", "POST", "/tokenize",
         {"messages": chat(image(PAGE)), "return_token_strs": True}),
        ("tokenize-text", "POST", "/tokenize", {"prompt": TEXT}),
    ]  # fmt: skip


def scored() -> list[Case]:
    """Pairs of which one side or both are pictures."""
    pages = [side(image(PAGE)), side(image(RED))]
    return [
        ("score-text-page", "POST", "/score", {"data_1": TEXT, "data_2": pages[0]}),
        ("score-text-pages", "POST", "/score", {"queries": TEXT, "documents": pages}),
        ("score-page-text", "POST", "/score", {"data_1": pages[0], "data_2": [TEXT, "paris"]}),
        ("score-page-page", "POST", "/score", {"data_1": pages[0], "data_2": pages[1]}),
        ("score-many", "POST", "/score", {"text_1": [TEXT, "paris"], "text_2": [TEXT, "red"]}),
        ("score-mixed", "POST", "/score",
         {"data_1": TEXT, "data_2": side(image(PAGE), words("paris"))}),
        ("score-two-pictures", "POST", "/score", {"data_1": TEXT, "data_2": side(image(PAGE), image(RED))}),
        ("score-broken", "POST", "/score", {"data_1": TEXT, "data_2": [pages[0], side(image(BROKEN))]}),
        ("score-empty", "POST", "/score", {"data_1": TEXT, "data_2": side()}),
        ("rerank-pages", "POST", "/rerank", {"query": TEXT, "documents": side(image(PAGE), image(RED))}),
        ("rerank-list", "POST", "/rerank", {"query": TEXT, "documents": [*pages, "paris"]}),
        ("rerank-mixed", "POST", "/rerank", {"query": TEXT, "documents": side(words("paris"), image(RED))}),
        ("rerank-top", "POST", "/v1/rerank", {"query": TEXT, "documents": pages, "top_n": 1}),
        ("rerank-by-page", "POST", "/rerank", {"query": side(image(PAGE)), "documents": ["paris", *pages]}),
        ("rerank-broken", "POST", "/rerank", {"query": TEXT, "documents": side(image(SVG))}),
    ]  # fmt: skip


def cohere() -> list[Case]:
    return [
        ("cohere-images", "POST", "/v2/embed",
         {"model": "m", "images": [PAGE], "embedding_types": ["float"]}),
        ("cohere-two-images", "POST", "/v2/embed",
         {"model": "m", "images": [PAGE, RED], "embedding_types": ["float"]}),
        ("cohere-inputs", "POST", "/v2/embed",
         {"model": "m", "inputs": [{"content": [words(TEXT)]}, {"content": [image(PAGE)]}],
          "embedding_types": ["float"]}),
        ("cohere-both", "POST", "/v2/embed",
         {"model": "m", "inputs": [{"content": [words(TEXT), image(PAGE)]}], "embedding_types": ["float"]}),
        ("cohere-texts", "POST", "/v2/embed",
         {"model": "m", "texts": [TEXT], "embedding_types": ["float"]}),
        ("cohere-images-and-texts", "POST", "/v2/embed", {"model": "m", "texts": [TEXT], "images": [PAGE]}),
        ("cohere-broken", "POST", "/v2/embed", {"model": "m", "images": [SVG]}),
        ("cohere-url-object", "POST", "/v2/embed", {"model": "m", "images": [{"url": PAGE}]}),
    ]  # fmt: skip


def embedder() -> list[Case]:
    return [
        *chats("/v1/embeddings"),
        ("text", "POST", "/v1/embeddings", {"model": "m", "input": TEXT}),
        ("base64", "POST", "/v1/embeddings", {"messages": chat(image(PAGE)), "encoding_format": "base64"}),
        ("no-activation", "POST", "/v1/embeddings",
         {"messages": chat(image(PAGE)), "use_activation": False}),
        ("pooling-page", "POST", "/pooling", {"messages": chat(image(PAGE)), "task": "embed"}),
        ("pooling-tokens", "POST", "/pooling", {"messages": chat(image(PAGE)), "task": "token_embed"}),
        *tokenised(), *scored(), *cohere(),
    ]  # fmt: skip


def late() -> list[Case]:
    """A model that compares token by token has no single vectors."""
    return [
        *chats("/pooling"),
        ("embeddings-page", "POST", "/v1/embeddings", {"messages": chat(image(PAGE))}),
        ("text", "POST", "/pooling", {"input": TEXT}),
        ("token-embed", "POST", "/pooling", {"messages": chat(image(PAGE)), "task": "token_embed"}),
        *tokenised(), *scored(), *cohere()[:3],
    ]  # fmt: skip


def reranker() -> list[Case]:
    """A cross-encoder, which classifies and scores."""
    return [
        *chats("/classify"),
        ("pooling-page", "POST", "/pooling", {"messages": chat(image(PAGE)), "task": "classify"}),
        ("instruction", "POST", "/score",
         {"data_1": TEXT, "data_2": side(image(PAGE)), "chat_template_kwargs": {"instruction": "find"}}),
        *tokenised(), *scored(), *cohere()[:1],
    ]  # fmt: skip


def video() -> list[Case]:
    """Frames as one address, as vLLM's clients send them."""
    pictures = (url(png(painted(64, 48, seed))) for seed in (8, 9, 10))
    frames = ",".join(address.partition(",")[2] for address in pictures)
    address = f"data:video/jpeg;base64,{frames}"
    part = {"type": "video_url", "video_url": {"url": address}}
    alone = {"type": "video_url", "video_url": {"url": PAGE.replace("image/png", "video/jpeg")}}
    return [
        ("video-frames", "POST", "/v1/embeddings", {"messages": chat(part)}),
        ("video-and-text", "POST", "/v1/embeddings", {"messages": chat(words(TEXT), part)}),
        ("video-one-frame", "POST", "/v1/embeddings", {"messages": chat(alone)}),
        ("video-score", "POST", "/score", {"data_1": TEXT, "data_2": side(part)}),
    ]  # fmt: skip


def converted(path: str, *, without: str = "") -> list[Case]:
    """What a model that writes words makes of prompts when it is converted: numbers, and little else.

    Args:
        without: name of a case that is left out.
    """
    task = "classify" if path == "/classify" else "embed"
    names = {"text-part", "text-and-picture", "picture-and-text", "two-pictures", "string"}
    return [
        *(
            case
            for case in chats(path)
            if case[0] != without and (case[0] in names or case[0].startswith("shape-"))
        ),
        ("text", "POST", path, {"input": [TEXT, "red"]}),
        ("pooling-page", "POST", "/pooling", {"messages": chat(image(PAGE)), "task": task}),
        ("pooling-tokens", "POST", "/pooling", {"messages": chat(image(PAGE)), "task": f"token_{task}"}),
        *tokenised(),
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Server:
    """One vLLM that was asked."""

    module: str
    """File of tests/families."""
    checkpoint: str
    """Function in it that writes the checkpoint."""
    cases: list[Case]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of that function."""
    max_tokens: int = 1024
    overrides: Mapping[str, Any] | None = None
    """vLLM's --hf-overrides."""
    template: str | None = None
    """File of recipes/templates for --chat-template."""
    trusted: bool = False
    """Whether vLLM runs Python of the checkpoint."""
    convert: str | None = None
    """vLLM's --convert and poolrt's."""
    shared: str | None = None
    """Name under which other tests export the same checkpoint."""

    @property
    def flags(self) -> list[str]:
        """vLLM's."""
        flags = ["--max-model-len", str(self.max_tokens)]
        if self.trusted:
            flags.append("--trust-remote-code")
        if self.convert is not None:
            flags += ["--convert", self.convert]
        if self.overrides is not None:
            flags += ["--hf-overrides", json.dumps(self.overrides)]
        return flags if self.template is None else [*flags, "--chat-template", str(TEMPLATES / self.template)]


TEMPLATES = Path(__file__).resolve().parents[2] / "recipes" / "templates"
RERANKER = {
    "architectures": ["Qwen3VLForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
HEADS = {"hidden_size": 64}
"""Heads of 32, which vLLM's attention on a processor runs."""
NARROW = {**HEADS, "projection_dim": 64}
"""CLIP's towers repeat the width of their common space, and vLLM reads it there."""
# vLLM leaves the biases of projections out, so the recorded checkpoints have none.
SERVERS: dict[str, Server] = {
    "clip": Server(
        module="towers",
        checkpoint="clip",
        cases=embedder(),
        options={"text": NARROW, "vision": NARROW, "projection": 64},
        max_tokens=77,
    ),
    "siglip": Server(
        module="towers",
        checkpoint="siglip",
        cases=embedder(),
        options={"text": {**HEADS, "projection_size": 64}, "vision": HEADS},
        max_tokens=64,
    ),
    "colpali": Server(module="pages", checkpoint="colpali_recorded", cases=late()),
    "colmodernvbert": Server(module="pages", checkpoint="colmodernvbert_recorded", cases=late()),
    "qwen3_vl_embedding": Server(
        module="qwen3_vl", checkpoint="qwen3_vl_embedding", cases=[*embedder(), *video()]
    ),
    "qwen3_vl_reranker": Server(
        module="qwen3_vl",
        checkpoint="qwen3_vl_reranker",
        cases=reranker(),
        overrides=RERANKER,
        template="qwen3_vl_reranker.jinja",
    ),
    "colqwen3": Server(module="qwen3_vl", checkpoint="colqwen3", cases=late(), options={"bias": False}),
    "ops_colqwen3": Server(
        module="qwen3_vl",
        checkpoint="ops_colqwen3",
        cases=late(),
        options={"bias": False},
    ),
    # Code of its own is not there, so config.json names none.
    "jina_reranker_m0": Server(
        module="qwen2_vl", checkpoint="jina_m0", cases=reranker(), options={"auto_map": {}}
    ),
    "llama_nemotron_vl": Server(
        module="nemotron_vl",
        checkpoint="embedder_recorded",
        cases=[
            *embedder(),
            *(
                (
                    f"role-{role}",
                    "POST",
                    "/v1/embeddings",
                    {"messages": chat(words(TEXT), image(PAGE), role=role)},
                )
                for role in ("query", "document", "user")
            ),
        ],
        template="nemotron_embed_vl.jinja",
        trusted=True,
    ),
    "llama_nemotron_vl_rerank": Server(
        module="nemotron_vl",
        checkpoint="reranker_recorded",
        cases=reranker(),
        template="nemotron-vl-rerank.jinja",
        trusted=True,
    ),
    "e5_v": Server(module="llava", checkpoint="e5_v", cases=embedder()),
    "vlm2vec": Server(
        module="phi3v",
        checkpoint="vlm2vec_recorded",
        cases=converted("/v1/embeddings"),
        max_tokens=4096,
        template="vlm2vec_phi3v.jinja",
        trusted=True,
    ),
    "nemotron_colembed": Server(
        module="qwen3_vl", checkpoint="nemotron_colembed", cases=late(), options={"videos": True}
    ),
    **{
        f"{name}_classify": Server(
            module="qwen2_vl",
            checkpoint="classifier",
            cases=converted("/classify"),
            options={"newer": name != "qwen2_vl"},
            convert="classify",
        )
        for name in ("qwen2_vl", "qwen2_5_vl")
    },
    # vLLM counts the tiles of the grey picture by a helper of transformers, one row less than transformers'
    # processor cuts.
    "smolvlm": Server(
        module="idefics",
        checkpoint="smolvlm",
        cases=converted("/v1/embeddings", without="shape-grey"),
        convert="embed",
        shared="converted-smolvlm",
    ),
    # vLLM wants tiles as large as the picture that the table of positions is for.
    "idefics3": Server(
        module="idefics",
        checkpoint="idefics3",
        cases=converted("/classify", without="shape-grey"),
        options={"table": 42},
        convert="classify",
    ),
    # vLLM takes one picture, and only transformers 4's names of tensors.
    "paligemma2": Server(
        module="gemmas",
        checkpoint="paligemma2",
        cases=converted("/v1/embeddings", without="two-pictures"),
        options={"older": True},
        convert="embed",
        shared="converted-paligemma2",
    ),
}
"""Recording -> the server that gave it."""


SHARED: dict[str, tuple[str, str, str]] = {
    "llama_nemotron_vl": ("nemotron-vl-embedder", "nemotron_vl", "embedder"),
    "llama_nemotron_vl_rerank": ("nemotron-vl-reranker", "nemotron_vl", "reranker"),
    "jina_reranker_m0": ("qwen2-vl-jina_m0", "qwen2_vl", "jina_m0"),
    "e5_v": ("llava-e5_v", "llava", "e5_v"),
    "qwen3_vl_embedding": ("qwen3_vl-sentence", "qwen3_vl", "qwen3_vl_sentence"),
    "colpali": ("pages-colpali", "pages", "colpali"),
}
"""Recording -> an artifact that other tests export anyway (its name, file and function in tests/families) of
the same weights: the recorded checkpoints have code that nothing here runs, or lack files of Sentence
Transformers that vLLM's way of preparing does not follow. The numbers of `colpali` are not compared."""


def artifact(name: str) -> Path:
    """The artifact of a recording's checkpoint."""
    from tests.conftest import exported

    server = SERVERS[name]
    if name in SHARED:
        shared, module, function = SHARED[name]
        write = getattr(importlib.import_module(f"tests.families.{module}"), function)
        return exported(shared, lambda folder: write(folder / function))
    write = getattr(importlib.import_module(f"tests.families.{server.module}"), server.checkpoint)
    more = {} if server.convert is None else {"convert": server.convert}
    return exported(
        server.shared or f"pictures-{name}",
        lambda folder: write(folder / name, **server.options),
        hf_overrides=server.overrides,
        **more,
    )
