"""A checkpoint opened by its own library: Sentence Transformers' classes where it has their files, else
transformers' Auto classes.

Nothing that a checkpoint brings is run: local files only, never remote code. Each text is asked for alone.
"""

from __future__ import annotations

import contextlib
import json
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.quiet import silent_transformers
from .library_answers import Library, SentenceLibrary, TokenizerLibrary, TransformersLibrary

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..heads.planning import Plan

SENTENCE_CLASSES = {
    "SentenceTransformer": "SentenceTransformer", "SparseEncoder": "SparseEncoder",
    "CrossEncoder": "CrossEncoder",
    "MultiVectorEncoder": "MultiVectorEncoder", "ColBERT": "MultiVectorEncoder",
}  # fmt: skip
# Modules that only one of the classes ends with.
TELLING = {
    "SpladePooling": "SparseEncoder",
    "LogitScore": "CrossEncoder",
    "MultiVectorMask": "MultiVectorEncoder",
}


class Unreadable(Exception):
    """The library does not read this checkpoint; the message says why."""


# --- which class
# ------------------------------------------------------------------------------------------------------------


def sentence_class(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The class of Sentence Transformers that a folder is for; None: it has none of its files."""
    settings, modules = _object(folder / "config_sentence_transformers.json"), folder / "modules.json"
    kind = SENTENCE_CLASSES.get(str(settings.get("model_type")))
    if "HF_ColBERT" in (config.get("architectures") or ()):
        return "MultiVectorEncoder"
    if not modules.is_file():
        marked = "sbert_ce_default_activation_function" in config or "activation_fn" in (
            config.get("sentence_transformers") or {}
        )
        return "CrossEncoder" if kind == "CrossEncoder" or (kind is None and marked) else None
    types = [str(entry.get("type", "")) for entry in json.loads(modules.read_text(encoding="utf-8"))]
    if any(name.startswith("pylate.") for name in types):
        return "MultiVectorEncoder"
    last = next((TELLING[name] for kind_ in types if (name := kind_.rsplit(".", 1)[-1]) in TELLING), None)
    late = (
        settings.get("similarity_fn_name") == "MaxSim"
        and {"query_length", "document_length"} & settings.keys()
    )
    return (
        kind
        if kind not in (None, "SentenceTransformer")
        else last or ("MultiVectorEncoder" if late else "SentenceTransformer")
    )


def auto_class(checkpoint: Checkpoint, config: Mapping[str, Any]) -> str:
    """The class of transformers that shows most of what the plan computes."""
    import transformers

    names = config.get("architectures") or [checkpoint.architecture]
    own = hasattr(transformers, str(names[0]))
    # Bare rows of the output matrix are no class of its own, and other poolings are not this class's.
    bare = bool(config.get("classifier_from_token")) or checkpoint.pooler.pool is not None
    if (
        checkpoint.kind == "classify"
        and own
        and not bare
        and str(names[0]).endswith("ForSequenceClassification")
    ):
        return "AutoModelForSequenceClassification"
    if checkpoint.kind == "token_classify" and own and str(names[0]).endswith("ForTokenClassification"):
        return "AutoModelForTokenClassification"
    if checkpoint.kind == "splade":
        return "AutoModelForMaskedLM"
    # A class that is the encoder alone (T5EncoderModel) says that it is no encoder-decoder, and AutoModel
    # would make up the decoder.
    encoder = config.get("is_encoder_decoder") or str(names[0]).endswith("EncoderModel")
    return "AutoModelForTextEncoding" if encoder else "AutoModel"


def _object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


# --- opening
# ------------------------------------------------------------------------------------------------------------

_LOADING = threading.Lock()


@dataclass
class Loaded:
    """What transformers said while a model was read."""

    models: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def check(self, *, head: bool, checkpoint: Checkpoint) -> None:
        """Raises Unreadable for weights that were made up because the files have none. `head`: whether a
        pooler belongs to the answer."""
        brought = set() if checkpoint.adapter is None else set(checkpoint.adapter.whole)
        for name, info in self.models:
            missing = sorted(
                key for key in info.get("missing_keys", ()) if head or "pooler" not in key.split(".")
            )
            missing = [key for key in missing if key not in brought]
            missing += sorted(str(entry[0]) for entry in info.get("mismatched_keys", ()))
            if missing:
                raise Unreadable(
                    f"{name} finds no {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''} of "
                    "its shape in the weights"
                )


@contextlib.contextmanager
def watched() -> Iterator[Loaded]:
    """While open, every model that transformers reads says which of its weights the files lack,
    whoever asked for the model.

    Sentence Transformers drops that report, and a model with random weights in its
    gaps would be no reference.
    """
    import transformers

    loaded, original = Loaded(), transformers.PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        wanted = options.pop("output_loading_info", False)
        options = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = original.__func__(cls, *arguments, **options)
        loaded.models.append((cls.__name__, info))
        return (model, info) if wanted else model

    with _LOADING, silent_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield loaded
        finally:
            transformers.PreTrainedModel.from_pretrained = original


def opened(checkpoint: Checkpoint, plan: Plan, folder: Path, config: Mapping[str, Any]) -> Library:
    """The folder (its config.json with what was asked for) by its own library, or as much of it as
    there is. Raises Unreadable."""
    routed = checkpoint.sentence is not None and checkpoint.sentence.static is not None
    kind = "SparseEncoder" if routed else sentence_class(folder, config)
    inner = folder / checkpoint.inner.relative_to(checkpoint.folder)
    lacks = []
    if kind is not None:
        try:
            _check_config(checkpoint, inner)
            return _binding(_sentence(kind, checkpoint, plan, folder), config)
        except ImportError:
            lacks.append("sentence-transformers is not installed, so its modules are not compared")
        except Unreadable as error:
            lacks.append(str(error))
    if routed:  # transformers alone reads queries as documents
        raise Unreadable("; ".join(lacks))
    tokenizer = _tokenizer(inner)
    try:
        _check_config(checkpoint, inner)
        library = _binding(_transformers(checkpoint, plan, inner, config, tokenizer), config)
    except Unreadable as error:
        library = TokenizerLibrary(tokenizer, checkpoint, plan)
        lacks.append(str(error))
    library.lacks += dict.fromkeys(lacks)
    return library


def _binding(library: Library, config: Mapping[str, Any]) -> Library:
    """Notes whether the model class is the one that config.json names. One that transformers lacks
    (the repository's own code, which is never run) may compute otherwise over the same weights;
    what agrees still agrees."""
    import transformers

    names = [str(name) for name in config.get("architectures") or ()]
    if names and not hasattr(transformers, names[0]) and "ColBERT" not in names[0]:
        library.foreign = (
            f"{names[0]} is not a class of transformers, and a repository's own code is never run"
        )
    return library


def _check_config(checkpoint: Checkpoint, folder: Path) -> None:
    """Raises Unreadable where transformers' config class reads other sizes than the weights have, before
    a model of them is built."""
    import transformers

    with watched():
        try:
            config = transformers.AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise Unreadable(f"AutoConfig cannot open it: {_reason(error)}") from None
    width = getattr(config.get_text_config(), "hidden_size", None)
    if width != checkpoint.config.get("hidden_size") and isinstance(width, int):
        raise Unreadable(
            f"{type(config).__name__} reads hidden_size {width}, the weights have "
            f"{checkpoint.config.get('hidden_size')}: "
            "config.json is written for the repository's own code, which is never run"
        )


def _tokenizer(folder: Path) -> Any:
    import transformers

    with watched():
        try:
            return transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise Unreadable(f"AutoTokenizer cannot open it: {_reason(error)}") from None


def _sentence(kind: str, checkpoint: Checkpoint, plan: Plan, folder: Path) -> Library:
    import torch

    with watched() as loaded:
        import sentence_transformers

        try:
            model = getattr(sentence_transformers, kind)(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32},
            )
        except ImportError:
            raise
        except Exception as error:  # each means that the library does not read these files
            raise Unreadable(f"{kind} cannot open it: {_reason(error)}") from None
        backbone = model.transformers_model or _routed(model)
        if backbone is None:
            raise Unreadable(f"{kind} finds no transformers model in it")
        backbone = _adapted(checkpoint, backbone)
        loaded.check(head=kind == "CrossEncoder" and checkpoint.kind == "classify", checkpoint=checkpoint)
    return SentenceLibrary(kind, model.eval().float(), backbone, checkpoint, plan)


def _routed(model: Any) -> Any:
    """The transformers model behind a Router; None: there is none."""
    import torch

    routes = getattr(model[0], "sub_modules", {}).values()
    return next(
        (route[0].model for route in routes if isinstance(getattr(route[0], "model", None), torch.nn.Module)),
        None,
    )


def _transformers(
    checkpoint: Checkpoint, plan: Plan, folder: Path, config: Mapping[str, Any], tokenizer: Any
) -> Library:
    import torch
    import transformers

    name = auto_class(checkpoint, config)
    if (
        name == "AutoModel"
        and checkpoint.adapter is not None
        and checkpoint.adapter.settings.get("task_type") == "SEQ_CLS"
    ):
        name = "AutoModelForSequenceClassification"
    with watched() as loaded:
        try:
            labels = (
                {"num_labels": plan.heads["classify"].dim}
                if name == "AutoModelForSequenceClassification"
                else {}
            )
            model = getattr(transformers, name).from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, dtype=torch.float32, **labels
            )
        except Exception as error:
            raise Unreadable(f"{name} cannot open it: {_reason(error)}") from None
        model = _adapted(checkpoint, model)
        loaded.check(head=name == "AutoModelForSequenceClassification", checkpoint=checkpoint)
    return TransformersLibrary(model.eval(), tokenizer, checkpoint, plan)


def _adapted(checkpoint: Checkpoint, model: Any) -> Any:
    """With the LoRA adapter beside the weights, by PEFT, inside the module itself."""
    if checkpoint.adapter is None:
        return model
    try:
        import peft
    except ImportError:
        raise Unreadable("the adapter needs peft, which is not installed") from None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            peft.PeftModel.from_pretrained(model, str(checkpoint.adapter.folder))
        except Exception as error:
            raise Unreadable(
                f"peft cannot put the adapter on {type(model).__name__}: {_reason(error)}"
            ) from None
    if any("missing adapter keys" in str(entry.message) for entry in told):
        raise Unreadable(f"peft finds no place for the adapter's tensors in {type(model).__name__}")
    return model


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs the repository's own code, which is never run"
    if "does not recognize this architecture" in text:
        return "transformers has no such model_type"
    return (text[:197] + "...") if len(text) > 200 else text or type(error).__name__
