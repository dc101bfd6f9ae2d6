"""Reads the settings of transformers' processors: preprocessor_config.json, processor_config.json and
video_preprocessor_config.json.

transformers 5 writes one processor_config.json, with the settings of the picture and video processors inside
it. Older files stand beside each other. Where both exist, the inner settings count, as in transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....runtime.artifact.images import RGB, Kernel, Resample
from ....runtime.errors import CheckpointError
from ...base.json_file import json_file
from ...base.refusals import shortened

PROCESSOR, IMAGES, VIDEOS = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
CLIP_MEAN: RGB = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: RGB = (0.26862954, 0.26130258, 0.27577711)
HALF: RGB = (0.5, 0.5, 0.5)
"""Mean and standard deviation of most processors: values from -1 to 1."""

CODES: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers of its filters, in order."""
SPELLING = re.compile("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$")
PILLOW_ONLY: tuple[Resample, ...] = ("box", "hamming")
MOST_PIXELS = 1 << 16
"""The longest side that a file may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one processor, and the file that they stand in. A key that is missing has the default
    of the processor's class, which the caller knows."""

    source: str
    file: str
    values: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The class that wrote them (`CLIPImageProcessor`, `CLIPImageProcessorFast`); empty: not stated."""
        return str(
            self.values.get("image_processor_type")
            or self.values.get("video_processor_type")
            or self.values.get("feature_extractor_type")
            or ""
        )

    @property
    def stem(self) -> str:
        """`CLIP` of each spelling of that class; empty: none is stated."""
        return SPELLING.sub("", self.kind)

    def number(self, key: str, default: int, *, least: int = 1, most: int = MOST_PIXELS) -> int:
        """A count. Raises CheckpointError for anything else, and beyond `least` and `most`."""
        return self._counted(key, self.values.get(key, default), least=least, most=most)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value. Raises CheckpointError for anything else."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._refusal(key, value, "true or false")
        return value

    def resample(self, default: Resample) -> Resample:
        """The filter of the resize. Raises CheckpointError for a number that is not Pillow's."""
        value = self.values.get("resample")
        if value is None:
            return default
        if isinstance(value, str) and value.lower() in CODES:
            return value.lower()  # pyright: ignore[reportReturnType]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(CODES):
            raise self._refusal("resample", value, f"one of Pillow's filters, 0 to {len(CODES) - 1}")
        return CODES[value]

    def kernel(self, default: Kernel = "torchvision") -> Kernel:
        """Whose resize: torchvision's, which transformers takes whatever class the file names, or Pillow's
        for the filters that torchvision lacks."""
        return "pillow" if self.resample("bicubic") in PILLOW_ONLY else default

    def channels(self, key: str, default: RGB) -> RGB:
        """One number, or one for each of red, green and blue. Raises CheckpointError."""
        value = self.values.get(key)
        if value is None:
            return default
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value] * 3
        if len(numbers) != 3 or not all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
        ):
            raise self._refusal(key, value, "three numbers")
        red, green, blue = (float(number) for number in numbers)
        return red, green, blue

    def normalisation(self, mean: RGB, std: RGB) -> tuple[RGB, RGB]:
        """Mean and standard deviation, after a division by 255. `mean`, `std`: the class's defaults.

        Another rescale_factor, or none, becomes a part of both. Raises CheckpointError.
        """
        scale = 1 / 255 / self._factor()
        scale = 1.0 if abs(scale - 1) < 1e-6 else scale
        if not self.flag("do_normalize", True):
            return (0.0, 0.0, 0.0), (scale, scale, scale)
        mean, std = self.channels("image_mean", mean), self.channels("image_std", std)
        if any(value == 0 for value in std):
            raise self._refusal("image_std", list(std), "numbers other than 0")
        return _scaled(mean, scale), _scaled(std, scale)

    def _factor(self) -> float:
        """What bytes are multiplied by."""
        value = self.values.get("rescale_factor")
        if not self.flag("do_rescale", True):
            return 1.0
        if value is None:
            return 1 / 255
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-9 < value < 1e9:
            raise self._refusal("rescale_factor", value, "a number above 0")
        return float(value)

    def size(
        self, key: str = "size", default: Mapping[str, int] | None = None, *, square: bool | None = None
    ) -> dict[str, int]:
        """A size in its own words (`height` and `width`, `shortest_edge`, `longest_edge`, `max_height`, ...).

        `square`: whether an old file's plain number is {"height", "width"} rather than {"shortest_edge"};
        None: where `default` is of that form. Raises CheckpointError.
        """
        value = self.values.get(key)
        if value is None:
            return dict(default or {})
        square = default is not None and "height" in default if square is None else square
        if isinstance(value, int) and not isinstance(value, bool):
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        if not isinstance(value, Mapping):
            raise self._refusal(key, value, "a size")
        return {
            str(name): self._counted(f"{key}.{name}", number, least=1, most=1 << 40)
            for name, number in value.items()
            if number is not None
        }

    def _counted(self, key: str, value: object, *, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._refusal(key, value, f"a count from {least} to {most}")
        return value

    def _refusal(self, key: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.source}: {self.file} has no usable {key}: found {shortened(value)}, expected {expected}"
        )


def processor(source: str, folder: Path) -> Settings:
    """The settings of the processor as a whole (prompts, lengths of sequences), without those of pictures and
    videos; empty where the file is missing. Raises CheckpointError."""
    values = _read(folder / PROCESSOR)
    inner = ("image_processor", "video_processor", "tokenizer")
    return Settings(
        source=source,
        file=PROCESSOR,
        values={key: value for key, value in values.items() if key not in inner},
    )


def images(source: str, folder: Path) -> Settings:
    """The settings of the picture processor. Raises CheckpointError where no file has them."""
    nested = _read(folder / PROCESSOR).get("image_processor")
    if isinstance(nested, Mapping):
        return Settings(source=source, file=PROCESSOR, values=nested)
    if not (folder / IMAGES).is_file():
        raise CheckpointError(
            f"{source}: no {IMAGES}, and no image_processor in {PROCESSOR}; download the repository again"
        )
    return Settings(source=source, file=IMAGES, values=_read(folder / IMAGES))


def videos(source: str, folder: Path, *, shared: bool = False) -> Settings | None:
    """The settings of the video processor; None where no file has them. Raises CheckpointError.

    `shared`: those of the picture processor count where no file has others, as in transformers.
    """
    nested = _read(folder / PROCESSOR).get("video_processor")
    if isinstance(nested, Mapping):
        return Settings(source=source, file=PROCESSOR, values=nested)
    if not (folder / VIDEOS).is_file():
        return images(source, folder) if shared else None
    return Settings(source=source, file=VIDEOS, values=_read(folder / VIDEOS))


def _scaled(values: RGB, scale: float) -> RGB:
    red, green, blue = values
    return red * scale, green * scale, blue * scale


def _read(path: Path) -> dict[str, Any]:
    return json_file(path, dict) if path.is_file() else {}
