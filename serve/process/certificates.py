"""Reads renewed certificate files while the server runs: --enable-ssl-refresh."""

from __future__ import annotations

import logging
import os
import ssl

from ..settings import Tls

log = logging.getLogger("poolrt.serve")

LOOK_S = 5
"""Seconds between two checks of the files."""


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
