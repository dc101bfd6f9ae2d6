"""Start and stop: models are opened and warmed beside the running server, so that /live answers at once
and /ready when it is true."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette

from ..runtime.errors import ArtifactError, PoolrtError
from .context import Context

log = logging.getLogger("poolrt.serve")


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    here: Context = app.state.context
    opening = None if here.registry.ready.is_set() else asyncio.create_task(_open(app))
    try:
        yield
    finally:
        here.state.draining = True
        if opening is not None:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await opening
        here.workshop.close()
        if here.loader is not None:
            here.loader.close()
        if app.state.owns_models:
            await asyncio.to_thread(here.registry.close)


async def _open(app: Starlette) -> None:
    here: Context = app.state.context
    begun = time.monotonic()
    try:
        await asyncio.to_thread(here.registry.open)
    except PoolrtError as error:
        here.state.failure = error
        log.error("%s", error)
        app.state.stop()
        return
    except asyncio.CancelledError:
        raise
    except Exception as error:
        here.state.failure = error
        log.exception("the models could not be opened")
        app.state.stop()
        return
    except BaseException as error:  # a panic of a library in Rust is no Exception
        what = " ".join(str(error).split())[:300]
        here.state.failure = ArtifactError(
            "the models could not be opened: a library gave up on a file of theirs "
            f"({type(error).__name__}: {what}); export them again"
        )
        log.error("%s", here.state.failure)
        app.state.stop()
        return
    names = ", ".join(served.name for served in here.registry)
    log.info("ready in %.2f s: %s", time.monotonic() - begun, names)
    app.state.announce()
