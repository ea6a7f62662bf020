"""The parser of SELECT."""

from __future__ import annotations

from typing import Any

from tests.support.sqlserver import syntax as s
from tests.support.sqlserver.expressions import ExpressionParser

_JOINS = {
    ("join",): "JOIN",
    ("inner", "join"): "JOIN",
    ("left", "join"): "LEFT JOIN",
    ("left", "outer", "join"): "LEFT JOIN",
    ("right", "join"): "RIGHT JOIN",
    ("right", "outer", "join"): "RIGHT JOIN",
    ("full", "join"): "FULL JOIN",
    ("full", "outer", "join"): "FULL JOIN",
    ("cross", "join"): "CROSS JOIN",
    ("cross", "apply"): "CROSS JOIN LATERAL",
    ("outer", "apply"): "LEFT JOIN LATERAL",
}
_HINTS = frozenset(
    [
        "nolock",
        "readuncommitted",
        "readcommitted",
        "readpast",
        "holdlock",
        "serializable",
        "repeatableread",
        "rowlock",
        "paglock",
        "tablock",
        "tablockx",
        "updlock",
        "xlock",
        "nowait",
        "snapshot",
        "forceseek",
        "forcescan",
    ]
)


class QueryParser(ExpressionParser):
    """Queries with CTEs, set operations, joins, hints, TOP and OFFSET."""

    def query(self) -> Any:
        ctes = self.ctes()
        query = self._set_operations()
        if self.at("order"):
            query.order = self.order_by()
            if self.accept("offset"):
                query.offset = self.expression()
                self._one_of("rows", "row")
                if self.accept("fetch"):
                    self._one_of("next", "first")
                    query.fetch = self.expression()
                    self._one_of("rows", "row")
                    self.expect("only")
        query.ctes = ctes
        if self.accept("option"):
            self._skip_parentheses()
        return query

    def _one_of(self, *words: str) -> None:
        if not self.at(*words):
            raise self.wrong()
        self.advance()

    def _skip_parentheses(self) -> None:
        self.expect("(")
        depth = 1
        while depth:
            if self.token.kind == "end":
                raise self.wrong()
            word = self.advance().word
            depth += {"(": 1, ")": -1}.get(word, 0)

    def ctes(self) -> list[tuple[str, list[str], Any]]:
        found: list[tuple[str, list[str], Any]] = []
        if not self.accept("with"):
            return found
        while True:
            name = self.identifier()
            names = self.names_in_parentheses() if self.at("(") else []
            self.expect("as", "(")
            found.append((name, names, self.query()))
            self.expect(")")
            if not self.accept(","):
                return found

    def names_in_parentheses(self) -> list[str]:
        self.expect("(")
        names = [self.identifier()]
        while self.accept(","):
            names.append(self.identifier())
        self.expect(")")
        return names

    def _set_operations(self) -> Any:
        left = self._intersections()
        while self.at("union", "except"):
            op = self.advance().word
            if op == "union" and self.accept("all"):
                op = "union all"
            left = s.SetOperation(op, left, self._intersections())
        return left

    def _intersections(self) -> Any:
        left = self._term()
        while self.accept("intersect"):
            left = s.SetOperation("intersect", left, self._term())
        return left

    def _term(self) -> Any:
        if self.accept("("):
            inner = self.query()
            self.expect(")")
            return inner
        return self._select()

    def top(self) -> Any:
        if not self.accept("top"):
            return None
        if self.accept("("):
            value = self.expression()
            self.expect(")")
        else:
            value = s.Literal("int", str(self.integer()))
        if self.at("percent"):
            raise self.wrong()
        return value

    def _select(self) -> s.Select:
        self.expect("select")
        distinct = self.accept("distinct")
        if not distinct:
            self.accept("all")
        top = self.top()
        select = s.Select(self.items(), distinct=distinct, top=top)
        if self.accept("into"):
            select.into = self.name()
        if self.accept("from"):
            select.source = self.source()
        if self.accept("where"):
            select.where = self.predicate()
        if self.accept("group", "by"):
            select.group = self.expressions()
        if self.accept("having"):
            select.having = self.predicate()
        return select

    def items(self) -> list[s.Item]:
        found = [self._item()]
        while self.accept(","):
            found.append(self._item())
        return found

    def _item(self) -> s.Item:
        if self.at("*"):
            self.advance()
            return s.Item(s.Star(()))
        if self.token.kind == "var" and self.ahead().word == "=":
            variable = self.advance().value.lower()
            self.advance()
            return s.Item(self.expression(), variable=variable)
        if self.at_identifier():
            distance = 0
            while self.ahead(distance).kind in ("id", "qid") and self.ahead(distance + 1).word == ".":
                distance += 2
            if self.ahead(distance).word == "*" and distance:
                name = tuple(self.ahead(index).value for index in range(0, distance, 2))
                self._at += distance + 1
                return s.Item(s.Star(name))
            if self.ahead().word == "=":
                alias = self.identifier()
                self.advance()
                return s.Item(self.expression(), alias)
        value = self.expression()
        return s.Item(value, self._alias())

    def _alias(self) -> str | None:
        if self.accept("as"):
            return self.advance().value if self.token.kind in ("str", "nstr") else self.identifier()
        if self.at_identifier() and not self.at("offset"):
            return self.identifier()
        return self.advance().value if self.token.kind == "str" else None

    def source(self) -> Any:
        left = self._joined()
        while self.accept(","):
            left = s.Join("CROSS JOIN", left, self._joined(), None)
        return left

    def _joined(self) -> Any:
        left = self._primary_source()
        while True:
            kind = next((kind for words, kind in _JOINS.items() if self.accept(*words)), None)
            if kind is None:
                return left
            right = self._primary_source()
            condition = None
            if not kind.startswith("CROSS") and not kind.endswith("LATERAL"):
                self.expect("on")
                condition = self.predicate()
            left = s.Join(kind, left, right, condition)

    def _primary_source(self) -> Any:
        if self.accept("("):
            if self.accept("values"):
                rows = self.rows()
                self.expect(")")
                return s.Rows(rows, *self._table_alias())
            if self.at("select", "with"):
                query = self.query()
                self.expect(")")
                return s.Derived(query, *self._table_alias())
            inner = self.source()
            self.expect(")")
            return inner
        name = self.name()
        if self.at("(") and self.ahead().word not in _HINTS:
            self.expect("(")
            args = [] if self.at(")") else self.expressions()
            self.expect(")")
            return s.Routine(name, args, self._source_alias())
        alias = self._source_alias()
        hints: list[str] = []
        if self.accept("with") or (self.at("(") and self.ahead().word in _HINTS):
            self.expect("(")
            while not self.accept(")"):
                if self.token.word not in _HINTS:
                    raise self.wrong()
                hints.append(self.advance().word)
                self.accept(",")
        return s.Table(name, alias, hints)

    def _source_alias(self) -> str | None:
        if self.accept("as"):
            return self.identifier()
        return self.identifier() if self.at_identifier() else None

    def _table_alias(self) -> tuple[str, list[str]]:
        alias = self._source_alias()
        if alias is None:
            raise self.wrong()
        return alias, self.names_in_parentheses() if self.at("(") else []

    def rows(self) -> list[list[Any]]:
        found = []
        while True:
            self.expect("(")
            row: list[Any] = []
            while True:
                row.append(None if self.accept("default") else self.expression())
                if not self.accept(","):
                    break
            self.expect(")")
            found.append(row)
            if not self.accept(","):
                return found
