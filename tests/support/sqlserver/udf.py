"""The conversions that DuckDB lacks, as functions of Python in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import duckdb

from tests.support.sqlserver import shapes, values
from tests.support.sqlserver.errors import SqlError

_failures: dict[str, SqlError] = {}


def failure(text: str) -> SqlError | None:
    """The error that a function raised, from DuckDB's message about it (which carries its key)."""
    for mark, error in list(_failures.items()):
        if mark in text:
            del _failures[mark]
            return error
    return None


def _guarded(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if args[0] is None:
            return None
        try:
            return function(*args)
        except SqlError as error:
            mark = f"<<sql-error-{id(error)}>>"
            _failures[mark] = error
            raise ValueError(mark) from None

    # DuckDB counts the parameters.
    names = [inspect.Parameter(f"a{place}", inspect.Parameter.POSITIONAL_ONLY) for place in range(count)]
    call.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    return call


def _fits(text: str, length: int) -> str:
    if len(text) > length:
        if text[length:].strip(" "):
            raise SqlError(2628, "String or binary data would be truncated in a table.")
        return text[:length]
    return text


def _binary(data: bytes, length: int, fixed: bool, assign: bool) -> bytes:
    if len(data) > length:
        if assign:
            raise SqlError(2628, "String or binary data would be truncated in a table.")
        return data[:length]
    return data.ljust(length, b"\0") if fixed else data


def _integer(number: int, size: int, length: int, fixed: bool) -> bytes:
    data = (number & (1 << 8 * size) - 1).to_bytes(size, "big")
    if length == -1:
        return data
    return data[-length:].rjust(length if fixed else min(size, length), b"\0")


def _from_binary(data: bytes, size: int) -> int:
    return int.from_bytes(data[-size:].rjust(size, b"\0"), "big", signed=size > 1)


def _moment_as(stored: int, source: str, target: str, scale: int) -> int:
    if source == "datetimeoffset":
        utc, offset = values.unpack_offset(stored)
        if target == "datetimeoffset":
            local = values.fit(utc + offset * values.MINUTE, target, scale)
            return values.pack_offset(local - offset * values.MINUTE, offset)
        stored = utc + offset * values.MINUTE
    if source == "time" and target != "time":
        stored += values.EPOCH_1900 * values.DAY
    if target == "datetimeoffset":
        return values.pack_offset(values.fit(stored, target, scale), 0)
    return values.fit(stored % values.DAY if target == "time" else stored, target, scale)


def _has_bit(position: int, mask: bytes | None) -> int | None:
    if mask is None:
        return None
    byte, bit = divmod(position - 1, 8)
    return int(byte < len(mask) and bool(mask[-1 - byte] & 1 << bit))


def _increment(lsn: bytes, step: int) -> bytes:
    return (int.from_bytes(lsn, "big") + step).to_bytes(10, "big")


def _hash(algorithm: str, data: bytes | None) -> bytes | None:
    import hashlib

    names = {"md5": "md5", "sha": "sha1", "sha1": "sha1", "sha2_256": "sha256", "sha2_512": "sha512"}
    if data is None or algorithm.lower() not in names:
        return None
    return hashlib.new(names[algorithm.lower()], data).digest()


def _like(text: str, pattern: str, escape: str | None) -> bool | None:
    import re

    if pattern is None:
        return None
    parts, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if escape and char == escape and at + 1 < len(pattern):
            at += 1
            parts.append(re.escape(pattern[at]))
        elif char == "%":
            parts.append(".*")
        elif char == "_":
            parts.append(".")
        elif char == "[" and "]" in pattern[at:]:
            end = pattern.index("]", at + 1)
            inner = pattern[at + 1 : end].replace("\\", "\\\\")
            inner = "\\[" if inner == "[" else inner
            parts.append(f"[{inner}]")
            at = end
        else:
            parts.append(re.escape(char))
        at += 1
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


_FUNCTIONS: dict[str, tuple[Callable[..., Any], list[Any], str]] = {
    "tsql_fits": (_fits, ["VARCHAR", "INTEGER"], "VARCHAR"),
    "tsql_binary": (_binary, ["BLOB", "INTEGER", "BOOLEAN", "BOOLEAN"], "BLOB"),
    "tsql_integer": (_integer, ["BIGINT", "INTEGER", "INTEGER", "BOOLEAN"], "BLOB"),
    "tsql_from_binary": (_from_binary, ["BLOB", "INTEGER"], "BIGINT"),
    "tsql_float": (values.write_float, ["DOUBLE", "INTEGER", "BOOLEAN"], "VARCHAR"),
    "tsql_moment": (values.write_moment, ["HUGEINT", "VARCHAR", "INTEGER", "INTEGER"], "VARCHAR"),
    "tsql_read_moment": (values.read_moment, ["VARCHAR", "VARCHAR", "INTEGER"], "HUGEINT"),
    "tsql_moment_as": (_moment_as, ["HUGEINT", "VARCHAR", "VARCHAR", "INTEGER"], "HUGEINT"),
    "tsql_read_guid": (values.read_guid, ["VARCHAR"], "BLOB"),
    "tsql_sort_guid": (lambda data: values.sort_guid(data[:16].ljust(16, b"\0")), ["BLOB"], "BLOB"),
    "tsql_wire_guid": (values.wire_guid, ["BLOB"], "BLOB"),
    "tsql_guid": (values.write_guid, ["BLOB"], "VARCHAR"),
    "tsql_encode": (values.encode, ["VARCHAR", "BOOLEAN"], "BLOB"),
    "tsql_decode": (values.decode, ["BLOB", "BOOLEAN"], "VARCHAR"),
    "tsql_path": (shapes.path, ["VARCHAR"], "VARCHAR"),
    "tsql_shape": (shapes.shape, ["VARCHAR"], "BLOB"),
    "tsql_flat": (shapes.flat, ["BLOB"], "BLOB"),
    "tsql_code_page": (values.code_page, ["VARCHAR"], "VARCHAR"),
    "tsql_hex": (values.parse_hex, ["VARCHAR", "INTEGER"], "BLOB"),
    "tsql_has_bit": (_has_bit, ["INTEGER", "BLOB"], "UTINYINT"),
    "tsql_increment": (_increment, ["BLOB", "INTEGER"], "BLOB"),
    "tsql_hash": (_hash, ["VARCHAR", "BLOB"], "BLOB"),
    "tsql_like": (_like, ["VARCHAR", "VARCHAR", "VARCHAR"], "BOOLEAN"),
    "tsql_checked": (values.checked_float, ["DOUBLE"], "DOUBLE"),
    "tsql_lsn": (lambda number: number.to_bytes(10, "big"), ["HUGEINT"], "BLOB"),
}


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the functions known to a database."""
    for name, (function, arguments, result) in _FUNCTIONS.items():
        connection.create_function(  # type: ignore[call-overload] # the name of the handling is taken, too
            name,
            _guarded(function, len(arguments)),
            arguments,
            result,
            null_handling="special",
        )
