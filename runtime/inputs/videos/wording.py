"""What a prompt says of a video's frames: their times, how many they are, how long the video is."""

from __future__ import annotations

from collections.abc import Sequence

from ...artifact.images import Videos

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
DAY = 24 * 60 * 60


def frame(videos: Videos, seconds: float, tokens: int) -> str:
    """What stands for one group of frames.

    Args:
        seconds: its time in the video.
        tokens: of its features.
    """
    clock = f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"
    text = videos.frame_text.replace("{seconds}", f"{seconds:.1f}").replace("{clock}", clock)
    return text.replace("{tokens}", videos.token * tokens)


def whole(videos: Videos, frames: Sequence[str], duration: float) -> str:
    """What stands for a video.

    Args:
        frames: the text of each group of frames.
        duration: of the whole video in seconds.
    """
    if not videos.expansion:
        return videos.placeholder.replace(videos.token, "".join(frames), 1)
    text = videos.expansion.replace("{count}", count(len(frames)))
    return text.replace("{duration}", length(int(duration))).replace("{frames}", "".join(frames))


def length(seconds: int) -> str:
    """`0:01:30`; `2 days, 0:01:30`."""
    days, rest = divmod(seconds, DAY)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} day{'s' if days > 1 else ''}, {clock}" if days else clock


def count(number: int) -> str:
    """A number below a million in English words: `sixty-four`, `one thousand, two hundred and five`."""
    thousands, rest = divmod(number, 1000)
    if not thousands:
        return _hundreds(number)
    if not rest:
        return f"{_hundreds(thousands)} thousand"
    joint = ", " if rest >= 100 else " and "
    return f"{_hundreds(thousands)} thousand{joint}{_hundreds(rest)}"


def _hundreds(number: int) -> str:
    """Below a thousand."""
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    below = ONES[rest] if rest < len(ONES) else TENS[tens] + (f"-{ONES[ones]}" if ones else "")
    if not hundreds:
        return below
    return f"{ONES[hundreds]} hundred" + (f" and {below}" if rest else "")
