"""The listening sockets, bound before anything slow, so that a refused address is reported at once."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import stat
import struct
import sys
from collections.abc import Iterator

from ...runtime.errors import InputError
from ..settings import Settings

ATTACH_FILTER = 26
"""SO_ATTACH_FILTER of Linux, which Python's socket module lacks."""
KEEP_NOTHING = struct.pack("=HBBI", 6, 0, 0, 0)
"""A classic BPF program of one instruction: return 0, of a packet keep no byte."""


def listening(settings: Settings, *, shared: bool = False) -> list[socket.socket]:
    """Bound sockets, one for each address of the host; none for a unix socket, which uvicorn makes.
    Raises InputError.

    Args:
        shared: other processes of this user may bind the same port, and Linux spreads connections over those
            that listen.
    """
    if settings.uds is not None:
        return []
    opened: list[socket.socket] = []
    with contextlib.ExitStack() as failing:
        port = settings.port
        for family, address in _addresses(settings):
            sock = socket.socket(family)
            failing.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((address, port))
            except OSError as error:
                # The host has an address of a protocol that is off on this machine.
                if opened and error.errno == errno.EADDRNOTAVAIL:
                    continue
                raise _refused(settings, error) from None
            port = sock.getsockname()[1]  # port 0 takes any free port
            opened.append(sock)
        failing.pop_all()
    return opened


def check_free(settings: Settings) -> None:
    """Raises InputError for a port that another server listens at. With SO_REUSEPORT it could be bound all
    the same, and the two would share it."""
    if settings.port != 0:
        for sock in listening(settings):
            sock.close()


@contextlib.contextmanager
def unix_socket(path: str) -> Iterator[socket.socket]:
    """A bound unix socket, whose file is removed in the end. Raises InputError."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)  # of a server that ended
        except FileNotFoundError:
            pass
        try:
            sock.bind(path)
            os.chmod(path, 0o666)
        except OSError as error:
            raise InputError(
                f"--uds {path}: cannot be listened at ({error.strerror or error}); give another path",
                field="uds",
            ) from None
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)


def close_queue(sock: socket.socket) -> None:
    """Keeps further clients out of the queue of a listening socket, so that it can be emptied before the
    socket is closed: closing it resets who waits there.

    Linux drops their first packets, which they repeat after a second, when the port is closed or another
    process has it. Elsewhere it does nothing.
    """
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return
    program = ctypes.create_string_buffer(KEEP_NOTHING)
    with contextlib.suppress(OSError):  # a kernel of a sandbox
        sock.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def has_queue(sock: socket.socket) -> bool:
    """Whether a client waits to be accepted."""
    if sock.fileno() < 0:
        return False
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _addresses(settings: Settings) -> list[tuple[socket.AddressFamily, str]]:
    try:
        infos = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise InputError(
            f"--host {settings.host}: no address of that name is known; give an address of this "
            "machine, or a name that has one",
            field="host",
        ) from None
    known = (socket.AF_INET, socket.AF_INET6)
    return list(
        dict.fromkeys((family, str(address[0])) for family, _, _, _, address in infos if family in known)
    )


def _refused(settings: Settings, error: OSError) -> InputError:
    where = f"{settings.host}:{settings.port}"
    match error.errno:
        case errno.EADDRINUSE:
            return InputError(
                f"port {settings.port} is in use on {settings.host}: choose another with "
                "--port, or end what uses it",
                field="port",
            )
        case errno.EACCES:
            return InputError(
                f"port {settings.port} needs rights that this user has not: choose one from 1024 with --port",
                field="port",
            )
        case errno.EADDRNOTAVAIL:
            return InputError(
                f"--host {settings.host} is no address of this machine: leave it out, or give one that is",
                field="host",
            )
        case _:
            return InputError(
                f"{where}: cannot be listened at ({error.strerror}); choose others with --host and --port",
                field="port",
            )
