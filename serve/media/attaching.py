"""The pictures and videos of one request: found in its body, counted, read, and put where they stand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request

from ...runtime.artifact.images import Images
from ...runtime.errors import InputError
from ...runtime.inputs.media.medium import Medium
from ...runtime.json_objects import merged
from ...runtime.model import Model
from ..headers import header
from ..http.memory_budget import HELD, Budget, Hold
from ..http.request_body import BODY_BYTES, LIGHT_BYTES
from ..settings import Settings
from . import io_kwargs, parts, tensors
from .parts import Part, Source, Vectors
from .preparing import Preparer
from .reading import Gathered, Reader, placed

MOST_ARRAYS = 8
"""Of one part with vectors."""
Parts = dict[str, list[Part]]
"""Place of a content -> its parts."""
Content = tuple[str, Any]
"""Where a content stands in the body, and what it is: text, or a list of parts."""


class Attached:
    """The media of one request. Each is read and prepared when the runtime comes to it, so that few are held
    at a time.

    Args:
        contents: place -> the parts of a content that has media.
        owner: whose uuids the request may use.
    """

    def __init__(
        self,
        reader: Reader,
        gathered: Gathered,
        preparer: Preparer,
        contents: Mapping[str, Sequence[Part]],
        owner: str,
    ) -> None:
        self.reader = reader
        self.gathered = gathered
        self.preparer = preparer
        self._contents = contents
        self._owner = owner

    def parts(self, place: str, content: Any) -> Any:
        """Returns a content as the runtime takes it."""
        if (listed := self._contents.get(place)) is None:
            return content
        return [self._part(part) for part in listed]

    def _part(self, part: Part) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if isinstance(part, Vectors):
            with placed(part):
                return self._named(part, {"type": "image", "image": vectors_of(part.value)})
        deferred = None if part.url is None else Deferred(self, part)
        return self._named(part, {"type": part.modality, part.modality: deferred})

    def _named(self, part: Source | Vectors, plain: dict[str, Any]) -> dict[str, Any]:
        return plain if part.uuid is None else plain | {"uuid": self._owner + part.uuid}


def vectors_of(value: Any) -> dict[str, Any]:
    """Returns the arrays of `image_embeds`: a tensor, or an object of tensors and lists of numbers. Raises
    InputError."""
    if not isinstance(value, Mapping):
        return {"image_embeds": tensors.read(value, "image_embeds")}
    if len(value) > MOST_ARRAYS:
        raise InputError(f"image_embeds: {len(value)} arrays, expected few", field="image_embeds")
    return {
        str(name): inner if isinstance(inner, list) else tensors.read(inner, str(name))
        for name, inner in value.items()
    }


class Deferred:
    """A picture or a video that is not read yet."""

    def __init__(self, attached: Attached, source: Source) -> None:
        self._attached = attached
        self._source = source

    def __call__(self) -> Medium:
        """Returns it prepared. Raises InputError and ApiError that name its part, and Cancelled for a client
        that left."""
        attached = self._attached
        return attached.preparer.medium(attached.reader.read(self._source, attached.gathered))


Prompts = Callable[[], Sequence[Sequence[Content]]]
"""Lists the contents of each prompt."""


async def attached(
    request: Request,
    record: Any,
    model: Model,
    prompts: Prompts,
    *,
    reader: Reader,
    budget: Budget,
    settings: Settings,
    thread: Callable[[Callable[[], Parts]], Awaitable[Parts]],
    count: Callable[[parts.Modality, float], None],
) -> Attached | None:
    """Returns the media of a request; None where it has none, or the model reads text only.

    Everything is counted before anything is fetched. Raises ApiError and what `prompts` raises.

    Args:
        thread: runs a function in a thread: a large body may have many thousand contents.
    """
    images = model.manifest.images
    if images is None:
        return None

    def sort() -> Parts:
        return with_media(prompts(), reader, limits_of(images), vectors=settings.media.embeds)

    contents = sort() if request.scope[BODY_BYTES] <= LIGHT_BYTES else await thread(sort)
    if not contents:
        return None
    sources = [part for content in contents.values() for part in content if isinstance(part, Source)]
    own = getattr(record, "media_io_kwargs", None)
    kwargs = merged(settings.media.io_kwargs, io_kwargs.checked(own)) if own else settings.media.io_kwargs
    options = merged(settings.media.processor_kwargs, getattr(record, "mm_processor_kwargs", None) or {})
    gathered = await reader.gather(
        sources, request, hold_of(request, budget), kwargs, settings.request_timeout_s
    )
    share = reader.prepared.share()
    preparer = Preparer(images, options, kwargs, settings.media.max_pixels, share, count)
    return Attached(reader, gathered, preparer, contents, owner_of(request))


def with_media(
    prompts: Sequence[Sequence[Content]], reader: Reader, limits: Mapping[str, int | None], *, vectors: bool
) -> Parts:
    """Returns the parts of the contents that have media, by their places. Raises ApiError for parts that
    cannot be read, and for prompts with more media than `limits`.

    A content of many prompts, such as the query of a ranking, is read once.
    """
    contents: Parts = {}
    counts: dict[str, Counter[str]] = {}
    for prompt in prompts:
        total: Counter[str] = Counter()
        for place, content in prompt:
            if place not in counts:
                counts[place] = Counter()
                if parts.has_media(content):
                    contents[place] = parts.read(content, place, vectors=vectors)
                    counts[place].update(
                        part.modality for part in contents[place] if isinstance(part, Source | Vectors)
                    )
            if counts[place]:
                total += counts[place]
        if total:
            reader.check_counts(total, limits)
    return contents


def limits_of(images: Images) -> dict[str, int | None]:
    """Returns modality -> most items of one prompt that the model takes; None: any number."""
    limits: dict[str, int | None] = {"image": images.most}
    if images.videos is not None:
        limits["video"] = None
    return limits


def owner_of(request: Request) -> str:
    """Returns what stands in front of the uuids of a request, so that nobody finds those of another key."""
    key = header(request.scope, b"authorization")
    return f"{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()}/" if key else "/"


def hold_of(request: Request, budget: Budget) -> Callable[[int], None]:
    """Returns what takes bytes from the budget of all requests until this one is over."""
    hold: Hold | None = request.scope.get(HELD)
    if hold is None:
        hold = request.scope[HELD] = Hold(budget)
    return hold.take
