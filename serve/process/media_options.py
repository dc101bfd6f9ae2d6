"""The settings of pictures and videos, from flags and vLLM's environment variables."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...runtime.errors import InputError
from ...runtime.json_objects import gathered
from ..media import io_kwargs
from ..settings import Media

MODALITIES = ("image", "video", "audio")


def media_of(options: argparse.Namespace, environment: Mapping[str, str]) -> Media:
    """Returns the settings. Raises InputError for a value that cannot be followed."""
    default = Media()
    return Media(
        domains=tuple(domain for domain in options.allowed_media_domains if domain),
        folder=folder_of(options.allowed_local_media_path),
        redirects=environment.get("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "1").strip() not in ("0", "false", "no"),
        image_timeout_s=seconds(environment, "VLLM_IMAGE_FETCH_TIMEOUT", default.image_timeout_s),
        video_timeout_s=seconds(environment, "VLLM_VIDEO_FETCH_TIMEOUT", default.video_timeout_s),
        max_bytes=options.max_media_bytes,
        limits=limits_of(gathered(options.limit_mm_per_prompt)),
        processor_kwargs=gathered(options.mm_processor_kwargs),
        io_kwargs=io_kwargs.checked(gathered(options.media_io_kwargs), "--media-io-kwargs"),
        trust_request_kwargs=options.trust_request_mm_kwargs,
        cache_bytes=cache_bytes_of(options.mm_processor_cache_gb),
        interleave=options.interleave_mm_strings,
        embeds=options.enable_mm_embeds,
    )


def folder_of(text: str) -> Path | None:
    """Returns the folder of --allowed-local-media-path, links followed. Raises InputError for no folder."""
    if not text:
        return None
    folder = Path(text).resolve()
    if not folder.is_dir():
        raise InputError(f"--allowed-local-media-path {text}: no such folder")
    return folder


def seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    """Returns a time limit from the environment. Raises InputError for what is no number above 0."""
    if (text := environment.get(name)) is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise InputError(f"{name} is {text[:60]!r}, expected seconds above 0")
    return value


def limits_of(value: Mapping[str, Any]) -> dict[str, int]:
    """Returns modality -> most items, each a number or vLLM's object with a `count`. Raises InputError."""
    limits: dict[str, int] = {}
    for modality, limit in value.items():
        count = limit.get("count", 999) if isinstance(limit, dict) else limit
        if modality not in MODALITIES or isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InputError(
                f"--limit-mm-per-prompt: {modality}: {limit!r} is no limit; expected one of "
                f"{', '.join(MODALITIES)} and a whole number from 0 up"
            )
        limits[modality] = count
    return limits


def cache_bytes_of(gigabytes: float) -> int:
    """Returns bytes. Raises InputError for a negative number."""
    if not 0 <= gigabytes < math.inf:
        raise InputError(f"--mm-processor-cache-gb {gigabytes:g}: expected a number from 0 up")
    return int(gigabytes * 1024**3)
