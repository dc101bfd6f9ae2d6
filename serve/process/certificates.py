"""Checks certificate files before a server starts, and with --enable-ssl-refresh reads renewed ones."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from ...runtime.errors import InputError
from ..settings import Tls

log = logging.getLogger("poolrt.serve")

LOOK_S = 5
"""Seconds between two checks of the files."""


def check(tls: Tls) -> None:
    """Raises InputError for files that make no TLS context. A key with a passphrase is not looked into."""
    for flag, path in (
        ("ssl-certfile", tls.certfile),
        ("ssl-keyfile", tls.keyfile),
        ("ssl-ca-certs", tls.ca_certs),
    ):
        try:
            if path is not None:
                Path(path).open("rb").close()
        except OSError as error:
            raise InputError(f"--{flag} {path}: {error.strerror}", field=flag) from None
    prompts: list[bool] = []

    def passphrase() -> str:
        prompts.append(True)
        return ""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certfile, tls.keyfile, passphrase)
    except ssl.SSLError as error:
        if not prompts:
            raise InputError(
                f"--ssl-certfile {tls.certfile} and --ssl-keyfile {tls.keyfile}: expected a certificate and "
                f"its private key in PEM ({error.reason or error})",
                field="ssl-certfile",
            ) from None
    try:
        if tls.ca_certs is not None:
            context.load_verify_locations(tls.ca_certs)
    except ssl.SSLError:
        raise InputError(
            f"--ssl-ca-certs {tls.ca_certs}: expected certificates in PEM", field="ssl-ca-certs"
        ) from None
    try:
        context.set_ciphers(tls.ciphers)
    except ssl.SSLError:
        raise InputError(
            f"--ssl-ciphers {tls.ciphers}: OpenSSL knows none of them", field="ssl-ciphers"
        ) from None
    if tls.cert_reqs not in (0, 1, 2):
        raise InputError(f"--ssl-cert-reqs {tls.cert_reqs}: expected 0, 1 or 2", field="ssl-cert-reqs")


class Certificates:
    """The certificate files of a TLS context. Open connections keep the certificate they began with."""

    def __init__(self, tls: Tls, used: ssl.SSLContext) -> None:
        self.tls = tls
        self.used = used
        self._seen = self._state()

    def refresh(self) -> bool:
        """Reads files that have changed, and returns whether it did.

        Files that do not fit together, because one is replaced before the other, are read again at their next
        change.
        """
        state = self._state()
        if state == self._seen:
            return False
        self._seen, tls = state, self.tls
        try:
            # Read into a new context first: a context that refuses the second file keeps the first.
            probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            for context in (probe, self.used):
                context.load_cert_chain(tls.certfile, tls.keyfile)
                if tls.ca_certs is not None:
                    context.load_verify_locations(tls.ca_certs)
        except (OSError, ssl.SSLError) as error:
            log.warning(
                "the changed certificate files are not usable (%s); the old certificate "
                "stays until they change again",
                error,
            )
            return False
        log.info("certificate files read again")
        return True

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [
            _stamp(path)
            for path in (self.tls.keyfile, self.tls.certfile, self.tls.ca_certs)
            if path is not None
        ]


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
