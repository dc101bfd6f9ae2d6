"""Renewed certificate files are read while the server runs: --enable-ssl-refresh."""

from __future__ import annotations

import logging
import os
import ssl

from ..settings import Tls

log = logging.getLogger("poolrt.serve")

LOOK_S = 5
"""Seconds between two looks at the files."""


class Certificates:
    """Connections that are open keep the certificate they began with."""

    def __init__(self, tls: Tls, used: ssl.SSLContext) -> None:
        self.tls = tls
        self.used = used
        self._seen = self._state()

    def refresh(self) -> bool:
        """Whether files had changed and were read. Those that do not fit together, as while one is replaced
        after the other, are read when they change again."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen, tls = state, self.tls
        try:
            # Tried apart first: a context keeps the half it has read when the other half is refused.
            probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            for context in (probe, self.used):
                context.load_cert_chain(tls.certfile, tls.keyfile)
                if tls.ca_certs is not None:
                    context.load_verify_locations(tls.ca_certs)
        except (OSError, ssl.SSLError) as error:
            log.warning(
                (
                    "the changed certificate files are not usable (%s); the old certificate stays until they "
                    "change again"
                ),
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
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
