"""The words of a SQL statement as MySQL and MariaDB cut them: comments, quotes, executable comments, SQL modes.

Source: MySQL Reference Manual, "Language Structure" (String Literals, Identifiers, Comments) and "Server SQL Modes",
dev.mysql.com; MariaDB Knowledge Base, "Comment Syntax" (mariadb.com/kb).
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from engine.schema import TableId

ANSI_QUOTES = 1 << 2
"""SQL mode in which ``"`` quotes identifiers."""
NO_BACKSLASH_ESCAPES = 1 << 20
"""SQL mode in which ``\\`` in a string is itself."""


class Cut(enum.Enum):
    """What a token is."""

    WORD = "word"
    """A keyword, an identifier without quotes, or a number."""
    NAME = "name"
    """A quoted identifier; its text is without the quotes."""
    TEXT = "text"
    """A string; its text is without the quotes and escapes."""
    SIGN = "sign"
    """One character that is none of these."""


class Token(NamedTuple):
    """One token. Words keep their case in `text`; `word` is upper case, ``""`` for what is no word."""

    cut: Cut
    text: str

    @property
    def word(self) -> str:
        return self.text.upper() if self.cut is Cut.WORD else ""

    @property
    def identifier(self) -> bool:
        """Whether this can name something."""
        return self.cut in {Cut.WORD, Cut.NAME}


class Unreadable(Exception):
    """The text does not end where a comment, string or name in it should."""


_SPACE = re.compile(r"[\s\x00]+")
_WORD = re.compile(r"[0-9A-Za-z_$\u0080-\U0010ffff]+")
_LINE = re.compile(r"#[^\n]*|--(?=[\s\x00-\x20]|$)[^\n]*")
_EXECUTABLE = re.compile(r"/\*M?!\d{0,6}")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}


def tokens(text: str, sql_mode: int = 0) -> list[Token]:
    """Cut a statement into tokens. What is in executable comments counts. Raises `Unreadable`."""
    found: list[Token] = []
    at, size, executable = 0, len(text), 0
    while at < size:
        if space := _SPACE.match(text, at):
            at = space.end()
        elif word := _WORD.match(text, at):
            found.append(Token(Cut.WORD, word[0]))
            at = word.end()
        elif line := _LINE.match(text, at):
            at = line.end()
        elif start := _EXECUTABLE.match(text, at):
            executable += 1
            at = start.end()
        elif text.startswith("/*", at):
            end = text.find("*/", at + 2)
            if end < 0:
                raise Unreadable
            at = end + 2
        elif executable and text.startswith("*/", at):
            executable -= 1
            at += 2
        elif text[at] == "`" or (text[at] == '"' and sql_mode & ANSI_QUOTES):
            name, at = _quoted(text, at, backslash=False)
            found.append(Token(Cut.NAME, name))
        elif text[at] in "'\"":
            value, at = _quoted(text, at, backslash=not sql_mode & NO_BACKSLASH_ESCAPES)
            found.append(Token(Cut.TEXT, value))
        else:
            found.append(Token(Cut.SIGN, text[at]))
            at += 1
    if executable:
        raise Unreadable
    return found


def _quoted(text: str, at: int, *, backslash: bool) -> tuple[str, int]:
    """What is between the quote at `at` and its partner, and where it ends. A doubled quote is one."""
    quote = text[at]
    parts: list[str] = []
    special = re.compile(rf"[{quote}\\]" if backslash else quote)
    at += 1
    while True:
        stop = special.search(text, at)
        if stop is None:
            raise Unreadable
        parts.append(text[at : stop.start()])
        at = stop.end()
        if stop[0] == "\\":
            if at >= len(text):
                raise Unreadable
            parts.append(_ESCAPES.get(text[at], text[at]))
            at += 1
        elif text.startswith(quote, at):
            parts.append(quote)
            at += 1
        else:
            return "".join(parts), at


class Words:
    """A statement's tokens with a place in them."""

    def __init__(self, found: list[Token], schema: str) -> None:
        self.all = found
        self.at = 0
        self.schema = schema

    def word(self, ahead: int = 0) -> str:
        """The word here in upper case; a sign as itself; ``""`` for a name, a string and the end."""
        if self.at + ahead >= len(self.all):
            return ""
        token = self.all[self.at + ahead]
        return token.text if token.cut is Cut.SIGN else token.word

    def skip(self, *words: str) -> bool:
        """Pass over these words if they come next, all of them in this order."""
        if all(self.word(i) == word for i, word in enumerate(words)):
            self.at += len(words)
            return True
        return False

    def skip_any(self, words: frozenset[str] | set[str]) -> None:
        while self.word() in words:
            self.at += 1

    @property
    def ended(self) -> bool:
        return self.at >= len(self.all)

    def identifier(self) -> str | None:
        if self.ended or not self.all[self.at].identifier:
            return None
        self.at += 1
        return self.all[self.at - 1].text

    def table(self) -> TableId | None:
        """Read ``table``, ``schema.table`` or ``.table``; None when there is none."""
        self.skip(".")
        first = self.identifier()
        if first is None:
            return None
        if self.skip("."):
            second = self.identifier()
            return None if second is None else TableId(first, second)
        return TableId(self.schema, first)

    def tables(self) -> tuple[TableId, ...] | None:
        """Read a list of tables."""
        found = []
        while True:
            table = self.table()
            if table is None:
                return None
            found.append(table)
            if not self.skip(","):
                return tuple(found)

    def seek(self, *words: str) -> bool:
        """Go behind the next place where these words follow each other."""
        for at in range(self.at, len(self.all)):
            self.at = at
            if self.skip(*words):
                return True
        return False
