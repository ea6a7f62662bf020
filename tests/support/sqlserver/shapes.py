"""Paths of hierarchyid, and points and lines of geometry and geography, from text."""

from __future__ import annotations

import re
import struct

from tests.support.sqlserver.errors import SqlError, Unknown

_PATH = re.compile(r"/(?:-?\d+(?:\.-?\d+)*/)*")
_SHAPE = re.compile(r"\s*(POINT|LINESTRING)\s*\(([-+\d.eE,\s]+)\)\s*", re.IGNORECASE)


def path(text: str) -> str:
    """A path like ``/1/2.1/``; error 6522 for what is none."""
    if not _PATH.fullmatch(text):
        raise SqlError(6522, "A .NET Framework error occurred during execution of hierarchyid.")
    return text


def shape(text: str) -> bytes:
    """WKT of a point or a line, plain or with Z, as WKB."""
    found = _SHAPE.fullmatch(text)
    if not found:
        raise Unknown("a shape that is neither a point nor a line")
    points = [[float(number) for number in point.split()] for point in found[2].split(",")]
    raised = len(points[0]) == 3
    line = found[1].upper() == "LINESTRING"
    head = struct.pack("<BI", 1, (2 if line else 1) + (1000 if raised else 0))
    count = struct.pack("<I", len(points)) if line else b""
    return head + count + b"".join(struct.pack(f"<{len(point)}d", *point) for point in points)


def flat(data: bytes) -> bytes:
    """WKB without Z, as STAsBinary gives it."""
    (kind,) = struct.unpack_from("<I", data, 1)
    if kind < 1000:
        return data
    start = 9 if kind == 1002 else 5
    body = b"".join(struct.pack("<2d", *point[:2]) for point in struct.iter_unpack("<3d", data[start:]))
    return struct.pack("<BI", 1, kind - 1000) + data[5:start] + body
