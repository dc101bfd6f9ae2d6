"""Reads the pictures and videos that a request names: counts them first, fetches what lies on other servers
in the event loop, and the rest in the thread that prepares the request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from ...runtime import cancellation
from ...runtime.errors import InputError
from ..errors import ApiError
from ..http.futures import LOOK_S, disconnected
from ..settings import Media
from . import data_urls, io_kwargs, local_files
from .allowance import Allowance
from .fetching import Fetcher
from .parts import Modality, Source, Vectors
from .prepared_bytes import PreparedBytes

if TYPE_CHECKING:
    from ..tracing.spans import Tracing


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture or a video as its bytes."""

    modality: Modality
    place: str
    """Where it stands in the body."""
    content: bytes
    frames: tuple[bytes, ...] = ()
    """A video that was sent as pictures; `content` is empty then."""

    @property
    def size(self) -> int:
        return len(self.content) + sum(map(len, self.frames))


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the event loop has read of a request's media, and what its thread needs to read the rest."""

    allowance: Allowance
    io_kwargs: Mapping[str, Mapping[str, object]]
    fetched: dict[str, bytes] = field(default_factory=dict)
    """URL -> bytes."""


class Reader:
    """Reads the media of all requests of one server.

    Args:
        count: adds a read item to the metrics: modality, where it came from, bytes, seconds.
        tracing: traces fetches; None: they are not traced.
    """

    def __init__(
        self,
        settings: Media,
        fetcher: Fetcher | None = None,
        count: Callable[[Modality, str, int, float], None] = lambda *_: None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.fetcher = fetcher or Fetcher(settings.domains, redirects=settings.redirects, tracing=tracing)
        self.prepared = PreparedBytes(settings.max_prepared_bytes)
        self._count = count

    def check_counts(self, counts: Mapping[str, int], limits: Mapping[str, int | None]) -> None:
        """Raises ApiError where a prompt has more items than it may have.

        Args:
            counts: modality -> items of one prompt.
            limits: modality -> most items that the model takes; None: any number; missing: none.
        """
        for modality, count in counts.items():
            own = limits.get(modality, 0)
            flag = self.settings.limits.get(modality)
            most = min((limit for limit in (own, flag) if limit is not None), default=None)
            if most is None or count <= most:
                continue
            text = f"At most {most} {modality}(s) may be provided in one prompt."
            if own is None or count <= own:
                text += " Set `--limit-mm-per-prompt` to increase this limit."
            raise ApiError(400, f"{text} (parameter={modality})", param=modality)

    async def gather(
        self,
        sources: Sequence[Source],
        request: Request,
        hold: Callable[[int], None],
        kwargs: Mapping[str, Mapping[str, object]],
        limit_s: float | None,
    ) -> Gathered:
        """Checks every URL, and fetches those of other servers.

        Raises ApiError, 499 for a client that left meanwhile.

        Args:
            hold: takes bytes from the budget of all requests.
            kwargs: modality -> settings of reading it.
            limit_s: time of the whole request; None: no limit.
        """
        gathered = Gathered(Allowance(self.settings.max_bytes, hold), kwargs)
        remote: dict[str, Source] = {}
        for source in sources:
            if source.url is not None and _scheme(source) in ("http", "https"):
                with placed(source):
                    self.fetcher.check(source.url)
                remote.setdefault(source.url, source)
        if remote:
            await self._fetch_all(remote, gathered, request, limit_s)
        return gathered

    async def _fetch_all(
        self, remote: Mapping[str, Source], gathered: Gathered, request: Request, limit_s: float | None
    ) -> None:
        deadline = None if limit_s is None else time.monotonic() + limit_s

        async def fetch(url: str, source: Source) -> None:
            begun = time.perf_counter()
            settings = self.settings
            seconds = settings.image_timeout_s if source.modality == "image" else settings.video_timeout_s
            with placed(source):
                content = await self.fetcher.fetch(url, limit_s=seconds, allowance=gathered.allowance)
            self._count(source.modality, "http", len(content), time.perf_counter() - begun)
            gathered.fetched[url] = content

        fetches = [asyncio.ensure_future(fetch(url, source)) for url, source in remote.items()]
        try:
            waiting = set(fetches)
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=LOOK_S, return_when=asyncio.FIRST_EXCEPTION
                )
                for fetch_done in done:
                    fetch_done.result()
                if waiting and disconnected(request.receive):
                    raise ApiError(499, "the client closed the connection")
                if waiting and deadline is not None and time.monotonic() >= deadline:
                    raise ApiError(504, "the pictures were not fetched in the time of --request-timeout")
        finally:
            for unfinished in fetches:
                unfinished.cancel()
            # Each error is looked at, so that asyncio does not log those of the others.
            await asyncio.gather(*fetches, return_exceptions=True)

    def read(self, source: Source, gathered: Gathered) -> Encoded:
        """Returns the bytes of a source that has a URL. Call it in a thread.

        Raises InputError and ApiError that name its place, and Cancelled for a client that left.
        """
        assert source.url is not None
        cancellation.check()
        with placed(source):
            return self._read(source, source.url, gathered)

    def _read(self, source: Source, url: str, gathered: Gathered) -> Encoded:
        allowance = gathered.allowance
        begun = time.perf_counter()
        match _scheme(source):
            case "http" | "https":
                return Encoded(source.modality, source.place, gathered.fetched[url])
            case "file":
                content = local_files.read(url, self.settings.folder, allowance.left)
                allowance.take(len(content))
                self._count(source.modality, "file", len(content), time.perf_counter() - begun)
                return Encoded(source.modality, source.place, content)
        value = self._from_data(source, data_urls.read(url), gathered)
        self._count(source.modality, "data", value.size, time.perf_counter() - begun)
        return value

    def _from_data(self, source: Source, url: data_urls.DataUrl, gathered: Gathered) -> Encoded:
        texts = None
        if source.modality == "video":
            texts = data_urls.frames(url, io_kwargs.num_frames(gathered.io_kwargs))
        gathered.allowance.take(sum(map(data_urls.size_of, texts or [url.text])))
        if texts is None:
            return Encoded(source.modality, source.place, data_urls.decoded(url.text))
        return Encoded("video", source.place, b"", tuple(map(data_urls.decoded, texts)))


def _scheme(source: Source) -> str:
    """Returns `data`, `file`, `http` or `https`. Raises ApiError for every other scheme."""
    assert source.url is not None
    scheme = source.url[:8].partition(":")[0].lower()
    if scheme in ("data", "file", "http", "https"):
        return scheme
    raise ApiError(400, f"The URL must be either a HTTP, data or file URL. ({source.place})")


@contextlib.contextmanager
def placed(source: Source | Vectors) -> Iterator[None]:
    """Adds the place of a source to the errors raised inside."""
    try:
        yield
    except ApiError as error:
        param = f"{source.modality}_url" if error.param == "image_url" else error.param
        text = f"{error} ({source.place})"
        raise ApiError(error.status, text, param=param, kind=error.kind, headers=error.headers) from None
    except InputError as error:
        raise InputError(f"{error} ({source.place})", field=error.field) from None
