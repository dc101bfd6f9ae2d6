"""The arguments that the commands of a model share: the artifact, its texts, the side of a score."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .command_line import Parser

if TYPE_CHECKING:
    from ..model import Model

HELP = "folder of an artifact, its name in the store (poolrt list), or its address (hf://..., s3://...)"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")


def parser(name: str, description: str, *, texts: str | None = None) -> Parser:
    """Returns the parser of a command on one artifact.

    Args:
        texts: how the help names the texts of the command; None: it takes none.
    """
    parser = Parser(prog=f"poolrt {name}", description=description)
    parser.add_argument("artifact", help=HELP)
    if name == "inspect":
        parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
        return parser
    parser.add_argument(
        "--engine",
        default="auto",
        help="auto, onnxruntime, tensorrt-rtx, ... or an engine file of the artifact",
    )
    parser.add_argument("--json", action="store_true", help="print for machines")
    if texts is not None:
        _add_texts(parser, texts)
    return parser


def scorer(name: str, description: str) -> Parser:
    """Returns the parser of a command that compares a query with documents."""
    result = parser(name, description)
    result.add_argument("query", help="the query: text, or the file of a picture")
    _add_texts(result, "DOCUMENT")
    result.add_argument("--instruction", help="for score templates that take one")
    result.add_argument(
        "--preparation",
        choices=("model", "vllm"),
        default="model",
        help="as the model's own library (default) or as vLLM",
    )
    return result


def _add_texts(parser: Parser, name: str) -> None:
    parser.add_argument(
        "texts", nargs="*", default=[], metavar=name, help="none: read lines from --file or stdin"
    )
    parser.add_argument("--file", type=Path, help="UTF-8 file with one text per line")
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        dest="images",
        metavar="FILE",
        help="a picture or video, behind the texts (several times for several); for a model that reads "
        f"pictures a {name} that names such a file is one too",
    )
    parser.add_argument(
        "--no-truncate",
        action="store_true",
        help="refuse texts beyond the model's limit instead of cutting them",
    )


def score_options(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the keywords of `Model.score` and `Model.rerank`."""
    return {
        "truncate_prompt_tokens": truncation(options),
        "instruction": options.instruction,
        "preparation": options.preparation,
    }


def truncation(options: argparse.Namespace) -> int | None:
    """Returns the `truncate_prompt_tokens` of a call."""
    return None if options.no_truncate else -1


def texts(arguments: list[str], file: Path | None, images: Sequence[Path] = ()) -> list[str | Path]:
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
