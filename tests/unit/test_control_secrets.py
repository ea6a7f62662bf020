"""The secret store of files: what is on the disk, who may read it, what is refused."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.control.config import parse_control_config
from engine.control.failures import SecretMissing, SecretUnavailable
from engine.control.secrets import open_secret_store
from engine.control.secrets.file import FileSecretStore
from engine.errors import ConfigError
from engine.source import Secret

PASSWORD = "pa$$w\u00f6rd-\U0001f511-with spaces "


@pytest.fixture
def store(tmp_path: Path) -> FileSecretStore:
    return FileSecretStore(tmp_path / "secrets", tmp_path / "keys" / "control.key")


def test_a_secret_comes_back_and_is_nowhere_in_clear(store: FileSecretStore, tmp_path: Path) -> None:
    store.put("connections/a/1", Secret(PASSWORD))
    assert store.get("connections/a/1").reveal() == PASSWORD
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600
        assert PASSWORD.encode() not in path.read_bytes()
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    again = FileSecretStore(tmp_path / "secrets", tmp_path / "keys" / "control.key")
    assert again.get("connections/a/1").reveal() == PASSWORD


def test_put_replaces_and_delete_forgets(store: FileSecretStore, tmp_path: Path) -> None:
    store.put("connections/a/1", Secret("old"))
    first = (tmp_path / "secrets/connections/a/1").read_bytes()
    store.put("connections/a/1", Secret("old"))
    assert (tmp_path / "secrets/connections/a/1").read_bytes() != first, "the nonce was used twice"
    store.put("connections/a/1", Secret("new"))
    store.put("connections/b/1", Secret("other"))
    assert store.get("connections/a/1").reveal() == "new"
    store.delete("connections/a/1")
    store.delete("connections/a/1")
    with pytest.raises(SecretMissing):
        store.get("connections/a/1")
    assert store.get("connections/b/1").reveal() == "other"
    assert not (tmp_path / "secrets/connections/a").exists()
    store.delete("connections/b/1")
    assert list((tmp_path / "secrets").iterdir()) == []


def test_what_was_tampered_with_is_refused(store: FileSecretStore, tmp_path: Path) -> None:
    store.put("connections/a/1", Secret(PASSWORD))
    store.put("connections/b/1", Secret("other"))
    a, b = tmp_path / "secrets/connections/a/1", tmp_path / "secrets/connections/b/1"
    whole = a.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", whole[:20], b.read_bytes()):
        a.write_bytes(damaged)
        with pytest.raises(SecretUnavailable) as refused:
            store.get("connections/a/1")
        assert not isinstance(refused.value, SecretMissing)


@pytest.mark.parametrize("ref", ["", "a", "/etc/passwd", "../x", "a/../b", "a//b", "a/b\n", "a/b.c"])
def test_a_reference_is_no_path(store: FileSecretStore, ref: str) -> None:
    for use in (store.get, store.delete, lambda r: store.put(r, Secret("x"))):
        with pytest.raises(ValueError, match="reference"):
            use(ref)


def test_a_lost_or_open_key_is_said_not_replaced(store: FileSecretStore, tmp_path: Path) -> None:
    store.put("connections/a/1", Secret(PASSWORD))
    key = tmp_path / "keys" / "control.key"
    kept = key.read_bytes()

    def problem() -> str:
        with pytest.raises(ConfigError) as refused:
            FileSecretStore(tmp_path / "secrets", key)
        [found] = refused.value.problems
        assert found.field == "secrets.key_file"
        return found.message

    key.chmod(0o640)
    assert "chmod 600" in problem()
    key.unlink()
    assert "does not exist" in problem()
    key.write_bytes(kept[:-1])
    assert "32 bytes" in problem()
    key.unlink()
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    with pytest.raises(SecretUnavailable, match="another key"):
        FileSecretStore(tmp_path / "secrets", key).get("connections/a/1")


def test_many_threads_and_a_key_made_by_several_at_once(tmp_path: Path) -> None:
    def use(number: int) -> str:
        store = FileSecretStore(tmp_path / "secrets" / str(number), tmp_path / "control.key")
        for _ in range(10):
            store.put("connections/a/1", Secret(str(number)))
            store.delete("connections/a/2")
        return store.get("connections/a/1").reveal()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == [str(n) for n in range(8)]
    key = (tmp_path / "control.key").read_bytes()
    assert len(key) == 32
    for number in range(8):
        one = FileSecretStore(tmp_path / "secrets" / str(number), tmp_path / "control.key")
        assert one.get("connections/a/1").reveal() == str(number)
    assert not list(tmp_path.rglob(".new-*"))


def test_what_a_kill_left_half_written_is_swept(store: FileSecretStore, tmp_path: Path) -> None:
    store.put("connections/a/1", Secret(PASSWORD))
    folder = tmp_path / "secrets" / "connections" / "a"
    old, fresh = folder / ".new-old", folder / ".new-fresh"
    for draft in (old, fresh):
        draft.write_bytes(b"half")
    long_ago = fresh.stat().st_mtime - 7200
    os.utime(old, (long_ago, long_ago))
    again = FileSecretStore(tmp_path / "secrets", tmp_path / "keys" / "control.key")
    assert (old.exists(), fresh.exists()) == (False, True)
    assert again.get("connections/a/1").reveal() == PASSWORD


def test_the_configuration_chooses_the_store(tmp_path: Path) -> None:
    chosen = {"path": str(tmp_path / "s"), "key_file": str(tmp_path / "k")}
    store = open_secret_store(parse_control_config(f"secrets: {chosen}"))
    assert isinstance(store, FileSecretStore)
    with pytest.raises(SecretUnavailable):
        store.reference_for_ecs("a/b")
