"""What a query sent to the replica may do: read the replicated tables, and nothing else.

The first of three walls. The second is the read-only transaction a query runs in, the third the settings the replica is
opened with (no external access, locked configuration, no lookup of Python variables). This one exists because some
things pass the other two: functions that take raw memory addresses, functions that run SQL held in a string, the
internal schema with rows that no source transaction has committed yet.

Statements are judged by DuckDB's own parser (`extract_statements` for their kind, `json_serialize_sql` for their parse
tree), so that comments, quotes and letter case hide nothing.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from engine.errors import EngineError
from engine.replica.sql import INTERNAL

TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns",
        "duckdb_constraints",
        "duckdb_functions",
        "duckdb_keywords",
        "duckdb_memory",
        "duckdb_schemas",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "generate_series",
        "histogram",
        "histogram_values",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "pg_timezone_names",
        "pragma_platform",
        "pragma_show",
        "pragma_table_info",
        "pragma_version",
        "range",
        "repeat",
        "repeat_row",
        "test_all_types",
        "unnest",
    }
)
"""The table functions a query may call. All others are refused: those that read files or the network, take memory
addresses (``arrow_scan``), run SQL from a string (``query``), or have effects (``checkpoint``)."""

REFUSED_FUNCTIONS = frozenset(
    {
        "combine",
        "current_setting",
        "finalize",
        "json_execute_serialized_sql",
        "json_serialize_plan",
        "nextval",
        "query",
        "query_table",
        "setval",
        "to_aggregate_state",
        "write_log",
    }
)
"""Scalar functions a query may not call: those with effects, those that bind SQL from a string (and so would pass
this check), those that take a serialized internal state at its word, and what tells the settings."""

REFUSED_VIEWS = frozenset({"duckdb_databases", "duckdb_logs", "pg_settings", "pragma_database_list"})
"""DuckDB's own views that tell settings or paths of this machine. A replicated table may be called so: in its schema."""
_OWN_SCHEMAS = frozenset({"main", "pg_catalog", "system"})

_QUERY = ("SELECT", "EXPLAIN", "MULTI")
"""Kinds of statement that may be queries. MULTI: a PIVOT whose columns are found at run time."""
_JSON_TOKEN = re.compile(r"""[{}\[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+""")
_QUERY_WORDS = frozenset(
    {"select", "with", "from", "values", "table", "pivot", "unpivot", "describe", "desc", "show", "summarize", "("}
)
_ADVICE = "Only one query can be run: SELECT, WITH, FROM, VALUES, PIVOT, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN of one."


class QueryRefused(EngineError):
    """The statement is not a query, or reaches for something a query may not touch."""

    word = "query_refused"


class Query:
    """One statement that passed the check. `text` has no trailing semicolon; `wrappable` tells whether it may stand in
    parentheses as a subquery (EXPLAIN may not)."""

    __slots__ = ("text", "wrappable")

    def __init__(self, text: str, *, wrappable: bool) -> None:
        self.text = text
        self.wrappable = wrappable


class _Passed:
    """The last statements that passed, by their text: all that the judgement rests on. Programs ask the same again."""

    MOST = 256
    LONGEST = 4096
    """Characters; longer ones are judged each time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[str, Query] = OrderedDict()

    def get(self, sql: str) -> Query | None:
        with self._lock:
            found = self._found.get(sql)
            if found is not None:
                self._found.move_to_end(sql)
            return found

    def add(self, sql: str, query: Query) -> None:
        if len(sql) <= self.LONGEST:
            with self._lock:
                self._found[sql] = query
                while len(self._found) > self.MOST:
                    self._found.popitem(last=False)


_passed = _Passed()


def check(connection: duckdb.DuckDBPyConnection, sql: str) -> Query:
    """Judge `sql` without binding or running any of it.

    `connection` is only used to parse. Raises QueryRefused, or duckdb.ParserException when it is no SQL at all.
    """
    found = _passed.get(sql)
    if found is None:
        found = _judge(connection, sql)
        _passed.add(sql, found)
    return found


def _judge(connection: duckdb.DuckDBPyConnection, sql: str) -> Query:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        what = "There is no statement." if not statements else f"There are {len(statements)} statements."
        raise QueryRefused(f"{what} {_ADVICE}")
    kind = _kind(statements[0])
    if kind not in _QUERY:
        raise QueryRefused(f"{kind.replace('_', ' ')} statements are refused: the replica is read-only. {_ADVICE}")
    text = _without_semicolon(statements[0].query)
    explains = _first_word(text) == "explain"
    _check_content(connection, _after_explain(text) if explains else text)
    return Query(text, wrappable=not explains)


def _kind(statement: duckdb.Statement) -> str:
    try:
        return statement.type.name
    except ValueError:
        # A kind that DuckDB's parser knows and its Python enumeration does not.
        return "Such"


def _check_content(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """Check what the query names: by its parse tree, or by its tokens where DuckDB gives no tree (a PIVOT whose
    columns are found at run time)."""
    rows = connection.execute("SELECT json_serialize_sql($1::VARCHAR)::VARCHAR", [text]).fetchall()
    tree = _parsed(rows[0][0])
    if tree["error"]:
        _check_tokens(connection, text)
        return
    for node in _nodes(tree["statements"]):
        _check_node(node)


def _check_node(node: dict[str, Any]) -> None:
    kind = str(node.get("type", ""))
    if kind.endswith("_QUERY_NODE"):
        raise QueryRefused(f"A query that contains {kind.split('_', 1)[0]} is refused: the replica is read-only.")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).casefold()
        if name not in TABLE_FUNCTIONS:
            raise QueryRefused(f"The table function {name} is refused: queries read the replicated tables only.")
    elif node.get("class") == "FUNCTION":
        _check_function(str(node.get("function_name", "")))
    path = (node.get("qualified_name") or {}).get("path") or ()
    if kind in ("BASE_TABLE", "SHOW_REF") and any(str(part).casefold() == INTERNAL for part in path):
        raise QueryRefused(f"The schema {INTERNAL} is internal to the engine.")
    if kind == "BASE_TABLE":
        _check_view([str(part).casefold() for part in path])


def _check_view(path: Sequence[str]) -> None:
    if path and path[-1] in REFUSED_VIEWS and (len(path) == 1 or path[-2] in _OWN_SCHEMAS):
        raise QueryRefused(f"{path[-1]} is refused: it tells settings and paths of the engine's machine.")


def _check_function(name: str) -> None:
    folded = name.casefold()
    if folded in REFUSED_FUNCTIONS or folded.startswith("__internal"):
        raise QueryRefused(f"The function {folded} is refused: queries are read-only and may not run SQL from text.")


def _check_tokens(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    if _first_word(text) not in _QUERY_WORDS:
        raise QueryRefused(f"This statement is refused: the replica is read-only. {_ADVICE}")
    found = connection.execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
        "WHERE function_type IN ('table', 'table_macro', 'pragma')"
    ).fetchall()
    tables = {str(name) for (name,) in found}
    tokens = [token for kind, token in _tokens(text) if kind != duckdb.token_type.comment]
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        name = token.removeprefix('"').removesuffix('"').replace('""', '"').casefold()
        if name == INTERNAL:
            raise QueryRefused(f"The schema {INTERNAL} is internal to the engine.")
        _check_view([name])
        if following != "(":
            continue
        _check_function(name)
        if name in tables and name not in TABLE_FUNCTIONS:
            raise QueryRefused(f"The table function {name} is refused: queries read the replicated tables only.")


def _parsed(text: str) -> Any:
    """The value of a JSON text, however deep: a chain of a few hundred ANDs is a tree of thousands of levels."""
    try:
        return json.loads(text)
    except RecursionError:
        return _parsed_flat(text)


def _parsed_flat(text: str) -> Any:
    """As `json.loads`, with a stack of its own instead of recursion. `text` is known to be valid JSON."""
    root: list[Any] = []
    stack: list[Any] = [root]
    keys: list[str | None] = [None]
    for piece in _JSON_TOKEN.findall(text):
        if piece in "]}":
            stack.pop()
            keys.pop()
            continue
        if piece in ",:":
            continue
        top = stack[-1]
        if isinstance(top, dict) and keys[-1] is None:
            keys[-1] = json.loads(piece)
            continue
        value: Any = {} if piece == "{" else [] if piece == "[" else json.loads(piece)
        if isinstance(top, dict):
            top[keys[-1]] = value
            keys[-1] = None
        else:
            top.append(value)
        if piece in "{[":
            stack.append(value)
            keys.append(None)
    return root[0]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the parse tree. With a stack, not by recursion: the tree is as deep as the query is nested."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _tokens(text: str) -> list[tuple[duckdb.token_type, str]]:
    raw = text.encode()
    found = duckdb.tokenize(text)
    ends = [offset for offset, _ in found[1:]] + [len(raw)]
    return [(kind, raw[offset:end].decode().strip()) for (offset, kind), end in zip(found, ends, strict=True)]


def _first_word(text: str) -> str:
    for kind, token in _tokens(text):
        if kind != duckdb.token_type.comment:
            return token.casefold()
    return ""


def _without_semicolon(text: str) -> str:
    """Cut the statement at its closing semicolon (offsets of tokens are in bytes)."""
    raw = text.encode()
    for offset, kind in duckdb.tokenize(text):
        if kind == duckdb.token_type.operator and raw[offset : offset + 1] == b";":
            return raw[:offset].decode()
    return text


def _after_explain(text: str) -> str:
    """The statement that an EXPLAIN explains: what follows the word, ANALYZE, and the options in parentheses."""
    raw = text.encode()
    found = [(offset, kind) for offset, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    words = [raw[offset:].split(maxsplit=1)[0].decode(errors="replace").casefold() for offset, _ in found]
    at = 1
    if at < len(words) and words[at] == "analyze":
        at += 1
    if at < len(found) and words[at].startswith("(") and not _opens_query(found, raw, at):
        while at < len(found) and raw[found[at][0] : found[at][0] + 1] != b")":
            at += 1
        at += 1
    return raw[found[at][0] :].decode() if at < len(found) else ""


def _opens_query(found: list[tuple[int, duckdb.token_type]], raw: bytes, at: int) -> bool:
    """Whether the parenthesis at token `at` opens the explained query itself rather than a list of options."""
    following = raw[found[at + 1][0] :].decode(errors="replace").casefold() if at + 1 < len(found) else ""
    return any(following.startswith(word) for word in _QUERY_WORDS)
