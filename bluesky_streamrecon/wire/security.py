"""CURVE keys: their files, and who may talk to whom. Nothing here opens a socket.

A key file is the Z85 text of one key, with comment lines that begin with ``#``. Files with secret keys are
readable by their owner only; a secret key never appears in a repr or a log record.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bluesky_streamrecon.errors import ConfigError

__all__ = [
    "ClientSecurity",
    "KeyPair",
    "ServerSecurity",
    "check_bind",
    "is_loopback",
    "read_public_key",
    "read_public_keys",
    "read_secret_key",
    "write_keys",
]

_Z85: Final = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair as Z85 text; the secret half does not show."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """What a binding end needs: its own keys, and the public keys that are let in.

    Parameters
    ----------
    keys : KeyPair
        Own keys.
    allowed : frozenset of str
        Z85 public keys of the clients that are let in; nobody else is, but who has our own keys.
    """

    keys: KeyPair
    allowed: frozenset[str]

    @classmethod
    def from_files(cls, secret: str | Path, allowed: str | Path | Iterable[str | Path]) -> ServerSecurity:
        """Read the own ``*.secret`` file and the allowed ``*.public`` files, or folders of such.

        Raises
        ------
        ConfigError
            If a file is missing, is not a key, or lets others read a secret.
        """
        paths = [allowed] if isinstance(allowed, str | Path) else list(allowed)
        return cls(read_secret_key(secret), read_public_keys(paths))


@dataclass(frozen=True, slots=True)
class ClientSecurity:
    """What a connecting end needs: its own keys, and the public key of the end that it means to reach."""

    keys: KeyPair
    server: str

    @classmethod
    def from_files(cls, secret: str | Path, server: str | Path) -> ClientSecurity:
        """Read the own ``*.secret`` file and the server's ``*.public`` file.

        Raises
        ------
        ConfigError
            As `ServerSecurity.from_files`.
        """
        return cls(read_secret_key(secret), read_public_key(server))


def write_keys(directory: str | Path, name: str, keys: KeyPair) -> tuple[Path, Path]:
    """Write ``NAME.public`` and ``NAME.secret`` (mode 0600) and return their paths.

    Raises
    ------
    ConfigError
        If one of the files exists (nothing is overwritten), the name is not a plain file name, or the directory
        can not be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"key name: got {name!r}, expected letters, digits, '.', '_' and '-'")
    folder = Path(directory)
    public, secret = folder / f"{name}.public", folder / f"{name}.secret"
    for path in (public, secret):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path} exists; keys are never overwritten: choose another name, or delete it yourself")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_new(secret, f"# CURVE secret key of {name}; keep it to yourself\n{keys.public}\n{keys.secret}\n", 0o600)
        try:
            _write_new(public, f"# CURVE public key of {name}; give it to the other side\n{keys.public}\n", 0o644)
        except OSError:
            secret.unlink()
            raise
    except OSError as error:
        raise ConfigError(f"keys of {name} in {folder}: {error.strerror or error}") from error
    return public, secret


def read_public_key(path: str | Path) -> str:
    """Read one ``*.public`` file.

    Raises
    ------
    ConfigError
        If it can not be read or is not a public key.
    """
    keys = _read(path)
    if len(keys) != 1:
        raise ConfigError(f"{path}: got {len(keys)} keys, expected 1; is this the .public file?")
    return keys[0]


def read_public_keys(paths: Iterable[str | Path]) -> frozenset[str]:
    """Read ``*.public`` files; a folder stands for all of them in it.

    Raises
    ------
    ConfigError
        If there is none, or one can not be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.glob("*.public")) if path.is_dir() else [path]
    if not files:
        raise ConfigError("allowed keys: got no .public file, expected at least one; nobody could connect")
    return frozenset(read_public_key(file) for file in files)


def read_secret_key(path: str | Path) -> KeyPair:
    """Read one ``*.secret`` file.

    Raises
    ------
    ConfigError
        If it can not be read, is not a secret key, or others than its owner may read it.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; make keys with `streamrecon keygen`") from error
    if mode & 0o077:
        raise ConfigError(f"{path}: got mode {mode & 0o777:03o}, expected 600; others may have read it: make new keys")
    keys = _read(path)
    if len(keys) != 2:
        raise ConfigError(f"{path}: got {len(keys)} keys, expected public and secret; is this the .secret file?")
    return KeyPair(public=keys[0], secret=keys[1])


def is_loopback(address: str) -> bool:
    """Return whether a ``tcp://host:port``, ``ipc://`` or ``inproc://`` address stays on this machine."""
    scheme, _, rest = address.partition("://")
    if scheme in ("ipc", "inproc"):
        return True
    host = rest.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_bind(address: str, security: ServerSecurity | None, *, insecure: bool) -> None:
    """Refuse to bind an address on the network without keys.

    Raises
    ------
    ConfigError
        If the address can be reached from outside, and there are neither keys nor ``insecure=True``.
    """
    if security is None and not insecure and not is_loopback(address):
        raise ConfigError(
            f"address {address}: other machines can reach it and there are no keys; make some with "
            "`streamrecon keygen`, bind 127.0.0.1, or say insecure=True on a network where everyone is trusted"
        )


def _write_new(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
    except OSError:  # a full disk: what is left of the file would be in the way of the next try
        path.unlink()
        raise


def _read(path: str | Path) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can not be read as a key file: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("# ")]
    if not all(_Z85.fullmatch(key) for key in keys):
        raise ConfigError(f"{path}: holds something that is not a key of 40 Z85 characters; was the file cut?")
    return keys
