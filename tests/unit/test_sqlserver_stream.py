"""The SQL Server stream's waiting for the capture job, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from connectors.sqlserver import capture, stream
from connectors.sqlserver.connection import Connection, Connections
from engine.source import Secret, SourceOptions


def test_scans_that_still_bring_commits_do_not_show_that_the_log_was_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = SourceOptions("h", 1, "u", Secret("p"), "d")
    made = stream.Stream(Connections(options), options, 1000, [], [], lambda: 2000, lambda _: None)
    scans: Iterator[int] = iter(range(1, 100))
    shown = [0]
    monkeypatch.setattr(stream, "SCAN_EVERY", 0.0)
    monkeypatch.setattr(capture, "last_scan", lambda _: capture.Scan(next(scans), 0, "now", "Done", (0, 0, 0)))
    monkeypatch.setattr(capture, "max_lsn", lambda _: shown[0])
    connection = cast("Connection", None)
    # A backlog: every scan ends at its bound of transactions, and shows some more of them.
    for end in range(500, 900, 50):
        shown[0] = end
        assert list(made._idle(connection, end)) == []
    batches = [item for _ in range(4) for item in made._idle(connection, shown[0])]
    assert [str(getattr(b, "position", None)) for b in batches] == [f"0x{2000:020X}"]
