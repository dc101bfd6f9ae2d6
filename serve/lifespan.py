"""Start and stop of the application. Models are opened and warmed while the server runs, so that /live and
/ready answer from the start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette

from ..runtime.errors import ArtifactError, PoolrtError
from .context import Context
from .errors import ApiError
from .models.artifact_loading import ArtifactLoader
from .models.shared_loading import SharedLoader
from .models.watching import WatchedFolder, follow
from .schema.body import build_validators

READY_S = 0.1
"""Time between two checks whether the models are ready."""
log = logging.getLogger("poolrt.serve")


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    context: Context = app.state.context
    is_open = context.registry.ready.is_set() and not context.registry.begun
    opening = None if is_open else asyncio.create_task(_open(app))
    running = None if context.batches is None else asyncio.create_task(_run_batches(context, opening))
    if opening is not None and context.state.peers is not None and context.state.peers.opens_first:
        await opening
    watching = None
    if context.watched is not None and isinstance(context.artifacts, ArtifactLoader):
        watching = asyncio.create_task(_followed(context, context.watched, context.artifacts))
    try:
        yield
    finally:
        context.state.draining = True
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        if running is not None:  # the next start goes on with what is not done
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        if opening is not None:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await opening
        context.workshop.close()
        if context.loader is not None:
            context.loader.close()
        if context.tracing is not None:
            await asyncio.to_thread(context.tracing.close)
        if context.artifacts is not None:
            context.artifacts.close()
        if app.state.owns_models:
            await asyncio.to_thread(context.registry.close)


async def _run_batches(context: Context, opening: asyncio.Task[None] | None) -> None:
    """Works batches off once the models are open."""
    assert context.batches is not None
    if opening is not None:
        await asyncio.wait([opening])
    await context.batches.runner.run()


async def _followed(context: Context, watched: WatchedFolder, loader: ArtifactLoader) -> None:
    """Follows a folder from when the models are ready."""
    while not context.registry.ready.is_set():
        await asyncio.sleep(READY_S)
    await follow(watched, loader)


async def _open(app: Starlette) -> None:
    context: Context = app.state.context
    begun = time.monotonic()
    try:
        await asyncio.to_thread(context.registry.open)
        if isinstance(context.artifacts, SharedLoader):
            await context.artifacts.join()
    except (PoolrtError, ApiError) as error:
        context.state.failure = error
        log.error("%s", error)
        app.state.stop()
        return
    except asyncio.CancelledError:
        raise
    except Exception as error:
        context.state.failure = error
        log.exception("the models could not be opened")
        app.state.stop()
        return
    except BaseException as error:  # a panic of a library in Rust is no Exception
        message = " ".join(str(error).split())[:300]
        context.state.failure = ArtifactError(
            "the models could not be opened: a library gave up on a file of theirs "
            f"({type(error).__name__}: {message}); export them again"
        )
        log.error("%s", context.state.failure)
        app.state.stop()
        return
    names = ", ".join(served.name for served in context.registry)
    log.info("ready in %.2f s: %s", time.monotonic() - begun, names)
    app.state.announce()
    await asyncio.to_thread(build_validators)
