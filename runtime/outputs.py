"""What a call of a model returns: vLLM's output objects, with its class and attribute names and numpy arrays.

`Outputs` is a sequence of one object per input, and an array at the same time:
`np.asarray(model.embed(texts))` is [texts, dim].
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
SHOWN = 2
"""Numbers of a vector, and members of a list, that a printed result shows."""


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    data: Floats
    """[dim], [labels], [tokens, dim] or [tokens, labels] float32 by task. Of the task `plugin` it is what the
    plugin returned."""

    def __repr__(self) -> str:
        return f"PoolingOutput({_array(self.data)})"


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    embedding: Floats
    """[dim] float32"""

    @property
    def data(self) -> Floats:
        return self.embedding

    @property
    def hidden_size(self) -> int:
        return len(self.embedding)

    def __repr__(self) -> str:
        return f"EmbeddingOutput({_array(self.embedding)})"


def label_of(place: int, labels: Sequence[str]) -> str:
    """The name of a label, as transformers calls one that the checkpoint does not name."""
    return labels[place] if place < len(labels) else f"LABEL_{place}"


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    probs: Floats
    """[labels] float32"""
    label: str | None = None
    """Name of the label with the largest value; None where the checkpoint has no names."""

    @property
    def data(self) -> Floats:
        return self.probs

    @property
    def num_classes(self) -> int:
        return len(self.probs)

    def __repr__(self) -> str:
        label = "" if self.label is None else f", label={self.label!r}"
        return f"ClassificationOutput({_numbers(self.probs)}, classes={len(self.probs)}{label})"


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    score: float
    before_activation: float | None = field(default=None, compare=False, repr=False)
    """The logit. Two logits may differ where their scores round to the same number, as a sigmoid's 1.0. None:
    there is no activation."""

    @property
    def rank_value(self) -> float:
        """The number by which documents are ranked: the logit, else the score."""
        return self.score if self.before_activation is None else self.before_activation

    @property
    def data(self) -> Floats:
        return np.array([self.score], dtype=np.float32)

    def __repr__(self) -> str:
        return f"ScoringOutput({self.score:.4g})"


Result = TypeVar("Result", PoolingOutput, EmbeddingOutput, ClassificationOutput, ScoringOutput)


@dataclass(frozen=True, slots=True)
class RequestOutput(Generic[Result]):
    outputs: Result
    prompt_token_ids: Sequence[int]
    """The ids that the engine computed: after truncation, with special tokens, without padding."""
    prompt_tokens: int
    """The count that usage reports. It differs from len(prompt_token_ids) only where vLLM counts otherwise
    (the separator of a score)."""
    truncated: bool = False
    request_id: str = ""
    num_cached_tokens: int = 0
    """Tokens that were not computed for it, because other prompts begin with them too."""
    finished: bool = True

    def __repr__(self) -> str:
        cut = ", truncated=True" if self.truncated else ""
        return f"{type(self).__name__}({self.outputs!r}, prompt_tokens={self.prompt_tokens}{cut})"


class PoolingRequestOutput(RequestOutput[PoolingOutput]):
    __slots__ = ()


class EmbeddingRequestOutput(RequestOutput[EmbeddingOutput]):
    __slots__ = ()


class ClassificationRequestOutput(RequestOutput[ClassificationOutput]):
    __slots__ = ()


class ScoringRequestOutput(RequestOutput[ScoringOutput]):
    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Match:
    """A query and a document of late interaction, token by token. Tokens without a vector are left out."""

    similarities: Floats
    """[query tokens, document tokens] float32. The sum of the largest of each row is the score."""
    query_ids: list[int]
    document_ids: list[int]
    feature_places: NDArray[np.int64]
    """[features]: the document token that stands for each feature of its pictures, in their order; -1: a
    token without a vector."""

    def __repr__(self) -> str:
        query, document = self.similarities.shape
        return f"Match({query} query tokens, {document} document tokens)"


@dataclass(frozen=True, slots=True)
class Ranked:
    index: int
    """Position of the document in the call."""
    score: float
    document: object
    """As the caller passed it."""
    truncated: bool = False

    def __repr__(self) -> str:
        cut = ", truncated=True" if self.truncated else ""
        return (
            f"Ranked(index={self.index}, score={self.score:.4g}, document={_SHORT.repr(self.document)}{cut})"
        )


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Ranked]):
    """Documents by falling score, equal ones in the caller's order."""

    results: tuple[Ranked, ...]
    prompt_tokens: int
    truncated: int = 0
    """How many documents were cut, those beyond `top_n` included."""

    def __repr__(self) -> str:
        return f"Ranking({_listed(self.results)}, prompt_tokens={self.prompt_tokens})"

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> Ranked: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Ranked, ...]: ...
    def __getitem__(self, index: int | slice) -> Ranked | tuple[Ranked, ...]:
        return self.results[index]


@dataclass(frozen=True, slots=True)
class Outputs(Sequence[RequestOutput[Result]], Generic[Result]):
    """One object per input, in the caller's order; numpy sees one array."""

    requests: tuple[RequestOutput[Result], ...]
    padding: float = field(default=0.0, compare=False)
    """Computed token slots over tokens, minus 1: 0.14 means 14 slots of padding for every 100 tokens."""

    @property
    def prompt_tokens(self) -> int:
        return sum(request.prompt_tokens for request in self.requests)

    @property
    def truncated(self) -> int:
        """How many inputs were cut."""
        return sum(request.truncated for request in self.requests)

    @property
    def arrays(self) -> list[Floats]:
        """One array per input, also where their shapes differ (token tasks)."""
        return [request.outputs.data for request in self.requests]

    def __len__(self) -> int:
        return len(self.requests)

    @overload
    def __getitem__(self, index: int) -> RequestOutput[Result]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RequestOutput[Result], ...]: ...
    def __getitem__(self, index: int | slice) -> RequestOutput[Result] | tuple[RequestOutput[Result], ...]:
        return self.requests[index]

    def __repr__(self) -> str:
        return (
            f"Outputs({_listed([request.outputs for request in self.requests])}, "
            f"prompt_tokens={self.prompt_tokens})"
        )

    def __iter__(self) -> Iterator[RequestOutput[Result]]:
        return iter(self.requests)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Returns [inputs, dim], for scores [inputs]. Raises ValueError where the arrays of the inputs differ
        in shape; `arrays` has them."""
        if self.requests and isinstance(self.requests[0].outputs, ScoringOutput):
            stacked = np.array([request.outputs.data[0] for request in self.requests], dtype=np.float32)
        else:
            stacked = np.stack(self.arrays) if self.requests else np.zeros((0,), dtype=np.float32)
        return stacked if dtype is None else stacked.astype(dtype, copy=False)


def mapped(
    outputs: Outputs[PoolingOutput], kind: type[RequestOutput[Any]], convert: Callable[[PoolingOutput], Any]
) -> Outputs[Any]:
    """Returns the requests with their outputs converted by `convert`, as objects of `kind`."""
    requests = (
        kind(
            convert(request.outputs),
            request.prompt_token_ids,
            request.prompt_tokens,
            request.truncated,
            request.request_id,
            request.num_cached_tokens,
        )
        for request in outputs.requests
    )
    return Outputs(tuple(requests), outputs.padding)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def _array(data: Any) -> str:
    """`[0.031, -0.012, ...], dim=384`, of token vectors `[[0.031, -0.012, ...], ...], shape=(7, 384)`."""
    if not isinstance(data, np.ndarray):
        return _SHORT.repr(data)
    if data.ndim == 1:
        return f"{_numbers(data)}, dim={len(data)}"
    first = (
        ", ".join([*(_numbers(row) for row in data[:1]), *(["..."] if len(data) > 1 else [])])
        if data.ndim == 2
        else "..."
    )
    return f"[{first}], shape={data.shape}"


def _numbers(vector: NDArray[Any]) -> str:
    numbers = [f"{number:.3f}" for number in vector[:SHOWN].tolist()]
    return f"[{', '.join([*numbers, '...'] if len(vector) > SHOWN else numbers)}]"


def _listed(members: Sequence[object]) -> str:
    shown = ", ".join(repr(member) for member in members[:SHOWN])
    return f"[{shown}, ...], length={len(members)}" if len(members) > SHOWN else f"[{shown}]"
