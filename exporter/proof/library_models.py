"""Opens a checkpoint by its own library: Sentence Transformers' classes where it has their files, else
transformers' Auto classes.

Only local files are read, and a checkpoint's own code is never run.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.quiet import silent_transformers
from .library_answers import Library, TokenizerLibrary, TowersLibrary, TransformersLibrary, auto_class
from .library_sentence_transformers import SentenceLibrary, sentence_class

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..heads.planning import Plan


class Unreadable(Exception):
    """The library does not read this checkpoint; the message says why."""


_LOADING = threading.Lock()


@dataclass
class Loaded:
    """What transformers reported about the models that it read."""

    models: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def check(self, *, head: bool, checkpoint: Checkpoint) -> None:
        """Raises Unreadable for weights that are random because the files have none. `head`: whether a pooler
        takes part in the answer."""
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
    """While open, transformers reports for every model that it reads which weights the files lack.

    Sentence Transformers drops that report, and a model with random weights in its gaps would be no
    reference.
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
    """Opens `folder`, whose config.json has the overrides, by its own library: its model, or its tokenizer
    alone.

    Raises Unreadable where neither can be opened.
    """
    routed = checkpoint.sentence is not None and checkpoint.sentence.static is not None
    kind = "SparseEncoder" if routed else sentence_class(folder, config)
    inner = folder / checkpoint.inner.relative_to(checkpoint.folder)
    lacks = []
    if plan.vision is not None and not plan.vision.images.apart:
        # Prompts with pictures are read by a class that library_reference.py opens.
        return TokenizerLibrary(_tokenizer(inner), checkpoint, plan)
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
    """Notes in `library.foreign` that config.json names a class which transformers lacks.

    That class is the repository's own code, which is never run. It may compute otherwise over the same
    weights, so a disagreement then is no error.
    """
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
    apart = plan.vision is not None and plan.vision.images.apart
    return (TowersLibrary if apart else TransformersLibrary)(model.eval(), tokenizer, checkpoint, plan)


def _adapted(checkpoint: Checkpoint, model: Any) -> Any:
    """Lets PEFT put the checkpoint's LoRA adapter into the module. Raises Unreadable."""
    if checkpoint.adapter is None:
        return model
    try:
        import peft
    except ImportError:
        raise Unreadable("the adapter needs peft, which is not installed") from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            peft.PeftModel.from_pretrained(model, str(checkpoint.adapter.folder))
        except Exception as error:
            raise Unreadable(
                f"peft cannot put the adapter on {type(model).__name__}: {_reason(error)}"
            ) from None
    if any("missing adapter keys" in str(entry.message) for entry in caught):
        raise Unreadable(f"peft finds no place for the adapter's tensors in {type(model).__name__}")
    return model


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs the repository's own code, which is never run"
    if "does not recognize this architecture" in text:
        return "transformers has no such model_type"
    return (text[:197] + "...") if len(text) > 200 else text or type(error).__name__
