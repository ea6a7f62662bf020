"""The commands that speak to a running instance: ``query`` and ``status``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from engine.client import ACCEPT, ClientError, InstanceClient
from engine.terminal import text_table

SERVING = {"ok", "degraded"}


def print_answer(sql: str, url: str, token: str | None, form: str, seconds: float | None = None) -> int:
    """Run `sql` on the instance, for so many seconds at most, and write the answer to standard output."""
    limit = None if seconds is None else max(1, round(seconds * 1000))
    with InstanceClient(url, token) as client:
        if form == "table":
            answer = client.query(sql, timeout_ms=limit)
            print(text_table(_names(answer["columns"]), answer["rows"]))
            count = answer.get("rowCount", len(answer["rows"]))
            more = ", more were left off" if answer.get("truncated") else ""
            print(f"({count} row{'' if count == 1 else 's'}{more})")
        else:
            for chunk in client.stream(sql, ACCEPT[form], timeout_ms=limit):
                sys.stdout.buffer.write(chunk)
            if form == "json":
                sys.stdout.buffer.write(b"\n")
            sys.stdout.buffer.flush()
    return 0


def print_status(url: str, token: str | None) -> int:
    """Print what the instance says of itself; 1 when it says that it does not keep up any more."""
    with InstanceClient(url, token) as client:
        health = client.health()
        print(status_text(health, _tables(client)))
    return 0 if health.get("status") in SERVING else 1


def watch_status(url: str, token: str | None, every: float = 1.0) -> int:
    """Show the status again and again until Ctrl-C, in place on a terminal. An instance that goes away is waited for."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with InstanceClient(url, token, timeout=5.0) as client:
        print_status(url, token)
        try:
            if console.is_terminal:
                with Live(console=console, screen=True, auto_refresh=False) as live:
                    while True:
                        live.update(Text(_status_or_error(client)), refresh=True)
                        time.sleep(every)
            while True:
                time.sleep(every)
                print(_status_or_error(client), flush=True)
        except KeyboardInterrupt:
            return 0


def _status_or_error(client: InstanceClient) -> str:
    try:
        return status_text(client.health(), _tables(client))
    except ClientError as error:
        if error.is_callers:
            raise
        return str(error)


def _tables(client: InstanceClient) -> list[dict[str, Any]]:
    """The tables, none while the instance cannot say (it is starting)."""
    try:
        return client.tables()
    except ClientError as error:
        if error.status == 503:
            return []
        raise


def status_text(health: dict[str, Any], tables: Sequence[dict[str, Any]]) -> str:
    """Health, lag and every table, as a few lines and a table."""
    mode = f"({health.get('backend', '?')}, {health.get('syncMode', '?')})"
    lines = [
        f"{health.get('instance', '?')}: {health.get('status', '?')}, {health.get('phase', '?')} {mode}",
        f"lag       {_lag(health)}",
        f"position  {health.get('position') or '-'}  (source {health.get('sourcePosition') or '-'})",
        f"memory    {_or_dash(health.get('memoryMb'))} of {_or_dash(health.get('memoryCapMb'))} MB",
    ]
    lines += [
        f"check     {check.get('name')}: {check.get('status')} {check.get('detail') or ''}".rstrip()
        for check in health.get("checks", [])
        if check.get("status") != "ok"
    ]
    if health.get("lastError"):
        lines.append(f"error     {_error(health['lastError'])}")
    counts = health.get("rowCounts") or {}
    listed = [_table_row(t, counts) for t in tables] or [[name, n, "-", "-"] for name, n in counts.items()]
    if listed:
        lines += ["", text_table(["table", "rows", "state", "last change"], listed)]
    return "\n".join(lines)


def _table_row(table: dict[str, Any], counts: dict[str, int]) -> list[Any]:
    name = f"{table.get('schema')}.{table.get('name')}"
    rows = table.get("rowCount", counts.get(name))
    return [name, _or_dash(rows), table.get("state") or "-", table.get("lastChange") or "-"]


def _lag(health: dict[str, Any]) -> str:
    parts = []
    if health.get("lagMs") is not None:
        parts.append(f"{health['lagMs']} ms")
    if health.get("lagBytes") is not None:
        parts.append(f"{health['lagBytes']} bytes")
    return ", ".join(parts) or "-"


def _error(error: Any) -> str:
    if isinstance(error, dict):
        return str(error.get("message") or error.get("error") or json.dumps(error))
    return str(error)


def _or_dash(value: Any) -> Any:
    return "-" if value is None else value


def _names(columns: Sequence[Any]) -> list[str]:
    """Column names, whether the answer lists names or {name, type}."""
    return [str(c["name"]) if isinstance(c, dict) else str(c) for c in columns]
