"""Pictures in data: URLs and in local files; how many bytes of them a request may bring."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from poolrt.runtime.errors import InputError
from poolrt.serve.errors import ApiError
from poolrt.serve.media import data_urls, local_files
from poolrt.serve.media.allowance import Allowance

PICTURE = bytes(range(256)) * 3


def data_url(content: bytes = PICTURE, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_a_data_url_holds_its_bytes():
    url = data_urls.read(data_url())
    assert (url.media_type, data_urls.decoded(url.text)) == ("image/png", PICTURE)
    assert data_urls.size_of(url.text) == len(PICTURE)
    assert data_urls.read("DATA:;base64,").text == ""
    assert data_urls.decoded("") == b""
    assert data_urls.read("data:image/PNG;charset=x;base64,AA==").media_type == "image/png"


@given(st.binary(max_size=200))
def test_the_size_of_base64_is_known_before_it_is_decoded(content: bytes):
    text = base64.b64encode(content).decode()
    assert data_urls.size_of(text) == len(content)
    assert data_urls.decoded(text) == content


def test_large_base64_is_decoded_in_pieces():
    content = os.urandom(2_500_001)
    assert data_urls.decoded(base64.b64encode(content).decode()) == content


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("data:image/png", "missing ',' separator"),
        ("data:image/png,abc", "Only base64 data URLs are supported"),
        ("data:image/png;base32,abc", "Only base64 data URLs are supported"),
    ],
)
def test_a_data_url_without_base64_is_refused(url: str, text: str):
    with pytest.raises(InputError, match=text):
        data_urls.read(url)


@pytest.mark.parametrize(
    "text",
    ["AA==AA==", "A", "AA", "AAA", "AA AA", "AAAA\n", "-_-_", "AA%3D%3D", "ä", "\ud800", "====", "=AAA"],
)
def test_what_is_no_base64_is_refused(text: str):
    with pytest.raises(InputError, match="Non-base64 digit found"):
        data_urls.decoded(text)


def test_padding_inside_a_large_text_is_refused():
    piece = "A" * ((1 << 20) - 4) + "AA=="
    with pytest.raises(InputError, match="Non-base64 digit found"):
        data_urls.decoded(piece + "AAAA")
    assert len(data_urls.decoded(piece)) == ((1 << 20) - 4) // 4 * 3 + 1


def test_a_video_may_come_as_jpeg_frames():
    url = data_urls.read("data:video/jpeg;base64,AAAA,BBBB,CCCC")
    assert data_urls.frames(url, 32) == ["AAAA", "BBBB", "CCCC"]
    assert data_urls.frames(url, 2) == ["AAAA", "BBBB"]
    assert data_urls.frames(url, -1) == ["AAAA", "BBBB", "CCCC"]
    assert data_urls.frames(data_urls.read("data:video/mp4;base64,AAAA"), 32) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    (inside / "deeper").mkdir(parents=True)
    (inside / "a b.png").write_bytes(PICTURE)
    (inside / "deeper" / "c.png").write_bytes(b"c")
    (inside / "link.png").symlink_to(inside / "a b.png")
    (tmp_path / "secret").write_bytes(b"secret")
    (inside / "out.png").symlink_to(tmp_path / "secret")
    (inside / "out").symlink_to(tmp_path)
    return inside


def test_a_file_below_the_folder_is_read(folder: Path):
    for name in ("a%20b.png", "link.png", "deeper/../a%20b.png"):
        assert local_files.read(f"file://{folder}/{name}", folder, 1 << 20) == PICTURE
    assert local_files.read(f"file://localhost{folder}/deeper/c.png", folder, 1) == b"c"


@pytest.mark.parametrize(
    "path",
    [
        "{folder}/../secret", "{folder}/out.png", "{folder}/out/secret", "{folder}/%2e%2e/secret", "{folder}",
        "{folder}/", "{folder}/deeper", "{folder}/nothing.png", "/etc/passwd", "{folder}2/x", "relative.png",
        "/dev/zero", "{folder}/a%20b.png%00", "{folder}/" + "x" * 5000, "", "/", "{folder}/a%ffb.png",
    ],
)  # fmt: skip
def test_what_lies_outside_the_folder_is_refused(folder: Path, path: str):
    url = "file://" + path.format(folder=folder)
    with pytest.raises(InputError) as raised:
        local_files.read(url, folder, 1 << 20)
    assert "secret" not in str(raised.value)
    # Whether the file is there makes no difference.
    assert "--allowed-local-media-path" in str(raised.value) or "names no host" in str(raised.value)


def test_no_file_is_read_without_a_folder(folder: Path):
    with pytest.raises(InputError, match="Cannot load local files without `--allowed-local-media-path`"):
        local_files.read(f"file://{folder}/deeper/c.png", None, 1 << 20)


def test_a_file_is_read_up_to_the_limit(folder: Path):
    assert len(local_files.read(f"file://{folder}/a%20b.png", folder, len(PICTURE))) == len(PICTURE)
    with pytest.raises(InputError, match="larger than"):
        local_files.read(f"file://{folder}/a%20b.png", folder, len(PICTURE) - 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_a_pipe_is_no_file_and_nobody_waits_for_it(folder: Path):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(InputError):
        local_files.read(f"file://{folder}/pipe.png", folder, 1 << 20)


def test_a_folder_that_becomes_a_link_after_the_check_is_not_followed(folder: Path, monkeypatch):
    """The path is checked, then opened: in between somebody may swap a folder for a link."""
    resolve = Path.resolve

    def swapping(path: Path, strict: bool = False) -> Path:
        answer = resolve(path, strict=strict)
        if strict:
            (folder / "deeper").rename(folder / "moved")
            (folder / "deeper").symlink_to(folder.parent)
            (folder.parent / "c.png").write_bytes(b"secret")
        return answer

    monkeypatch.setattr(Path, "resolve", swapping)
    with pytest.raises(InputError):
        local_files.read(f"file://{folder}/deeper/c.png", folder, 1 << 20)


def test_the_bytes_of_a_request_are_bounded_together():
    taken: list[int] = []
    allowance = Allowance(10, taken.append)
    allowance.take(6)
    allowance.declare(4)
    with pytest.raises(ApiError) as raised:
        allowance.take(5)
    assert raised.value.status == 422
    assert "--max-media-bytes" in str(raised.value)
    assert taken == [6]
