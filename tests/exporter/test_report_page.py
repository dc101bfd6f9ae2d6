"""`poolrt export --report`: a page that stands alone and says nothing that was not measured."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import onnx
import pytest
from poolrt.exporter import cli
from poolrt.exporter.base import report as reports
from poolrt.exporter.report_page import charts, layers, operators, page
from poolrt.runtime import errors
from poolrt.runtime.artifact.manifest import Manifest
from poolrt.runtime.artifact.reading import read

GUESS = "pooling: mean (<1_Pooling/config.json>; to change: --pooler-config.pooling_type CLS)"


class Page(HTMLParser):
    """Rows of all tables, the titles of all plots, the elements and what they name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: set[str] = set()
        self.named: list[str] = []
        self.cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.named += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self.cell is not None:
            self.rows[-1].append("".join(self.cell))
            self.cell = None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell.append(data)


def report_of(folder: Path) -> tuple[reports.Report, Manifest]:
    manifest = read(folder, check="quick").manifest
    return reports.of_artifact(
        manifest,
        str(folder),
        guesses=(GUESS,),
        evidence=manifest.evidence,
        reading=manifest.reading,
        seconds={"trace to ONNX": 1.25},
    ), manifest


@pytest.fixture(scope="module", params=["minilm_like", "bert_cross_encoder"])
def drawn(
    request: pytest.FixtureRequest, artifacts: Callable[[str], Path]
) -> tuple[str, reports.Report, Manifest]:
    """An embedder's page, and that of a model with scores."""
    report, manifest = report_of(artifacts(request.param))
    return page.html(report, manifest), report, manifest


def test_the_page_stands_alone(drawn: tuple[str, reports.Report, Manifest]):
    text = drawn[0]
    read_page = Page(text)
    assert not read_page.named
    assert not {"script", "link", "img", "iframe", "object"} & read_page.elements
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src 'none'" in text


def test_every_comparison_of_the_manifest_is_a_row_with_its_numbers(
    drawn: tuple[str, reports.Report, Manifest],
):
    text, _, manifest = drawn
    rows = Page(text).rows
    assert manifest.evidence
    for row in manifest.evidence:
        assert row.mean_difference is not None
        assert row.worst_difference is not None
        cosines = []
        if row.worst_cosine is not None and row.mean_cosine is not None:
            cosines = [f"{max(0.0, 1 - value):.1e}" for value in (row.worst_cosine, row.mean_cosine)]
        same = "" if row.rank_agreement is None else f"{row.rank_agreement * 100:.1f} %"
        differences = [f"{row.worst_difference:.1e}", f"{row.mean_difference:.1e}"]
        assert [row.shape, str(row.texts), *cosines, *differences, same] in rows
        assert str(row.tolerance) in text


def test_sizes_guesses_and_versions_are_on_the_page(drawn: tuple[str, reports.Report, Manifest]):
    text, report, manifest = drawn
    rows = Page(text).rows
    assert all([name, str(count)] in rows for name, count in report.sizes.items())
    assert "&lt;1_Pooling/config.json&gt;; to change" in text
    assert all(f"<dt>{name}</dt><dd>{version}</dd>" in text for name, version in manifest.versions.items())


def test_each_plot_is_well_formed_and_has_words(drawn: tuple[str, reports.Report, Manifest]):
    plots = re.findall(r"<svg .*?</svg>", drawn[0], re.DOTALL)
    assert len(plots) >= 4
    for plot in plots:
        root = ElementTree.fromstring(plot)
        assert root.get("role") == "img"
        assert root.findtext("title")


def test_operators_are_those_that_onnx_runtime_ran(artifacts: Callable[[str], Path]):
    folder = artifacts("minilm_like")
    manifest = read(folder, check="quick").manifest
    times = operators.measured(folder, manifest, manifest.graph("text"))
    assert {"Softmax", "LayerNormalization"} <= times.kinds.keys()  # which nothing is fused with
    assert all(seconds > 0 for seconds in times.kinds.values())
    assert [*times.kinds.values()] == sorted(times.kinds.values(), reverse=True)
    assert times.texts > 5
    assert [*times.layers] == [
        layers.REST, "embeddings", "encoder.layer.0", "encoder.layer.1", "heads",
    ]  # fmt: skip
    assert sum(times.layers.values()) == pytest.approx(sum(times.kinds.values()))
    text = page.html(*report_of(folder))
    assert [row[0] for row in Page(text).rows if row[0] in times.layers] == [*times.layers]


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("backbone.model.encoder.layer.11.attention.self", "encoder.layer.11"),
        ("backbone.model.layers.3", "layers.3"),
        ("backbone.model.language_model.layers.3.mlp", "layers.3"),
        ("backbone.model.norm", "norm"),
        ("backbone.model.embeddings.LayerNorm", "embeddings"),
        ("backbone.model", layers.REST),
        ("backbone", layers.REST),
        ("heads.parts.0.layers.1", "heads"),
    ],
)
def test_a_module_is_of_a_layer(module: str, layer: str):
    assert layers.of_module(module) == layer


def test_what_passes_made_and_what_is_fused_is_of_the_layer_it_reads():
    def node(name: str, read: str, written: str) -> onnx.NodeProto:
        return onnx.helper.make_node("Identity", [read], [written], name=name)

    body = onnx.helper.make_graph([node("inner", "a", "i"), node("packed/x", "b", "j")], "body", [], [])
    nodes = [
        node("packed/mask", "mask", "m"),
        node("backbone.model.layers.0/node_a", "m", "a"),
        node("backbone.model.layers.1/node_b", "a", "b"),
        node("packed/both", "b", "c"),
        onnx.helper.make_node("If", ["m"], ["d"], name="blocks/if", then_branch=body),
        node("heads/node_e", "c", "e"),
    ]
    file = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], []))
    places = layers.of_graph(file.graph.node)
    assert places == {
        "packed/mask": layers.REST,
        "backbone.model.layers.0/node_a": "layers.0",
        "backbone.model.layers.1/node_b": "layers.1",
        "packed/both": "layers.1",
        "blocks/if": layers.REST,
        "inner": "layers.0",
        "packed/x": "layers.1",
        "heads/node_e": "heads",
    }
    assert layers.of_event("backbone.model.layers.1/node_b/MatMulAddFusion", places) == "layers.1"
    assert layers.of_event("Memcpy", places) == layers.REST
    spent = {"heads/node_e": 1.0, "packed/both": 2.0, "backbone.model.layers.1/node_b/Fused": 4.0}
    assert operators.layers_of(spent, places) == {"layers.1": 6.0, "heads": 1.0}


def test_the_first_run_and_operators_around_others_are_not_counted():
    def node(kind: str, start: int, spent: int) -> dict[str, object]:
        return {"cat": "Node", "ts": start, "dur": spent, "args": {"op_name": kind}, "name": kind}

    def run(start: int, spent: int) -> dict[str, object]:
        return {"cat": "Session", "name": "model_run", "ts": start, "dur": spent}

    events = [
        run(0, 100), node("MatMul", 1, 90),
        run(200, 50), node("MatMul", 202, 30), node("If", 201, 40), node("Add", 233, 5),
        run(300, 50), node("If", 301, 40), node("MatMul", 302, 10), node("Add", 333, 5),
    ]  # fmt: skip
    events[3]["name"] = "layer/MatMul_kernel_time"
    kinds, nodes = operators.seconds_of(events)
    assert kinds == pytest.approx({"MatMul": 20e-6, "Add": 5e-6})
    assert nodes == pytest.approx({"layer/MatMul": 15e-6, "MatMul": 5e-6, "Add": 5e-6})


def test_a_graph_that_does_not_run_here_is_left_out_with_the_reason(
    artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operators, "is_large_graph", lambda *_: True)
    text = page.html(*report_of(artifacts("minilm_like")))
    assert "Not measured: the graph is too large to be run whole on this machine." in text
    assert "ms a batch" not in text


def test_points_lie_by_their_logarithm_and_the_bound_right_of_what_holds():
    rows = [charts.Drift("a", 1e-6, 1e-7), charts.Drift("b", 1e-5, None), charts.Drift("c", 0.0, 0.0)]
    plot = ElementTree.fromstring(charts.drifts("t", rows, 1e-4))
    places = [float(circle.get("cx", "")) for circle in plot.iter("circle") if circle.get("class") == "worst"]
    (bound,) = [
        float(path.get("d", "").split()[0][1:]) for path in plot.iter("path") if path.get("class") == "bound"
    ]
    assert math.isclose(places[1] - places[0], bound - places[1], abs_tol=0.2)  # a decade each
    assert places[2] == charts.LEFT


def test_an_export_writes_the_page(
    checkpoints: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = [str(checkpoints("bert_plain")), "--out", str(tmp_path), "--name", "plain", "--json"]
    assert cli.export([*arguments, "--report", str(tmp_path)]) == errors.EXIT_INPUT
    assert "a folder; name a file in it" in capsys.readouterr().err
    assert not (tmp_path / "plain").exists()
    assert cli.export([*arguments, "--report"]) == errors.EXIT_OK
    file = tmp_path / "plain.report.html"
    exported = json.loads(capsys.readouterr().out)
    assert exported["page"] == str(file)
    text = file.read_text(encoding="utf-8")
    assert all(guess.partition(":")[0] in text for guess in exported["guesses"])
    read(tmp_path / "plain")  # it is no file of the artifact


def test_a_page_that_cannot_be_written_leaves_the_artifact(
    artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    report, _ = report_of(artifacts("minilm_like"))
    monkeypatch.setattr(page, "html", lambda *_: "page")
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InputError, match="the artifact is whole"):
        page.written(report, str(tmp_path / "file" / "report.html"))
    assert page.written(report, str(tmp_path / "new" / "report.html")).page is not None
