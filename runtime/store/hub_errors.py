"""What the hub's client raises, as an error of ours that says what to do: for artifacts and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ArtifactError, CheckpointError, reason


@contextmanager
def reported(
    what: str, revision: str | None, kind: type[ArtifactError] | type[CheckpointError]
) -> Iterator[None]:
    """Raises `kind` for what huggingface_hub raises.

    Args:
        what: the repository, as the user named it.
        revision: that was asked for.
    """
    from huggingface_hub import errors

    # httpx's or httpx2's, by the version of the hub's client: no connection, or one that ended.
    transport = next(
        base
        for base in errors.HfHubHTTPError.__mro__
        if base.__name__ == "HTTPError" and issubclass(base, Exception)
    )
    try:
        yield
    except errors.GatedRepoError:
        raise kind(f"{what}: access must be asked for on the hub; then log in with `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise kind(f"{what}: the repository has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise kind(
            f"{what}: no such repository on the hub, and no such folder here; is the name spelled right? A "
            "private one needs `hf auth login`"
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise kind(
            f"{what}: not in the local cache, and the hub is not reachable (offline, or HF_HUB_OFFLINE is "
            "set); go online or unset it, or give the folder of a downloaded copy"
        ) from None
    except errors.HfHubHTTPError as error:
        raise kind(f"{what}: the hub refuses: {reason(error)}") from None
    except RuntimeError as error:  # of an upload
        raise kind(f"{what}: {reason(error)} ({reason(error.__cause__ or error)})") from None
    except (OSError, transport) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:  # our disk
            raise kind(f"{what}: {error.filename}: {error.strerror}") from None
        raise kind(
            f"{what}: the hub is not reachable ({reason(error)}); the same command again goes on from what "
            "is there"
        ) from None
