"""`serve`: serve the page on this machine's loopback address, or with `--probe` a page that checks other devices."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import secrets
import ssl
import tempfile
import threading
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.static_server import HOST, ISOLATED, serve_folder
from keras_pipeline.phases import report, status

HOUR = 3600.0  # seconds


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """Serve until Ctrl-C, with `--probe` for an hour at most; return an empty result and the exit code.

    Raises:
        BrokenArtefact: where there is no page yet.
        ValueError: an address, a certificate or a key that can't be used, or an option of `--probe` without it.
    """
    folder = run.path("web")
    lonely = [f"--{name}" for name in ("host", "cert", "key") if getattr(options, name) and not options.probe]
    if lonely:
        raise ValueError(
            f"{', '.join(lonely)}: received without --probe, expected with it: the page itself is served on {HOST} "
            "alone; add --probe, or leave it out"
        )
    host, certificate = _address(options.host), _certificate(options.cert, options.key)
    if not (folder / "index.html").exists():
        raise BrokenArtefact(f"{folder}: no page yet; run `{report.command('run', options)}` first")
    status.warn_if_out_of_date(run, "the page")
    if options.probe:
        _serve_probe(run, options.port, host, certificate)
        return {}, 0
    with serve_folder(folder, options.port, headers=ISOLATED) as url:
        print(f"{url} (Ctrl-C stops it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return {}, 0


def _serve_probe(run: Run, port: int, host: str, certificate: ssl.SSLContext | None) -> None:
    """Serve the page that checks a device, below a path that nobody can guess."""
    from keras_pipeline.export import device_page  # with TensorFlow, which the page itself is served without
    from keras_pipeline.export.saved_model import load_classifier

    path = secrets.token_urlsafe(12)
    with tempfile.TemporaryDirectory(prefix="keras-pipeline-probe-") as root:
        classifier = load_classifier(run.path("saved_model"))
        device_page.write_device_page(run.path("web"), classifier, Path(root) / path)
        with serve_folder(Path(root), port, host=host, certificate=certificate, headers=ISOLATED) as url:
            print(f"{url}{path}/ (Ctrl-C stops it; it ends after an hour)", flush=True)
            if not certificate and host != HOST:
                print("over plain HTTP other devices have no WebGPU and no threads; --cert and --key give them HTTPS")
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait(HOUR)


def _address(host: str | None) -> str:
    """Return the address to listen on. Raises ValueError for what is none, or stands for all of them."""
    try:
        address = ipaddress.ip_address(host or HOST)
    except ValueError:
        address = None
    if address is None or address.is_unspecified:
        raise ValueError(f"--host: received {host}, expected one address of this machine, such as 192.168.1.20")
    return str(address)


def _certificate(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Load a certificate and its key. Raises ValueError where they can't be used."""
    if not cert and not key:
        return None
    if not cert:
        raise ValueError("--key: received without --cert, expected the certificate too; add --cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=lambda: "")  # or OpenSSL would ask on the console
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ValueError(
            f"--cert, --key: received {cert}{f' and {key}' if key else ''}, which can't be used ({error}); expected "
            "PEM files that belong together, the key without a passphrase; give others"
        ) from error
    return context
