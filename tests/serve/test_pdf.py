"""Pages of PDFs are drawn in a process that has limits and no secrets."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from poolrt.runtime import cancellation
from poolrt.runtime.errors import InputError
from poolrt.serve.errors import ApiError
from poolrt.serve.pages import pdf, pdf_drawing

from tests.serve.conftest import Live
from tests.serve.pdf_files import A4, bomb, document
from tests.serve.pdf_files import pdf as made

LOOP = b"/Type /XObject /Subtype /Form /BBox [0 0 600 800] /Resources << /XObject << /X 6 0 R >> >>"
URL = "data:application/pdf;base64,"


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB"))


@pytest.mark.parametrize(("number", "size"), [(1, A4), (2, (842, 595))])
def test_a_page_is_drawn_upright_in_its_proportions(number: int, size: tuple[int, int]) -> None:
    png, facts = pdf.drawn(made(A4, (842, 595)), number)
    image = pixels(png)
    assert (facts["width"], facts["height"], facts["pages"]) == (image.shape[1], image.shape[0], 2)
    assert facts["width"] / facts["height"] == pytest.approx(size[0] / size[1], rel=0.01)
    assert max(image.shape) <= pdf_drawing.LONGER_SIDE + 1
    side = 50 * facts["width"] // size[0]
    assert image[-side, side].tolist() == [255, 0, 0], "the square in the lower left corner, in red"
    assert image[side, -side].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("data", "number", "why"),
    [
        (b"<svg/>", 1, "no PDF"),
        (b"%PDF-1.7 " + bytes(range(256)) * 20, 1, "no PDF that can be read"),
        (made(A4)[:400], 1, "no PDF that can be read"),
        (made(A4), 2, "has 1 page, and no page 2"),
        (made((1, 20000)), 1, "no page"),
        (made(A4, content=bomb(3 << 30)), 1, "memory or time"),
    ],
    ids=["svg", "garbage", "truncated", "absent page", "strip", "bomb"],
)
def test_what_cannot_be_drawn_is_refused(data: bytes, number: int, why: str) -> None:
    with pytest.raises(InputError, match=why):
        pdf.drawn(data, number)


def test_a_page_that_says_it_is_endless_is_drawn_small() -> None:
    _, facts = pdf.drawn(made((1e7, 1e7)), 1)
    assert facts["width"] == facts["height"] == pdf_drawing.LONGER_SIDE


def test_a_file_beyond_the_limit_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "PDF_BYTES", 100)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(InputError, match="at most 100 are read"):
        pdf.drawn(made(A4), 1)


def test_a_page_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "LIMIT_S", 0.0)
    with pytest.raises(InputError, match="memory or time"):
        pdf.drawn(made(A4), 1)


@pytest.mark.slow
def test_a_form_that_draws_itself_ends() -> None:
    again = b"/X Do " * 33
    form = b"<< %b /Length %d >>\nstream\n" % (LOOP, len(again)) + again + b"\nendstream"
    with pytest.raises(InputError, match="memory or time"):
        pdf.drawn(made(A4, content=b"/X Do", forms=[form]), 1)


SPY = """
import json, os, sys
sys.path.insert(0, {folder!r})
import pdf_drawing
pdf_drawing.confine()
report = {{"environment": sorted(os.environ)}}
try:
    bytearray(2 << 30)
except MemoryError:
    report["memory"] = "refused"
import resource
report["files"], report["core"] = resource.getrlimit(resource.RLIMIT_NOFILE)[1], resource.getrlimit(resource.RLIMIT_CORE)[1]
print(json.dumps(report))
"""  # noqa: E501


def test_the_process_has_limits_and_nothing_of_the_servers_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    folder = str(Path(pdf_drawing.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-I", "-c", SPY.format(folder=folder)],
        env=pdf._environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["memory"] == "refused"
    assert (report["files"], report["core"]) == (16, 0)
    assert not {"VLLM_API_KEY", "PATH", "HOME"} & set(report["environment"])


def test_png_of_rows_with_gaps_and_four_channels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    rows = np.zeros((5, 32), np.uint8)
    rows[:, :28] = image.reshape(5, 28)
    png = pdf_drawing.png(rows.tobytes(), 7, 5, 32, 4)
    assert (pixels(png) == image[..., :3]).all()
    assert (pixels(pdf_drawing.png(rows.tobytes(), 7, 5, 32, 1))[..., 0] == rows[:, :7]).all()


def test_the_route_answers_a_page(embedder: Live) -> None:
    encoded = URL + base64.b64encode(made(A4, A4)).decode()
    rendered: dict[str, Any] = embedder.ask("/playground/pdf", {"pdf": encoded, "page": 2})
    head, _, body = rendered["image"].partition(",")
    assert head == "data:image/png;base64"
    assert pixels(base64.b64decode(body)).shape == (rendered["height"], rendered["width"], 3)
    assert rendered["pages"] == 2
    assert "no page 3" in embedder.refused("/playground/pdf", {"pdf": encoded, "page": 3})["message"]
    assert embedder.refused("/playground/pdf", {"pdf": encoded, "page": 0})["code"] == 400
    assert "data" in embedder.refused("/playground/pdf", {"pdf": "file:///etc/passwd"})["message"]
    assert embedder.client.get("/playground.json").json()["pdf"] is True


def test_without_the_library_the_route_says_what_to_install(
    embedder: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert embedder.client.get("/playground.json").json()["pdf"] is False
    with pytest.raises(ApiError) as raised:
        pdf.drawn(made(A4), 1)
    assert (raised.value.status, "poolrt[pdf]" in str(raised.value)) == (501, True)


def test_a_client_that_left_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with cancellation.watched(lambda: True), pytest.raises(CancelledError):
        pdf.drawn(made(A4, content=bomb(3 << 30)), 1)
    assert started[0].returncode == -signal.SIGKILL


def test_no_file_stays_open() -> None:
    folder = f"/proc/{os.getpid()}/fd"
    if not Path(folder).is_dir():
        pytest.skip("no /proc on this system")
    pdf.drawn(made(A4), 1)
    before = len(os.listdir(folder))
    for _ in range(3):
        pdf.drawn(made(A4), 1)
    assert len(os.listdir(folder)) == before


def test_an_encrypted_file_names_its_password() -> None:
    locked = b"<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O <%b> /U <%b> >>" % (b"41" * 32, b"42" * 32)
    data = document([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 0 >>", locked])
    data = data.replace(b"/Root 1 0 R", b"/Root 1 0 R /Encrypt 3 0 R /ID [<0102> <0102>]")
    with pytest.raises(InputError, match="protected by a password"):
        pdf.drawn(data, 1)
