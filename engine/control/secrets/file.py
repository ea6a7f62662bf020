"""Secrets in files of this machine: one per reference, encrypted and authenticated (AES-256-GCM), readable by the owner.

The reference is authenticated along with the secret, so that a file put in another's place is refused. The key lies in
a file of its own, outside the folder; both are made when they are first needed. Files appear whole or not at all:
written beside, flushed to the disk, renamed.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.control.failures import SecretMissing, SecretUnavailable
from engine.control.secrets.store import checked
from engine.errors import ConfigError, Problem
from engine.source import Secret

_MAGIC: Final = b"reflex-secret-1\n"
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_DRAFT: Final = ".new-"
_DRAFT_SECONDS: Final = 3600
"""Age from which a draft is nobody's any more: writing takes no second."""


class FileSecretStore:
    """See `engine.control.secrets.store.SecretStore`. Raises ConfigError when folder or key cannot be used."""

    def __init__(self, folder: str | Path, key_file: str | Path) -> None:
        self._folder = Path(folder)
        # A folder that one thread finds empty, and removes, another one may be about to write into.
        self._lock = threading.Lock()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
        except OSError as error:
            message = f"{self._folder} cannot be used as a folder: {error.strerror}"
            raise ConfigError([Problem("secrets.path", message)]) from error
        _sweep(self._folder)
        self._cipher = AESGCM(_key(Path(key_file), self._folder))

    def put(self, ref: str, secret: Secret) -> None:
        path = self._path(ref)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, secret.reveal().encode(), ref.encode())
        try:
            with self._lock:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write(path, _MAGIC + nonce + sealed)
        except OSError as error:
            raise SecretUnavailable(f"a secret cannot be written: {error.strerror}") from error

    def get(self, ref: str) -> Secret:
        try:
            data = self._path(ref).read_bytes()
        except FileNotFoundError:
            raise SecretMissing("there is no such secret") from None
        except OSError as error:
            raise SecretUnavailable(f"a secret cannot be read: {error.strerror}") from error
        if not data.startswith(_MAGIC):
            raise SecretUnavailable("a secret's file is damaged")
        start = len(_MAGIC)
        nonce, sealed = data[start : start + _NONCE_BYTES], data[start + _NONCE_BYTES :]
        try:
            return Secret(self._cipher.decrypt(nonce, sealed, ref.encode()).decode())
        except (InvalidTag, ValueError):
            raise SecretUnavailable("a secret's file is damaged, or belongs to another key") from None

    def delete(self, ref: str) -> None:
        path = self._path(ref)
        with self._lock:
            try:
                path.unlink(missing_ok=True)
            except NotADirectoryError:
                return
            except OSError as error:
                raise SecretUnavailable(f"a secret cannot be deleted: {error.strerror}") from error
            for parent in path.parents:
                if parent == self._folder:
                    break
                # Others' secrets may be in it.
                with suppress(OSError):
                    parent.rmdir()

    def reference_for_ecs(self, ref: str) -> str:
        del ref
        raise SecretUnavailable("ECS cannot read secrets of files: use secrets.store ssm")

    def _path(self, ref: str) -> Path:
        return self._folder / checked(ref)


def _key(path: Path, folder: Path) -> bytes:
    """Read the key, or make one when there is nothing yet that an old one was needed for."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        if any(entry.is_file() for entry in folder.rglob("*")):
            message = f"{path} does not exist, but there are secrets under secrets.path that were encrypted with it"
            raise ConfigError([Problem("secrets.key_file", message)]) from None
        return _made_key(path)
    except OSError as error:
        raise ConfigError([Problem("secrets.key_file", f"{path} cannot be read: {error.strerror}")]) from error
    if len(key) != _KEY_BYTES:
        raise ConfigError([Problem("secrets.key_file", f"{path} is no key: it must have {_KEY_BYTES} bytes")])
    if path.stat().st_mode & 0o077:
        raise ConfigError([Problem("secrets.key_file", f"{path} can be read by others: chmod 600 it")])
    return key


def _made_key(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, os.urandom(_KEY_BYTES), replace=False)
        # Another process may have been first: its key counts.
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([Problem("secrets.key_file", f"{path} cannot be written: {error.strerror}")]) from error


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed in the middle of writing left behind."""
    for draft in folder.rglob(f"{_DRAFT}*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                draft.unlink()


def _write(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Make a file of mode 0600 appear, whole and durable. Without `replace` one that is there already stays."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=_DRAFT)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(beside).replace(path)
        else:
            with suppress(FileExistsError):
                path.hardlink_to(beside)
            Path(beside).unlink()
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
