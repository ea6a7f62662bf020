"""What the fetcher reads from the machine's own apt configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import fetch_servers
from tests.support.fetch_servers import CATALOG, FetchError, Server, debian_mirror, fetch
from tests.support.servers import DEFAULT_FLAVOURS, DEFAULT_VERSIONS


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    monkeypatch.setattr(fetch_servers, "APT_SOURCES", tmp_path)
    return tmp_path


def test_mirror_of_a_deb822_file(sources: Path) -> None:
    (sources / "sources.list.d/debian.sources").write_text(
        "# a comment\nTypes: deb\nURIs: http://mirror.test/debian-security\nSuites: x\nComponents: main\n\n"
        "Types: deb deb-src\nURIs: http://mirror.test/debian\nSuites: x x-updates\nComponents: main\n"
    )
    assert debian_mirror() == "http://mirror.test/debian"


def test_mirror_of_a_one_line_file(sources: Path) -> None:
    (sources / "sources.list").write_text(
        "# deb http://old.test/debian x main\ndeb [signed-by=/k.gpg] https://other.test/apt x main\n"
        "deb [arch=amd64] http://mirror.test/debian/ bookworm main contrib\n"
    )
    assert debian_mirror() == "http://mirror.test/debian/"


def test_a_machine_without_a_mirror_is_told_so(sources: Path) -> None:
    with pytest.raises(FetchError, match="no Debian mirror"):
        debian_mirror()


def test_what_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "there").mkdir()
    assert not fetch(Server("there", "suite", ("package",), ("usr/no/such/bin",)), servers=tmp_path)
    with pytest.raises(FetchError, match="on Debian only"):
        fetch(Server("missing", "suite", ("package",), ("usr/no/such/bin",)), servers=tmp_path)


def test_a_folder_that_all_versions_share_does_not_say_that_one_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert not fetch(Server("own", "suite", ("package",), ("usr/bin",), own_folder=True), servers=tmp_path)
    with pytest.raises(FetchError, match="on Debian only"):
        fetch(Server("shared", "suite", ("package",), ("usr/bin",)), servers=tmp_path)


def test_every_server_that_fixtures_use_can_be_fetched() -> None:
    assert set(DEFAULT_FLAVOURS) <= set(CATALOG)
    assert {f"postgresql-{version}" for version in DEFAULT_VERSIONS if version != 16} <= set(CATALOG)
