"""TLS: certificates that are renewed while the server runs."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path

import pytest
from poolrt.runtime.errors import EXIT_INPUT, InputError
from poolrt.runtime.model import Model
from poolrt.serve.cli import parse, serve, settings_of
from poolrt.serve.process import server as serving
from poolrt.serve.process.certificates import Certificates, check
from poolrt.serve.settings import Settings, Tls

from tests.serve.conftest import live
from tests.serve.test_operations import until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """Two keys with their certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    made = []
    for name in ("first", "second"):
        key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
            "-subj /CN=localhost -keyout"
        )
        subprocess.run(
            [*command.split(), str(key), "-out", str(certificate)], check=True, capture_output=True
        )
        made.append((key, certificate))
    return made


@pytest.fixture
def used(pairs: list[tuple[Path, Path]], tmp_path: Path) -> Tls:
    tls = Tls(keyfile=str(tmp_path / "key"), certfile=str(tmp_path / "crt"), refresh=True)
    replace(tls, *pairs[0])
    return tls


def replace(tls: Tls, key: Path | None = None, certificate: Path | None = None) -> None:
    """By renaming, as those who renew certificates do."""
    for source, target in ((key, tls.keyfile), (certificate, tls.certfile)):
        if source is not None:
            shutil.copy(source, f"{target}.new")
            Path(f"{target}.new").rename(target)


def test_files_that_make_no_context_are_named(
    used: Tls, pairs: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    check(used)
    check(changed(used, ca_certs=used.certfile, cert_reqs=2))
    nowhere, other = str(tmp_path / "nowhere"), str(pairs[1][0])
    text = tmp_path / "text"
    text.write_text("no certificate")
    for tls, why in (
        (changed(used, certfile=nowhere), f"--ssl-certfile {nowhere}: No such file"),
        (changed(used, keyfile=nowhere), f"--ssl-keyfile {nowhere}: No such file"),
        (changed(used, certfile=str(text)), f"--ssl-certfile {text} and"),
        (changed(used, keyfile=other), f"--ssl-keyfile {other}: expected a certificate and its private key"),
        (changed(used, ca_certs=str(text)), f"--ssl-ca-certs {text}: expected certificates"),
        (changed(used, ciphers="none"), "--ssl-ciphers none"),
        (changed(used, cert_reqs=3), "--ssl-cert-reqs 3"),
    ):
        with pytest.raises(InputError, match=re.escape(why)):
            check(tls)


def test_a_key_with_a_passphrase_is_left_to_the_start(used: Tls) -> None:
    command = "openssl ec -aes256 -passout pass:secret -in"
    subprocess.run([*command.split(), used.keyfile, "-out", used.keyfile], check=True, capture_output=True)
    check(used)


def shown(port: int) -> str:
    """Digest of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as secure,
    ):
        found = secure.getpeercert(binary_form=True)
    assert found is not None
    return hashlib.sha256(found).hexdigest()


def digest(certificate: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


@pytest.mark.parametrize("refresh", [True, False])
def test_a_renewed_certificate_is_shown_where_that_is_asked_for(
    models: Callable[[str], Model],
    pairs: list[tuple[Path, Path]],
    used: Tls,
    monkeypatch: pytest.MonkeyPatch,
    refresh: bool,
):
    monkeypatch.setattr(serving, "LOOK_S", 0.1)
    tls = Tls(keyfile=used.keyfile, certfile=used.certfile, refresh=refresh)
    with live(models("minilm_like"), settings=Settings(tls=tls)) as server:
        assert shown(server.port) == digest(pairs[0][1])
        ticks = counted(server.server, monkeypatch)
        replace(used, *pairs[1])
        # Certificate and key are in place: two looks later at most they are used, or never.
        before = len(ticks)
        until(lambda: len(ticks) > before + 3)
        assert shown(server.port) == digest(pairs[int(refresh)][1])


def counted(server: serving.Server, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    ticks: list[float] = []
    own = server.on_tick

    async def ticking(counter: int) -> bool:
        ticks.append(time.monotonic())
        return await own(counter)

    monkeypatch.setattr(server, "on_tick", ticking)
    return ticks


def test_files_that_do_not_fit_leave_the_old_certificate(
    pairs: list[tuple[Path, Path]], used: Tls, caplog: pytest.LogCaptureFixture
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(used.certfile, used.keyfile)
    certificates = Certificates(used, context)
    assert not certificates.refresh()
    replace(used, certificate=pairs[1][1])
    assert not certificates.refresh()
    assert "the old certificate stays" in caplog.text
    assert handshake(context) == digest(pairs[0][1])
    caplog.clear()
    assert not certificates.refresh()
    assert caplog.text == ""
    replace(used, key=pairs[1][0])
    assert certificates.refresh()
    assert handshake(context) == digest(pairs[1][1])
    Path(used.certfile).unlink()
    assert not certificates.refresh()
    assert handshake(context) == digest(pairs[1][1])


def handshake(context: ssl.SSLContext) -> str:
    """Digest of the certificate that a server with this context shows, without a network."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = context.wrap_bio(there, back, server_side=True), client.wrap_bio(back, there)
    for side in (theirs, ours) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = theirs.getpeercert(binary_form=True)
    assert found is not None
    return hashlib.sha256(found).hexdigest()


def test_the_flag_needs_a_certificate(capsys: pytest.CaptureFixture[str]):
    files = ["--ssl-keyfile", "k", "--ssl-certfile", "c"]
    tls = settings_of(parse(["m", *files, "--enable-ssl-refresh"])[0]).tls
    assert tls is not None
    assert tls.refresh
    assert serve(["m", "--enable-ssl-refresh"]) == EXIT_INPUT
    assert "--enable-ssl-refresh has no certificate to look at" in capsys.readouterr().err
