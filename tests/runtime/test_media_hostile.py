"""Pictures and videos from strangers: a whole one is decoded, anything else is an InputError."""

from __future__ import annotations

import io
import resource
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from poolrt.runtime.errors import InputError
from poolrt.runtime.inputs.media import decode, prepared
from poolrt.runtime.inputs.media.limits import PictureLimits

from tests.pictures import CLIPS, FOLDER, _chunk, drawn, flat_png
from tests.runtime.test_media import PATCHES, TILES
from tests.runtime.test_media_goldens import VIDEO

FILES = sorted(
    path for path in FOLDER.iterdir() if path.suffix not in (".json", ".npz") and path.name not in CLIPS
)
MUTATIONS = 20_000
FLAT_BYTES = 64 * 1024 * 1024
"""By which memory may have grown between the 500th and the 2 000th picture."""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello world", "cannot identify image file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>", "cannot identify image file"),
        (b"<!DOCTYPE html><img src=x>", "cannot identify image file"),
        (b"%PDF-1.7\n1 0 obj\n", "cannot identify image file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "cannot identify"),
        (b"GIF89a", "could not be opened|cannot identify"),
        ((FOLDER / "rgb.png").read_bytes()[:20], "could not be opened|cannot identify"),
    ],
    ids=["empty", "text", "svg", "html", "pdf", "eps", "gif header", "png header"],
)
def test_what_is_no_picture_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        prepared.image(PATCHES, data, field="messages[0].image_url")
    assert error.value.field == "messages[0].image_url"


SECRET = b"sesame-2931"


@pytest.mark.parametrize(
    "data",
    [
        SECRET,
        b"P6 " + SECRET + b" 3 255\n",
        b"P6 2 2 255\n" + SECRET,
        _chunk(SECRET[:4], SECRET),
        (FOLDER / "rgb.png").read_bytes()[:33] + _chunk(SECRET[:4].upper(), SECRET) * 2,
        (FOLDER / "rgb.bmp").read_bytes()[:14] + SECRET * 9,
    ],
    ids=["text", "ppm header", "ppm cut off", "chunk", "png with a chunk", "bmp header"],
)
def test_an_error_repeats_no_bytes_of_a_file_and_says_what_to_do(data: bytes) -> None:
    for prepare in (lambda: decode.rgb(data), lambda: prepared.video(VIDEO, data)):
        with pytest.raises(InputError, match=r"; (save|send|scale)") as error:
            prepare()
        text = str(error.value).lower()
        assert not any(word in text for word in ("sesame", "2931", "sesa", "\\x", "b'"))


@pytest.mark.parametrize(
    ("width", "height"), [(9000, 9000), (13000, 13000), (14000, 14000), (65535, 1), (1, 40000)], ids=str
)
def test_a_picture_is_measured_before_it_is_decoded(width: int, height: int) -> None:
    data, before = flat_png(width, height), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="pixels"):
        decode.rgb(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_limits_can_be_set() -> None:
    data = (FOLDER / "rgb.png").read_bytes()
    for limits in (PictureLimits(bytes=100), PictureLimits(pixels=2799), PictureLimits(side=69)):
        with pytest.raises(InputError, match=r"at most|may have"):
            decode.rgb(data, limits=limits)
    assert decode.rgb(data, limits=PictureLimits(pixels=2800, side=70)).shape == (70, 40, 3)


@pytest.mark.parametrize(
    "name", ["rgb.png", "rgb.jpg", "rgb.webp", "animated.gif", "rgb.bmp", "cmyk.tif", "rgb.ppm"]
)
def test_a_truncated_picture_is_an_error(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(InputError):
            decode.rgb(data[: int(len(data) * part)] if name != "animated.gif" else data[: int(1200 * part)])


def test_a_broken_picture_is_not_embedded_as_black() -> None:
    """EXIF is read only when the pixels are there: reading it first would hide that they are broken."""
    data = (FOLDER / "turned_6.png").read_bytes()
    place = data.index(b"IDAT") + 8
    with pytest.raises(InputError):
        decode.rgb(data[:place] + b"\0" * 40 + data[place + 40 :])


def test_a_profile_or_a_text_that_unpacks_to_gigabytes_is_no_danger() -> None:
    plain = (FOLDER / "rgb.png").read_bytes()
    bomb = zlib.compress(b"\0" * 200_000_000)
    for chunk in (_chunk(b"iCCP", b"a\0\0" + bomb), _chunk(b"zTXt", b"a\0\0" + bomb)):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(InputError):
            decode.rgb(plain[:33] + chunk + plain[33:])
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024
    # A profile that cannot be read changes nothing.
    broken = plain[:33] + _chunk(b"iCCP", b"a\0\0no profile") + plain[33:]
    np.testing.assert_array_equal(decode.rgb(broken), decode.rgb(plain))


def test_a_file_of_two_kinds_is_read_as_the_kind_of_its_header() -> None:
    polyglot = (FOLDER / "rgb.png").read_bytes() + b"PK\x03\x04<script>alert(1)</script>%PDF-1.4"
    np.testing.assert_array_equal(decode.rgb(polyglot), decode.rgb((FOLDER / "rgb.png").read_bytes()))


def test_a_thin_picture_costs_what_its_pixels_cost() -> None:
    """Scaled to a shorter side of 224, this strip has 14 megapixels, of which the middle is computed."""
    from poolrt.runtime.artifact.images import Images

    images = Images(
        scheme="fixed", resample="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), height=224, width=224,
        shortest_edge=224, apart=True,
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert prepared.image(images, drawn(29000, 100)).items[0].arrays["pixel_values"].shape == (3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    with pytest.raises(InputError, match="292 times"):
        prepared.image(images, drawn(30000, 1))
    with pytest.raises(InputError, match="200 times"):
        prepared.image(PATCHES, drawn(30000, 1))


@pytest.mark.parametrize(
    "source",
    [
        None, "picture.png", 7, [1, 2], np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8),
    ],
    ids=["none", "path", "number", "list", "floats", "two bands", "no rows", "four axes"],
)  # fmt: skip
def test_what_is_neither_bytes_nor_picture_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        prepared.image(PATCHES, source)


def test_what_is_not_installed_is_named_and_arrays_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'poolrt\[images\]'"):
        prepared.image(PATCHES, (FOLDER / "rgb.png").read_bytes())
    with pytest.raises(InputError, match=r"pip install 'poolrt\[video\]'"):
        prepared.video(VIDEO, (FOLDER / "h264.mp4").read_bytes())
    assert prepared.image(PATCHES, drawn(64, 64)).tokens == 4
    assert prepared.video(VIDEO, np.stack([drawn(64, 64)] * 4)).tokens == 8


def test_a_tiff_that_pillow_turns_itself_is_turned_once() -> None:
    image, out = Image.fromarray(drawn(40, 30)), io.BytesIO()
    image.save(out, "TIFF", tiffinfo={0x0112: 6})
    turned = image.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(decode.rgb(out.getvalue()), np.asarray(turned))


@pytest.mark.parametrize("kind", ["MPO", "AVIF"])
def test_pictures_of_phones_and_browsers_are_decoded(kind: str) -> None:
    out = io.BytesIO()
    Image.fromarray(drawn(64, 48)).save(out, kind, **({"save_all": True} if kind == "MPO" else {}))
    assert decode.rgb(out.getvalue()).shape == (48, 64, 3)


@pytest.mark.parametrize("most", [10**9, 1 << 30])
def test_a_request_cannot_ask_for_more_pixels_than_are_prepared(most: int) -> None:
    with pytest.raises(InputError, match="at most"):
        prepared.image(PATCHES, drawn(64, 64), options={"min_pixels": most, "max_pixels": most})


def test_a_picture_is_not_cut_into_any_number_of_tiles() -> None:
    limits = PictureLimits(prepared_pixels=64 * 64 * 100)
    assert (
        len(prepared.image(TILES, drawn(640, 640), options={"do_resize": False}, limits=limits).items) == 101
    )
    with pytest.raises(InputError, match="at most"):
        prepared.image(TILES, drawn(641, 640), options={"do_resize": False}, limits=limits)


@pytest.mark.parametrize(
    "options",
    [
        {"max_frames": 10**6}, {"num_frames": 10**6}, {"min_frames": 9, "max_frames": 8}, {"fps": 0},
        {"fps": 1, "num_frames": 4},
        {"max_pixels": 10**9, "min_pixels": 10**9}, {"do_sample_frames": "no"},
    ],
    ids=str,
)  # fmt: skip
def test_a_request_cannot_ask_for_more_frames_than_the_model_reads(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        prepared.video(VIDEO, np.zeros((30, 64, 64, 3), np.uint8), fps=10, options=options)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"no video", b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n", (FOLDER / "rgb.png").read_bytes(),
        (FOLDER / "h264.mp4").read_bytes()[:2000],
    ],
    ids=["empty", "text", "playlist", "list of files", "picture", "truncated"],
)  # fmt: skip
def test_what_is_no_video_is_refused(data: bytes) -> None:
    with pytest.raises(InputError) as error:
        prepared.video(VIDEO, data)
    assert error.value.field == "video_url"


def test_a_video_is_measured_before_it_is_decoded() -> None:
    data = (FOLDER / "h264.mp4").read_bytes()
    for limits in (
        PictureLimits(video_bytes=100), PictureLimits(video_frames=23), PictureLimits(pixels=1000),
        PictureLimits(video_pixels=10_000), PictureLimits(video_work=64 * 48 * 20),
        PictureLimits(prepared_video_pixels=1000),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"at most|are read|are decoded|may be"):
            prepared.video(VIDEO, data, limits=limits)
    assert prepared.video(VIDEO, data).tokens


def test_frames_of_a_list_have_one_size_and_one_frame_is_no_video() -> None:
    with pytest.raises(InputError, match="frame 2"):
        prepared.video(VIDEO, [drawn(64, 48), drawn(64, 50)])
    with pytest.raises(InputError, match="at least 2"):
        prepared.video(VIDEO, [drawn(64, 48)])
    assert len(prepared.video(VIDEO, [drawn(64, 48)] * 3).items) == 2


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """A file with some bytes changed, cut out, doubled or cut off."""
    values = bytearray(data)
    for _ in range(int(generator.integers(1, 6))):
        place = int(generator.integers(0, len(values)))
        kind = int(generator.integers(0, 6))
        if kind == 0:
            values[place] = int(generator.integers(0, 256))
        elif kind == 1:
            values[place] ^= 1 << int(generator.integers(0, 8))
        elif kind == 2:
            del values[place : place + int(generator.integers(1, 40))]
        elif kind == 3:
            values[place:place] = values[place : place + int(generator.integers(1, 40))]
        elif kind == 4:
            values[place : place + 4] = struct.pack(">I", int(generator.integers(0, 1 << 32)))
        else:
            del values[max(place, len(values) // 2) :]
        if not values:
            values = bytearray(b"\0")
    return bytes(values)


def survives(prepare: Any, data: bytes) -> bool:
    """Whether it was a picture. Anything but an InputError fails the test."""
    try:
        prepare(data)
    except InputError:
        return False
    return True


def mutate(count: int, seed: int) -> float:
    """Returns the share of mutated files that are pictures still."""
    generator, whole = np.random.default_rng(seed), 0
    for number in range(count):
        data = mutated(FILES[number % len(FILES)].read_bytes(), generator)
        whole += survives(decode.rgb, data)
    return whole / count


def test_mutated_pictures_are_refused_or_decoded() -> None:
    assert 0.1 < mutate(600, 0) < 0.9


@pytest.mark.slow
def test_twenty_thousand_mutated_pictures_are_refused_or_decoded() -> None:
    assert 0.1 < mutate(MUTATIONS, 1) < 0.9


def mutate_videos(count: int, seed: int) -> float:
    generator, whole = np.random.default_rng(seed), 0
    for number in range(count):
        data = mutated((FOLDER / CLIPS[number % len(CLIPS)]).read_bytes(), generator)
        whole += survives(lambda data: prepared.video(VIDEO, data), data)
    return whole / count


def test_mutated_videos_are_refused_or_decoded() -> None:
    assert 0.1 < mutate_videos(60, 0) < 0.95


@pytest.mark.slow
def test_two_thousand_mutated_videos_are_refused_or_decoded() -> None:
    assert 0.1 < mutate_videos(2000, 1) < 0.95


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([path.read_bytes()[:12] for path in FILES]), st.binary(max_size=400))
def test_any_bytes_behind_a_magic_number_are_refused_or_decoded(magic: bytes, rest: bytes) -> None:
    survives(decode.rgb, magic + rest)


@pytest.mark.slow
def test_memory_stays_flat_over_two_thousand_pictures_of_random_size() -> None:
    generator, held = np.random.default_rng(0), 0
    for number in range(2000):
        width, height = (int(side) for side in np.exp(generator.uniform(2, 7.6, 2)))
        out = io.BytesIO()
        Image.fromarray(drawn(width, height, number % 7)).save(out, "PNG", compress_level=1)
        survives(lambda data: prepared.image(PATCHES, data), out.getvalue())
        if number == 500:
            held = resident()
    assert resident() - held < FLAT_BYTES, f"{held} bytes after 500, {resident()} after 2 000"


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
