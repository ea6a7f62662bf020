"""What a statement in the binary log may touch. Pure; in doubt more, never less.

In row format the log holds statements for what begins and ends transactions and for DDL; everything that changes rows
comes as row events. A statement that changes rows itself (statement format) says that its tables must be reloaded.

Source: MySQL Reference Manual, "SQL Statements" and "Binary Logging Formats" (dev.mysql.com); MariaDB Knowledge Base,
"SQL Statements" (mariadb.com/kb).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import pyarrow as pa

from connectors.mysql.alterations import clauses, keeps_rows, others
from connectors.mysql.charsets import decode, of_collation
from connectors.mysql.events import Query, Xid
from connectors.mysql.sqltext import Cut, Unreadable, Words, tokens
from engine.errors import DecodeError, EngineError
from engine.schema import TableId


class Kind(enum.StrEnum):
    """What a statement does to whoever follows the log."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    """SAVEPOINT, RELEASE SAVEPOINT: nothing to do."""
    ROLLBACK_TO = "rollback to savepoint"
    """What the transaction changed after the savepoint is undone (in the log only where it cannot be cut out)."""
    XA_START = "xa start"
    XA_END = "xa end"
    XA_COMMIT = "xa commit"
    XA_ROLLBACK = "xa rollback"
    DDL = "ddl"
    TRUNCATE = "truncate"
    DML = "dml"
    """Rows are changed by the statement itself."""
    NOTHING = "nothing"
    """Touches no rows and no layout of a table: grants, views, routines, maintenance."""
    UNKNOWN = "unknown"
    """Not understood: may have done anything."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is known of a statement. `tables` are named by it and may be touched, as well as every table of `schemas`,
    and, with `everything`, any table at all.
    """

    kind: Kind
    tables: tuple[TableId, ...] = ()
    schemas: tuple[str, ...] = ()
    everything: bool = False
    harmless: bool = False
    """DDL that leaves the values of all rows as they are (indexes, names, options)."""
    xid: Xid | None = None
    """The XA transaction that it is about."""
    verb: str = ""
    """Its first words, for a message: keywords only."""

    def touches(self, table: TableId) -> bool:
        """Whether the table may be changed. Case is not told apart: servers can be set to fold it."""
        if self.everything:
            return True
        schema, name = table.schema.casefold(), table.name.casefold()
        if any(schema == s.casefold() for s in self.schemas):
            return True
        return any(schema == t.schema.casefold() and name == t.name.casefold() for t in self.tables)


_UNKNOWN = Statement(Kind.UNKNOWN, everything=True)
_NOTHING = Statement(Kind.NOTHING)

_QUIET = frozenset((
    *("GRANT", "REVOKE", "FLUSH", "ANALYZE", "OPTIMIZE", "CHECK", "CHECKSUM", "CACHE", "INSTALL", "UNINSTALL", "LOCK"),
    *("UNLOCK", "KILL", "SHUTDOWN", "CHANGE", "START", "STOP", "PURGE", "RESET", "USE", "HELP", "EXPLAIN", "DESCRIBE"),
    *("DESC", "SHOW", "SET", "RESTART", "CLONE", "SIGNAL", "BACKUP"),
))  # fmt: skip
_DML = frozenset((
    *("INSERT", "REPLACE", "UPDATE", "DELETE", "LOAD", "CALL", "DO", "SELECT", "WITH", "VALUES", "TABLE", "EXECUTE"),
    *("HANDLER", "IMPORT", "BINLOG", "(", "MERGE"),
))  # fmt: skip
_QUIET_OBJECTS = frozenset((
    *("VIEW", "PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "USER", "ROLE", "SERVER", "TABLESPACE", "UNDO", "LOGFILE"),
    *("RESOURCE", "SPATIAL_REFERENCE", "PACKAGE", "INSTANCE", "PREPARE", "LIBRARY"),
))  # fmt: skip
_SCHEMA = frozenset(("DATABASE", "SCHEMA"))
_MODIFIERS = frozenset((
    *("OR", "REPLACE", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR", "ONLINE", "OFFLINE", "IGNORE", "AGGREGATE", "UNDO"),
    *("ALGORITHM", "UNDEFINED", "MERGE", "TEMPTABLE", "DEFINER", "CURRENT_USER", "SQL", "SECURITY", "INVOKER", "LOOSE"),
    *("JSON", "DUALITY", "RELATIONAL", "EXTERNAL", "MATERIALIZED", "CURRENT_ROLE", "COLUMNAR"),
))  # fmt: skip


def read_statement(query: Query) -> Statement:
    """Say what the statement of a QUERY event may touch.

    A change in statement format touches, besides what it names, whatever triggers and functions change: any table of
    the schemas that the event says were written to, or any table at all when it does not say.
    """
    text = _text(query)
    if text is None:
        return _UNKNOWN
    statement = read(text, query.schema, query.sql_mode)
    if statement.kind is Kind.DML and query.written is not None:
        return replace(statement, schemas=query.written, everything=False)
    return statement


def statement_xid(statement: Statement) -> Xid:
    """The XA transaction that an XA statement is about."""
    if statement.xid is None:
        raise DecodeError("an XA statement names no transaction")
    return statement.xid


def _text(query: Query) -> str | None:
    """The statement as text, None when its bytes are none in the client's character set."""
    raw = query.statement
    try:
        name = "utf8mb4" if raw.isascii() or query.client is None else of_collation(query.client)
        if name in {"utf8mb3", "utf8mb4", "utf8", "ascii", "binary"}:
            # Binary strings in a statement need not be UTF-8; names are.
            return raw.decode("utf-8", "surrogateescape")
        return str(decode(name, pa.array([raw], pa.binary()))[0].as_py())
    except (EngineError, LookupError, ValueError):
        return None


def read(text: str, schema: str = "", sql_mode: int = 0) -> Statement:
    """Say what a statement may touch. `schema` is the session's default, `sql_mode` the session's (see `Query`)."""
    try:
        words = Words(tokens(text, sql_mode), schema)
    except Unreadable:
        return _UNKNOWN
    while words.skip("SET", "STATEMENT"):
        if not words.seek("FOR"):
            return _UNKNOWN
    if words.ended:
        return _NOTHING
    verb = " ".join(token.word for token in words.all[words.at : words.at + 2] if token.word.isalpha())
    return replace(_read(words) or _UNKNOWN, verb=verb)


def _read(words: Words) -> Statement | None:
    verb = words.word()
    if verb in {"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "XA"} or (
        verb == "START" and words.word(1) == "TRANSACTION"
    ):
        return _transaction(words)
    if verb in _QUIET:
        return _NOTHING
    if verb in _DML:
        return _dml(words)
    words.at += 1
    match verb:
        case "CREATE" | "DROP" | "ALTER":
            return _definition(words, verb)
        case "RENAME":
            return _rename(words)
        case "TRUNCATE":
            words.skip("TABLE")
            table = words.table()
            return None if table is None else Statement(Kind.TRUNCATE, (table,))
        case "REPAIR":
            words.skip_any({"NO_WRITE_TO_BINLOG", "LOCAL", "TABLE", "TABLES"})
            named = words.tables()
            return None if named is None else Statement(Kind.DDL, named)
    return None


def _transaction(words: Words) -> Statement | None:
    verb = words.word()
    words.at += 1
    if verb == "XA":
        action = words.word()
        words.at += 1
        kinds = {"START": Kind.XA_START, "BEGIN": Kind.XA_START, "END": Kind.XA_END}
        kinds |= {"COMMIT": Kind.XA_COMMIT, "ROLLBACK": Kind.XA_ROLLBACK}
        xid = _xid(words)
        return Statement(kinds[action], xid=xid) if action in kinds and xid is not None else None
    if verb in {"SAVEPOINT", "RELEASE"}:
        return Statement(Kind.SAVEPOINT)
    if verb == "ROLLBACK":
        words.skip("WORK")
        return Statement(Kind.ROLLBACK_TO if words.word() == "TO" else Kind.ROLLBACK)
    if verb == "COMMIT":
        return Statement(Kind.COMMIT)
    return Statement(Kind.BEGIN) if verb == "START" or words.ended or words.word() == "WORK" else None


def _xid(words: Words) -> Xid | None:
    """Read ``gtrid[,bqual[,format]]``, as strings or hexadecimal."""
    parts: list[bytes] = []
    kind = 1
    while not words.ended:
        token = words.all[words.at]
        words.at += 1
        if token.cut is Cut.TEXT:
            parts.append(token.text.encode("utf-8", "surrogateescape"))
        elif token.word == "X" and not words.ended and words.all[words.at].cut is Cut.TEXT:
            try:
                parts.append(bytes.fromhex(words.all[words.at].text))
            except ValueError:
                return None
            words.at += 1
        elif len(parts) == 2 and token.word.isdecimal():
            kind = int(token.word) & 0xFFFFFFFF
        else:
            return None
        if not words.skip(","):
            break
    if not 1 <= len(parts) <= 2:
        return None
    return Xid(kind, parts[0], parts[1] if len(parts) == 2 else b"")


def _definition(words: Words, verb: str) -> Statement | None:
    """CREATE, DROP and ALTER: of a table, an index, a database, or of what holds no rows."""
    ignores = False
    temporary = False
    while not words.ended:
        word = words.word()
        ignores = ignores or word == "IGNORE"
        if word == "TEMPORARY":
            temporary = True
        elif word == "SPATIAL" and words.word(1) == "REFERENCE":
            return _NOTHING
        elif word in {"DEFINER", "ALGORITHM"} and words.word(1) == "=":
            _skip_value(words)
            continue
        elif word not in _MODIFIERS or word == "UNDO":
            break
        words.at += 1
    what = words.word()
    words.at += 1
    if what in _SCHEMA:
        words.skip("IF", "NOT", "EXISTS")
        words.skip("IF", "EXISTS")
        name = words.identifier()
        if verb == "ALTER":
            return _NOTHING
        return None if name is None else Statement(Kind.DDL, schemas=(name,))
    if what == "INDEX":
        if not words.seek("ON"):
            return None
        table = words.table()
        return None if table is None else Statement(Kind.DDL, (table,), harmless=not ignores)
    if what in {"TABLE", "TABLES", "SEQUENCE"}:
        words.skip("IF", "NOT", "EXISTS")
        words.skip("IF", "EXISTS")
        return _table(words, verb, temporary=temporary, ignores=ignores)
    return _NOTHING if what in _QUIET_OBJECTS else None


def _skip_value(words: Words) -> None:
    """Pass over ``DEFINER = user@host`` (user and host are names, strings or CURRENT_USER()) or ``ALGORITHM = x``."""
    words.at += 3
    while words.word() in {"@", "(", ")"}:
        words.at += 2 if words.word() == "@" else 1


def _table(words: Words, verb: str, *, temporary: bool, ignores: bool) -> Statement | None:
    if verb == "DROP":
        named = words.tables()
        if named is None:
            return None
        return _NOTHING if temporary else Statement(Kind.DDL, named)
    table = words.table()
    if table is None:
        return None
    if verb == "CREATE":
        return _NOTHING if temporary else Statement(Kind.DDL, (table,))
    tables, keeps = [table], not ignores
    for clause in clauses(words):
        more = others(clause)
        if more is None:
            return None
        tables += more
        keeps = keeps and keeps_rows(clause)
    return Statement(Kind.DDL, tuple(dict.fromkeys(tables)), harmless=keeps)


def _rename(words: Words) -> Statement | None:
    if words.word() == "USER":
        return _NOTHING
    words.at += 1
    tables: list[TableId] = []
    while True:
        words.skip("IF", "EXISTS")
        old = words.table()
        _ = words.skip("NOWAIT") or (words.skip("WAIT") and words.identifier())
        if old is None or not words.skip("TO"):
            return None
        new = words.table()
        if new is None:
            return None
        tables += [old, new]
        if not words.skip(","):
            return Statement(Kind.DDL, tuple(dict.fromkeys(tables)), harmless=True)


def _dml(words: Words) -> Statement:
    """A change in statement format: the named target, and, through triggers and functions, whatever they change."""
    verb = words.word()
    words.at += 1
    target = None
    if verb in {"INSERT", "REPLACE"}:
        words.skip_any({"LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "INTO"})
        target = words.table()
    elif verb == "UPDATE":
        words.skip_any({"LOW_PRIORITY", "IGNORE"})
        target = words.table()
    elif verb == "DELETE":
        words.skip_any({"LOW_PRIORITY", "QUICK", "IGNORE", "FROM"})
        target = words.table()
    elif verb == "LOAD":
        if words.word() == "INDEX":
            return _NOTHING
        target = words.table() if words.seek("INTO", "TABLE") else None
    return Statement(Kind.DML, () if target is None else (target,), everything=True)
