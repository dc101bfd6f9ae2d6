"""A graph's inputs are filled from items by the axes that its manifest names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter.proof.verify import Runner
from poolrt.runtime import load
from poolrt.runtime.artifact.manifest import Tensor
from poolrt.runtime.artifact.reading import read, sealed
from poolrt.runtime.engines import feed, ort
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import ArtifactError
from poolrt.runtime.inputs.items import PROMPT, Item


def tensor(name: str, *axes: str | int, **facts: Any) -> Tensor:
    return Tensor(name=name, axes=axes or ("batch", "tokens"), **{"dtype": "int64", **facts})


ALL = [tensor(name) for name in feed.VALUES]
PLAIN = Item(ids=[5, 6, 7])
SPECIAL = Item(ids=[8, 9], type_ids=[0, 1], attention=[1, 0], kinds=[PROMPT, 0])


def test_rows_are_padded_on_the_right_and_absent_values_are_those_of_plain_text():
    arrays = Feed(ALL, pad_id=4).arrays([PLAIN, SPECIAL])
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "input_ids": [[5, 6, 7], [8, 9, 4]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 0, 0], [0, 1, 0]],
        "token_kinds": [[0, 0, 0], [PROMPT, 0, 0]],
    }


def test_rows_that_only_fill_a_shape_attend_to_one_token():
    arrays = Feed(ALL[:2], pad_id=4).arrays([SPECIAL], rows=3, width=4)
    assert arrays["input_ids"].tolist() == [[8, 9, 4, 4], [4, 4, 4, 4], [4, 4, 4, 4]]
    assert arrays["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]


def test_only_the_graphs_own_inputs_are_filled_in_their_order_and_type():
    arrays = Feed([tensor("token_type_ids", dtype="int32"), tensor("input_ids")], pad_id=0).arrays([PLAIN])
    assert [(name, array.dtype) for name, array in arrays.items()] == [
        ("token_type_ids", np.int32),
        ("input_ids", np.int64),
    ]


def test_the_values_of_one_item_have_no_padding():
    assert [list(feed.values(name, PLAIN)) for name in feed.VALUES] == [
        [5, 6, 7],
        [1, 1, 1],
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert [list(feed.values(name, SPECIAL)) for name in feed.VALUES] == [[8, 9], [1, 0], [0, 1], [PROMPT, 0]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor("pixels")], r"graph input 'pixels': this version fills input_ids, attention_mask"),
        ([tensor("input_ids", "batch", "patches")],
        r"axes \['batch', 'patches'\], this version fills \[batch, tokens\]"),
        ([tensor("input_ids", "tokens", "batch")], r"axes \['tokens', 'batch'\]"),
        ([tensor("input_ids", "batch", "tokens", 3)], r"axes \['batch', 'tokens', 3\]"),
        ([], r"their rows have the axes \[\], expected one"),
    ],
)  # fmt: skip
def test_a_graph_that_cannot_be_filled_is_refused_before_it_runs(inputs: list[Tensor], message: str):
    with pytest.raises(ArtifactError, match=message):
        Feed(inputs, pad_id=0)


def test_a_graph_that_cannot_be_filled_is_refused_before_its_engine_is_opened(
    artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(artifacts("minilm_like"), tmp_path / "pixels")
    manifest = read(folder).manifest
    pixels = replace(manifest.graphs[0], inputs=(tensor("pixels"),))
    unfillable = replace(manifest, graphs=(pixels,))
    (folder / "manifest.json").write_bytes(sealed(unfillable))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(ort, "open", never)
    with pytest.raises(ArtifactError, match="graph input 'pixels'"):
        load(folder)
    with pytest.raises(ArtifactError, match="graph input 'pixels'"):
        Runner(folder, unfillable, pixels)
