"""The arguments that the commands of a model share: the artifact, its texts, the side of a score."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..command_line.flags import Argument, Flag
from ..errors import InputError
from .artifact_names import artifact_names

if TYPE_CHECKING:
    from ..model import Model

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")

HELP = "folder of an artifact, its name in the store (poolrt list), or its address (hf://..., s3://...)"
ArtifactFolder = Annotated[str, Argument("ARTIFACT", HELP, complete=artifact_names)]
EngineName = Annotated[
    str,
    Flag("auto, onnxruntime, openvino, tensorrt-rtx, ... or an engine file of the artifact", group="model"),
]
Json = Annotated[bool, Flag("print one JSON object for machines")]
Query = Annotated[str, Argument("QUERY", "the query: text, or the file of a picture")]
_FILE = Flag("UTF-8 file with one text per line", group="texts", own=True)
_IMAGE = Flag(
    "a picture or video, behind the texts (several times for several); for a model that reads pictures a "
    "text that names such a file is one too",
    group="texts",
    name="image",
    metavar="FILE",
    own=True,
)
_NO_TRUNCATE = Flag("refuse texts beyond the model's limit instead of cutting them", group="texts")
_BEHIND = "none: read lines from --file or stdin"


@dataclass(frozen=True, slots=True)
class Texts:
    """What a command embeds."""

    texts: Annotated[tuple[str, ...], Argument("TEXT", _BEHIND)] = ()
    file: Annotated[Path | None, _FILE] = None
    images: Annotated[tuple[Path, ...], _IMAGE] = ()
    no_truncate: Annotated[bool, _NO_TRUNCATE] = False

    def read(self) -> list[str | Path]:
        return texts(self.texts, self.file, self.images)


@dataclass(frozen=True, slots=True)
class Documents(Texts):
    """What a command compares with a query, and how."""

    texts: Annotated[tuple[str, ...], Argument("DOCUMENT", _BEHIND)] = ()
    instruction: Annotated[str | None, Flag("for score templates that take one", group="scores")] = None
    preparation: Annotated[
        Literal["model", "vllm"], Flag("as the model's own library, or as vLLM", group="scores")
    ] = "model"

    def options(self) -> dict[str, Any]:
        """Returns the keywords of `Model.score` and `Model.rerank`."""
        return {
            "truncate_prompt_tokens": truncation(self),
            "instruction": self.instruction,
            "preparation": self.preparation,
        }


def truncation(texts: Texts) -> int | None:
    """Returns the `truncate_prompt_tokens` of a call."""
    return None if texts.no_truncate else -1


def texts(arguments: Sequence[str], file: Path | None, images: Sequence[Path] = ()) -> list[str | Path]:
    """Returns one text per argument, without arguments one per line of the file, without a file the lines of
    stdin unless there are pictures, blank lines left out; then the pictures. Raises InputError for a file
    that cannot be read, and where there is no text."""
    if arguments and file is not None:
        raise InputError("texts and --file: give one of them", field="file")
    if arguments or (images and file is None):
        return [*arguments, *images]
    source = "stdin" if file is None else str(file)
    if file is None and sys.stdin.isatty():
        raise InputError(
            "no text: write texts behind the command, or give --file, or pipe lines in", field="texts"
        )
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})", field="file") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: byte {error.start} is not valid UTF-8; convert the text first", field="file"
        ) from None
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise InputError(f"{source}: no line with text in it", field="file")
    return [*filled, *images]


def prompts(values: Sequence[str | Path], model: Model) -> list[Any]:
    """Returns what the model takes for each text and file: of a model that reads pictures, a text that names
    a file of a picture or video stands for it. Raises InputError for a picture that the model cannot read,
    and for the name of one that does not exist."""
    reads = model.manifest.images is not None
    return [_prompt(value, reads=reads) for value in values]


def _prompt(value: str | Path, *, reads: bool) -> Any:
    suffix = Path(value).suffix.lower()
    if isinstance(value, Path):
        if not reads:
            raise InputError(f"--image {value}: this model reads text only", field="image")
        return {"video" if suffix in VIDEOS else "image": value}
    known = suffix in (*PICTURES, *VIDEOS)
    if not reads or not (known or _is_path(value)):
        return value
    if _is_file(value):
        return {"video" if suffix in VIDEOS else "image": Path(value)}
    if _is_path(value) or not any(map(str.isspace, value)):
        raise InputError(
            f"{value}: no such file. To have these words embedded, write them into a sentence", field="texts"
        )
    return value


def _is_path(text: str) -> bool:
    """Whether a text is written as the path of a file: `./page.heic`."""
    rooted = text.startswith(("/", "./", "../", "~/"))
    return rooted and Path(text).suffix != "" and not any(map(str.isspace, text))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a text that can name no file
        return False
