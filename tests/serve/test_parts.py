"""Content parts: what vLLM reads them as, and what is refused by name."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolrt.serve.errors import ApiError
from poolrt.serve.media import parts
from poolrt.serve.media.parts import Source

URL = "data:image/png;base64,AAAA"
PICTURE = Source("image", URL, None, "content[0]")


@pytest.mark.parametrize(
    ("part", "read"),
    [
        ("a text", "a text"),
        ({"type": "text", "text": "a"}, "a"),
        ({"type": "input_text", "text": "a"}, "a"),
        ({"type": "output_text", "text": "a"}, "a"),
        ({"type": "refusal", "refusal": "no"}, "no"),
        ({"type": "thinking", "thinking": "hm"}, "hm"),
        ({"type": "tool_reference", "name": "t"}, "t"),
        ({"text": "without a type"}, "without a type"),
        ({"type": "image_url", "image_url": {"url": URL}}, PICTURE),
        ({"type": "image_url", "image_url": {"url": URL, "detail": "high"}}, PICTURE),
        ({"type": "image_url", "image_url": URL}, PICTURE),
        ({"type": "input_image", "image_url": URL, "detail": "auto"}, PICTURE),
        ({"image_url": URL}, PICTURE),
        ({"image_url": {"url": URL}, "uuid": "u"}, Source("image", URL, "u", "content[0]")),
        (
            {"type": "image_url", "image_url": {"url": URL}, "uuid": 7},
            Source("image", URL, "7", "content[0]"),
        ),
        ({"type": "image_url", "image_url": None, "uuid": "u"}, Source("image", None, "u", "content[0]")),
        ({"type": "image_url", "uuid": "u"}, Source("image", None, "u", "content[0]")),
        ({"type": "video_url", "video_url": {"url": URL}}, Source("video", URL, None, "content[0]")),
        ({"video_url": URL}, Source("video", URL, None, "content[0]")),
    ],
)
def test_a_part_is_read_as_vllm_reads_it(part: Any, read: Any):
    assert parts.read([part], "content") == [read]


@pytest.mark.parametrize("part", [{"type": "text", "text": None}, {"type": "refusal"}, {"type": "text"}])
def test_a_text_that_is_null_is_left_out(part: Any):
    assert parts.read([part, "b"], "content") == ["b"]


@pytest.mark.parametrize(
    ("part", "param", "text"),
    [
        ({"type": "smell"}, "type", "Unsupported chat content part type: 'smell'"),
        ({"type": "image_pil", "image_pil": {}}, "type", "Unsupported chat content part type"),
        ({"type": 5}, "type", "Invalid 'type' field in multimodal part."),
        ({"colour": "red"}, "type", "Missing 'type' field in multimodal part."),
        ({"image_url": {"url": URL}}, "type", "Missing 'type' field in multimodal part."),
        ({"type": "image_url"}, None, "needs a URL"),
        ({"type": "image_url", "image_url": {}}, None, "needs a URL"),
        ({"type": "image_url", "image_url": {"url": ""}}, None, "needs a URL"),
        ({"type": "image_url", "image_url": {"url": 5}}, None, "needs a URL"),
        ({"type": "image_url", "image_url": [URL]}, None, "needs a URL"),
        ({"type": "video_url", "video_url": {"url": None}}, None, "needs a URL"),
        ({"type": "text", "text": 5}, "type", "`text`, a string"),
        ({"type": "audio_url", "audio_url": {"url": "x"}}, "audio", "At most 0 audio(s) may be provided"),
        ({"type": "input_audio", "input_audio": {}}, "audio", "At most 0 audio(s) may be provided"),
        (
            {"type": "image_embeds", "image_embeds": "AAAA"},
            "image_embeds",
            "You must set `--enable-mm-embeds` to input `image_embeds`",
        ),
        ({"type": "prompt_embeds", "data": "AAAA"}, "prompt_embeds", "--enable-mm-embeds"),
        ({"type": "image_url", "uuid": "u" * 257}, "uuid", "at most 256 characters"),
        ({"type": "image_url", "uuid": ["u"]}, "uuid", "at most 256 characters"),
        (5, "type", "expected text or an object"),
    ],
)
def test_what_no_part_may_be_is_refused_by_name(part: Any, param: str | None, text: str):
    with pytest.raises(ApiError) as raised:
        parts.read(["first", part], "messages[2].content")
    assert (raised.value.status, raised.value.param) == (400, param)
    assert text in str(raised.value)
    assert "messages[2].content[1]" in str(raised.value)


def test_texts_alone_are_no_media():
    assert not parts.has_media("text")
    assert not parts.has_media(None)
    assert not parts.has_media(["a", {"type": "text", "text": "b"}, {"type": "refusal", "refusal": "c"}])
    assert parts.has_media(["a", {"image_url": URL}])
    assert parts.has_media([{"type": "image_url", "image_url": {"url": URL}}])
    assert parts.has_media([{"type": "smell"}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "image_url", "video_url", "url", "uuid", "name", "image_embeds", "audio_url"]
            ),
            inner | st.sampled_from(["text", "image_url", "video_url", "input_image", "tool_reference"]),
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_content_is_read_or_refused(content: list[Any]):
    with contextlib.suppress(ApiError):
        assert all(isinstance(part, str | Source) for part in parts.read(content, "content"))


def test_vectors_that_are_missing_are_named():
    with pytest.raises(ApiError, match=r"messages\[2\].content\[0\].* needs vectors") as raised:
        parts.read([{"type": "image_embeds", "image_embeds": None}], "messages[2].content", vectors=True)
    assert (raised.value.status, raised.value.param) == (400, "image_embeds")
