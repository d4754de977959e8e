"""Certificates of one run: who does not have them can neither join its cluster nor talk to it.

A Dask scheduler runs whatever it is sent, as the user it belongs to. So whatever listens on more
than loopback asks both sides for the certificate made for this run, over TLS.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ClusterError, MissingExtraError
from pipeline.files.rights import OWN, make_folders, ours_alone, write_private

if TYPE_CHECKING:
    from distributed.security import Security

__all__ = [
    "CERTIFICATE",
    "KEY",
    "SCHEDULER_FILE",
    "certified",
    "private_folder",
    "secured",
    "security_in",
]

SCHEDULER_FILE = "scheduler.json"
"""Beside the certificates of a run: where its scheduler is."""

CERTIFICATE, KEY = "certificate.pem", "key.pem"
"""In the folder of a run."""

_SKEW = dt.timedelta(days=1)
"""Clocks of nodes differ; a certificate of today must not be one of tomorrow."""

_VALID = dt.timedelta(days=60)


@contextmanager
def certified(parent: str, name: str | None = None) -> Iterator[Path]:
    """Make a folder with new certificates for a ``with`` block, and remove it afterwards.

    ``parent`` is made, for this user alone, where it is not there. Raises `ClusterError` where
    others could put files into it.
    """
    folder = private_folder(parent) / (name or f"run-{secrets.token_hex(6)}")
    try:
        folder.mkdir(OWN)
        _write(folder)
    except OSError as error:
        raise ClusterError(_unwritable(folder, error)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def private_folder(parent: str) -> Path:
    """Give a folder that nobody else can write to, made where it is not there."""
    folder = Path(os.path.expandvars(parent)).expanduser()
    try:
        make_folders(folder, OWN)
        found = folder.stat()
    except OSError as error:
        raise ClusterError(_unwritable(folder, error)) from error
    if not ours_alone(found):
        raise ClusterError(
            f"{folder}: others can write here, and certificates are to be kept in it; make it "
            "yours alone (chmod 700), or name another in cluster.shared_temp_directory"
        )
    return folder


def security_in(folder: Path) -> Security:
    """Give what Dask is told of the certificates in a folder of `certified`."""
    from distributed.security import Security

    certificate, key = str(folder / CERTIFICATE), str(folder / KEY)
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=certificate,
        **{f"tls_{role}_cert": certificate for role in roles},
        **{f"tls_{role}_key": key for role in roles},
    )


def secured(folder: Path) -> bool:
    """Say whether a folder has the certificates of a run."""
    return (folder / CERTIFICATE).is_file() and (folder / KEY).is_file()


def _write(folder: Path) -> None:
    """Write a key, and a certificate that vouches for itself: both sides have the same one."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise MissingExtraError(
            "cluster: certificates need cryptography; pip install 'wsi-pipeline[slurm]'"
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wsi-pipeline run")])
    now = dt.datetime.now(tz=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    write_private(
        folder / KEY,
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    write_private(folder / CERTIFICATE, certificate.public_bytes(pem))


def _unwritable(folder: Path, error: OSError) -> str:
    return (
        f"{folder}: cannot be written: {error.strerror}; name another folder in "
        "cluster.shared_temp_directory"
    )
