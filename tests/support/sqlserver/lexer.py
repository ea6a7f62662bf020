"""T-SQL's tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support.sqlserver.errors import SqlError, syntax

# Reserved words: as a name they need brackets (error 156 otherwise).
RESERVED = frozenset(
    [
        "add",
        "all",
        "alter",
        "and",
        "any",
        "as",
        "asc",
        "authorization",
        "begin",
        "between",
        "by",
        "cascade",
        "case",
        "check",
        "checkpoint",
        "clustered",
        "coalesce",
        "collate",
        "column",
        "commit",
        "constraint",
        "convert",
        "create",
        "cross",
        "current",
        "current_timestamp",
        "cursor",
        "database",
        "deallocate",
        "declare",
        "default",
        "delete",
        "deny",
        "desc",
        "distinct",
        "drop",
        "else",
        "end",
        "escape",
        "except",
        "exec",
        "execute",
        "exists",
        "fetch",
        "for",
        "foreign",
        "from",
        "full",
        "function",
        "grant",
        "group",
        "having",
        "holdlock",
        "identity",
        "identity_insert",
        "if",
        "in",
        "index",
        "inner",
        "insert",
        "intersect",
        "into",
        "is",
        "join",
        "key",
        "kill",
        "left",
        "like",
        "merge",
        "national",
        "nocheck",
        "nonclustered",
        "not",
        "null",
        "nullif",
        "of",
        "off",
        "on",
        "open",
        "option",
        "or",
        "order",
        "outer",
        "over",
        "percent",
        "pivot",
        "plan",
        "primary",
        "print",
        "proc",
        "procedure",
        "raiserror",
        "references",
        "return",
        "revoke",
        "right",
        "rollback",
        "rowcount",
        "save",
        "schema",
        "select",
        "set",
        "some",
        "table",
        "then",
        "to",
        "top",
        "tran",
        "transaction",
        "trigger",
        "truncate",
        "try_convert",
        "union",
        "unique",
        "unpivot",
        "update",
        "use",
        "user",
        "values",
        "view",
        "waitfor",
        "when",
        "where",
        "while",
        "with",
    ]
)
_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*)
    |(?P<comment>/\*)
    |(?P<nstr>[Nn]'[^']*(?:''[^']*)*')|(?P<str>'[^']*(?:''[^']*)*')
    |(?P<bin>0[xX][0-9A-Fa-f]*)
    |(?P<float>(?:\d+\.?\d*|\.\d+)[eE][+-]?\d+)|(?P<num>\d+\.\d*|\.\d+)|(?P<int>\d+)
    |(?P<qid>\[[^\]]*(?:\]\][^\]]*)*\]|"[^"]*(?:""[^"]*)*")
    |(?P<gvar>@@\w+)|(?P<var>@[\w@#$]+)
    |(?P<id>[^\W\d][\w@#$]*|\#[\w@#$]*|\$\w+)
    |(?P<op><>|!=|<=|>=|!<|!>|\+=|-=|\*=|/=|[-+*/%=<>(),.;&|^~:])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is the group's name above or ``end``; `value` is unquoted; `word` is lower-case for plain words."""

    kind: str
    value: str
    line: int

    @property
    def word(self) -> str:
        return self.value.lower() if self.kind in ("id", "op") else ""


def tokens(text: str) -> list[Token]:
    """All tokens and an ``end``. Raises errors 102, 105 (open quote) and 113 (open comment)."""
    found = []
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at] in "'\"" or text[at : at + 2].lower() == "n'":
                raise SqlError(105, "Unclosed quotation mark after the character string.", 15)
            raise syntax(text[at])
        kind, value = str(match.lastgroup), match[0]
        end = match.end()
        if kind == "comment":
            end = _comment_end(text, at)
            value = text[at:end]
        elif kind != "space":
            found.append(Token(kind, _plain(kind, value), line))
        line += value.count("\n")
        at = end
    found.append(Token("end", "", line))
    return found


def _comment_end(text: str, at: int) -> int:
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if match[0] == "/*" else -1
        if not depth:
            return match.end()
    raise SqlError(113, "Missing end comment mark '*/'.", 15)


def _plain(kind: str, value: str) -> str:
    if kind in ("str", "nstr"):
        return value[value.index("'") + 1 : -1].replace("''", "'")
    if kind == "qid":
        return value[1:-1].replace("]]", "]") if value[0] == "[" else value[1:-1].replace('""', '"')
    return value
