"""What fsspec opens: buckets (S3, GCS, Azure, ...), and any other place that a package of its own knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Protocol, cast

from ..errors import ArtifactError, reason
from .addresses import Url

BLOCK = 8 << 20
"""Bytes of one request. What has arrived is on the disk after each, so a killed pull loses no more; fsspec's
own default for S3 is 50 MiB."""
PIECE = 1 << 20
OBJECT_STORES = frozenset(
    ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "cos", "tos", "obs", "r2")
)
"""Schemes of buckets, which have no folders: making one there would make the bucket."""
_S3_MISSING = (
    "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
    "FSSPEC_S3_ANON=true reads a public bucket"
)
_S3_REFUSED = (
    "check the credentials; a pull needs s3:GetObject, and s3:ListBucket to tell what is missing, a push "
    "s3:PutObject and s3:DeleteObject too"
)


class Files(Protocol):
    """The part of fsspec's file systems that the store uses; its own annotations say less."""

    def open(self, path: str, mode: str, block_size: int) -> BinaryIO: ...
    def exists(self, path: str) -> bool: ...
    def find(self, path: str, *, detail: bool) -> dict[str, dict[str, object]]: ...
    def cat_file(self, path: str) -> bytes: ...
    def put_file(self, lpath: str, rpath: str) -> object: ...
    def rm_file(self, path: str) -> object: ...
    def makedirs(self, path: str, exist_ok: bool) -> object: ...
    def invalidate_cache(self) -> object: ...


def opened(url: Url) -> tuple[Files, str]:
    """fsspec's file system for an URL, and the path in it. Raises ArtifactError."""
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url.text)
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        install = "pip install 'poolrt[s3]'" if url.scheme in ("s3", "s3a") else "install it with pip"
        raise ArtifactError(f"{url}: {reason(error)} ({reason(cause)}): {install}") from None
    except Exception as error:  # of the package that opens the scheme
        raise ArtifactError(
            f"{url}: {reason(error)}; poolrt reads hf://, https:// and s3://, and what fsspec opens"
        ) from None
    files = cast("Files", files)
    files.invalidate_cache()  # a process that lives long would see what was there when it looked first
    return files, root.rstrip("/")


def reading(url: Url) -> Callable[[str, int], Iterator[bytes]]:
    """What yields the bytes of a file of this folder from a place on. Raises ArtifactError for a scheme that
    no installed package opens; the function raises OSError."""
    files, root = opened(url)

    def read(name: str, start: int) -> Iterator[bytes]:
        path = f"{root}/{name}"
        with translated(url), files.open(path, "rb", block_size=BLOCK) as file:
            file.seek(start)
            while piece := file.read(PIECE):
                yield piece

    return read


def missing_bucket(url: Url, files: Files, root: str) -> str | None:
    """What to say of the bucket of an URL where it is not there; None: it is, or nobody may know."""
    bucket = root.lstrip("/").partition("/")[0]
    if url.scheme in OBJECT_STORES:
        with suppress(Exception):  # credentials for one folder of a bucket may not ask for more
            if not files.exists(bucket):
                return f"there is no bucket {bucket!r}; check its name, and the endpoint (AWS_ENDPOINT_URL)"
    return None


@contextmanager
def translated(url: Url) -> Iterator[None]:
    """Makes OSError of what the libraries under fsspec raise (botocore's errors are none), PermissionError
    where credentials are missing or refused."""
    try:
        yield
    except (ArtifactError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            advice = "give credentials that may, by the environment"
            if url.scheme in ("s3", "s3a"):
                advice = _S3_REFUSED if isinstance(error, PermissionError) else _S3_MISSING
            raise PermissionError(f"{reason(error)}; {advice}") from error
        if isinstance(error, OSError):
            raise
        raise OSError(f"{type(error).__name__}: {reason(error)}") from error
