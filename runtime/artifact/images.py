"""How an artifact prepares pictures and video frames: records of the manifest, data only.

A picture becomes rows of the vision graph by one of three schemes. `fixed`: one row of fixed size. `tiles`:
several rows of fixed size, cut from one picture. `patches`: one row of as many patches as the picture's size
asks for. What a scheme needs to know stands beside it as facts; an artifact holds no code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["idefics3", "grid", "anyres", "hd"]
"""How a picture is cut into tiles."""
Scheme = Literal["fixed", "tiles", "patches"]
Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Kernel = Literal["torchvision", "pillow"]
"""Whose resize: torchvision's uint8 kernel on a processor (transformers' default processors, vLLM), or
Pillow's, whose passes go horizontally first."""
RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """The cuts of the scheme `tiles`."""

    rule: Rule
    longest_edge: int = 0
    """idefics3: the longer side is scaled to it before the picture is cut."""
    most_tiles: int = 0
    """grid, hd: most tiles of a picture, the overview aside."""
    resolutions: tuple[tuple[int, int], ...] = ()
    """anyres: heights and widths of which the best is cut into tiles."""
    split: bool = True
    """Whether a picture is cut; otherwise it is scaled as before a cut, then squashed to one tile."""
    overview: bool = True
    """Whether the whole picture, scaled to one tile, follows the tiles of a picture that was cut."""
    overview_first: bool = False
    """hd: whether the features of the whole picture come before those of its tiles in a prompt."""
    tile_text: str = ""
    """What stands for one tile in a prompt, with `{row}`, `{column}` (from 1) and `{tokens}`."""
    row_end: str = ""
    """Written behind each row of tiles."""
    overview_text: str = ""
    """What stands for the overview behind the tiles, with `{tokens}`."""
    single_text: str = ""
    """What stands for a picture that was not cut, with `{tokens}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """The sizes of the scheme `patches`."""

    size: int
    """Pixels of a patch's side."""
    merge: int
    """Patches of a feature's side: merge * merge patches become one row of features."""
    temporal: int
    """Frames of a patch. A picture is repeated as often; a video has its frames grouped so."""
    min_pixels: int
    max_pixels: int
    fit: Literal["pixels", "count"] = "pixels"
    """`pixels`: sides are rounded, and scaled where the bounds ask for it (Qwen2-VL). `count`: a picture is
    scaled to as many patches as `max_pixels` holds, its sides rounded up (SigLIP 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Videos:
    """How frames are chosen, prepared and written into a prompt (schemes `patches` and `tiles`)."""

    placeholder: str
    """What stands for a video in a prompt before it is expanded."""
    token: str
    """Stands once for each row of features."""
    frame_text: str
    """What stands for one group of frames, with its time as `{seconds}` (one decimal) or `{clock}` (MM:SS),
    and `{tokens}`."""
    expansion: str = ""
    """What replaces `placeholder`, with `{frames}`, their `{count}` in English words and the video's
    `{duration}` (H:MM:SS). Empty: it itself, with the groups of frames in the place of its token."""
    conversation: str = ""
    """Jinja text of conversations with videos; empty: the model's own template writes them too."""
    fps: float
    """Frames per second that are sampled."""
    min_frames: int
    max_frames: int
    sampling: Literal["ends", "steps", "middle"] = "ends"
    """Which frames are chosen. `ends`: evenly, the first and the last among them. `steps`: the first of as
    many equal parts, full groups only (Qwen2-VL). `middle`: evenly, of a long video without its first and
    last second (SmolVLM)."""
    longest_edge: int = 0
    """tiles: a frame's longer side is scaled to it, then the frame is squashed to one tile."""
    squashed: tuple[int, int] | None = None
    """tiles: (height, width) to which a frame is squashed in place of `longest_edge`."""
    min_pixels: int = 0
    """patches: of all frames together, or of one frame where `per_frame`."""
    max_pixels: int = 0
    per_frame: bool = False
    """Whether `min_pixels` and `max_pixels` count the pixels of one frame (Qwen2-VL)."""
    frame_pixels: int | None = None
    """Most pixels of one frame, where frames share the budget evenly; None: only their sum counts."""
    total_pixels: int | None = None
    """per_frame: most pixels of all groups of frames together, shared evenly; None: no such bound."""
    ticks: float | None = None
    """Steps in time per second, where the groups of frames stand in a prompt without text between them
    (Qwen2.5-VL); 0: one step for each group (Qwen2-VL). None: time is told by `frame_text`."""
    resample: Resample | None = None
    """None: as pictures. The kernel is always torchvision's."""
    mean: RGB | None = None
    std: RGB | None = None
    """None: as pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """How pictures are prepared: decoded, resized, normalised, cut, and written into a prompt."""

    scheme: Scheme
    resample: Resample
    kernel: Kernel = "torchvision"
    background: Literal["white", "none"] = "white"
    """What transparency is composited on; `none`: the alpha channel is dropped."""
    mean: RGB
    std: RGB
    """(value / 255 - mean) / std per channel."""
    height: int = 0
    width: int = 0
    """Pixels of one row of the vision graph (fixed, tiles)."""
    shortest_edge: int | None = None
    """fixed: the shorter side is scaled to it and the middle cut out; None: the picture is squashed."""
    squashed: tuple[int, int] | None = None
    """(height, width) to which a picture is squashed before it is cut, for processors that state both (fixed:
    the middle is cut out; tiles: in place of `longest_edge`); None: as the scheme says."""
    resize: bool = True
    """Whether a picture is scaled before it is cut (fixed, tiles)."""
    tiling: Tiling | None = None
    patches: Patches | None = None
    tokens: int = 0
    """Rows of features that one row of the vision graph gives (fixed, tiles)."""
    cost: int = 0
    """Work of one row of the vision graph in the queue's units: its patches (fixed, tiles)."""
    apart: bool = False
    """Whether a picture is embedded by the vision graph alone (CLIP), never beside text in one prompt."""
    placeholder: str = ""
    """What stands for a picture in a prompt before it is expanded: `<|vision_start|><|image_pad|>...`. With
    `{number}`, pictures are numbered from 1 (`<|image_{number}|>`)."""
    token: str = ""
    """The token that stands once for each row of features, inside `placeholder`."""
    expansion: str = ""
    """What replaces `placeholder`, with `{tokens}`; empty: it itself, with its token as often as wanted."""
    opening: str = ""
    """The special token that a prompt with pictures begins with, a conversation too (Phi-3-Vision)."""
    prompt: str | None = None
    """Jinja text of a prompt with pictures that no role's template writes, special tokens included, with
    `media` and `text`; None: the placeholders stand in front of the text."""
    most: int | None = None
    """Most pictures of one prompt; None: no limit of the model's own."""
    videos: Videos | None = None
