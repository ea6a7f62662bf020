"""Queries, compiled to one statement of the embedded engine with the types and names of what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.sqlserver import clr, functions
from tests.support.sqlserver import syntax as s
from tests.support.sqlserver.convert import Value, key
from tests.support.sqlserver.errors import SqlError, Unknown
from tests.support.sqlserver.scalars import ScalarCompiler, Scope, Source
from tests.support.sqlserver.types import BIGINT, INT, NULL, SqlType, common


@dataclass
class Query:
    """`sql` returns `columns` (the engine's names), shown as `names`, of `kinds`."""

    sql: str
    columns: list[str]
    names: list[str]
    kinds: list[SqlType]
    variables: list[str | None]


class Compiler(ScalarCompiler):
    """`context` gives tables and routines: ``context.source(compiler, node)`` and ``context.call(compiler, ...)``."""

    def __init__(self, variable: Any, context: Any) -> None:
        super().__init__(variable, context)
        self._ctes: list[dict[str, Query]] = []
        self._aliases = 0

    def alias(self) -> str:
        self._aliases += 1
        return f"s{self._aliases}"

    def query(self, node: Any, scope: Scope | None = None) -> Query:
        """A whole query; `scope` is the one around it."""
        self._ctes.append({})
        try:
            clauses = []
            for name, names, inner in node.ctes:
                compiled = self.query(inner)
                label = f"cte_{self.alias()}"
                clauses.append(f"{label} AS ({compiled.sql})")
                shown = names or compiled.names
                self._ctes[-1][name.lower()] = Query(label, compiled.columns, shown, compiled.kinds, [])
            body = self._body(node, scope)
            if clauses:
                body.sql = f"WITH {', '.join(clauses)} {body.sql}"
            return body
        finally:
            self._ctes.pop()

    def _body(self, node: Any, scope: Scope | None) -> Query:
        return self._select(node, scope) if isinstance(node, s.Select) else self._set_operation(node, scope)

    def _set_operation(self, node: s.SetOperation, scope: Scope | None) -> Query:
        left = self._body(node.left, scope)
        right = self._body(node.right, scope)
        if len(left.kinds) != len(right.kinds):
            raise SqlError(
                205,
                "All queries combined using a UNION, INTERSECT or EXCEPT operator must have an equal number"
                " of expressions in their target lists.",
            )
        kinds = [common(one, two) for one, two in zip(left.kinds, right.kinds, strict=True)]
        kinds = [INT if kind == NULL else kind for kind in kinds]
        sides = [self._converted(side, kinds) for side in (left, right)]
        columns = [f"k{index}" for index in range(len(kinds))]
        sql = f"{sides[0]} {node.op.upper()} {sides[1]}"
        if node.order:
            shown = Source(
                "", [(name, Value(column, kind)) for name, column, kind in zip(left.names, columns, kinds, strict=True)]
            )
            sql += self._order(node.order, Scope([shown]), columns, kinds, left.names)
        sql += self._limits(node)
        return Query(sql, columns, left.names, kinds, [None] * len(kinds))

    def _converted(self, query: Query, kinds: list[SqlType]) -> str:
        items = [
            f"{self.convert(Value(column, have), want).sql if have != want else column} AS k{index}"
            for index, (column, have, want) in enumerate(zip(query.columns, query.kinds, kinds, strict=True))
        ]
        return f"(SELECT {', '.join(items)} FROM ({query.sql}) AS {self.alias()})"

    def _select(self, node: s.Select, outer: Scope | None) -> Query:
        scope = Scope(parent=outer)
        source = f" FROM {self.source(node.source, scope)}" if node.source else ""
        where = f" WHERE {self.predicate(node.where, scope)}" if node.where else ""
        groups = [self.value(group, scope) for group in node.group]
        for group in groups:
            if group.kind.family == "text":
                scope.grouped[group.sql] = f"min({group.sql})"
        items, names, variables = self._items(node.items, scope)
        kinds = [item.kind if item.kind != NULL else INT for item in items]
        columns = [f"k{index}" for index in range(len(items))]
        shown = ", ".join(
            f"{item.sql if item.kind != NULL else 'CAST(NULL AS INTEGER)'} AS {column}"
            for item, column in zip(items, columns, strict=True)
        )
        sql = f"SELECT {'DISTINCT ' if node.distinct else ''}{shown}{source}{where}"
        if groups:
            sql += f" GROUP BY {', '.join(key(group) for group in groups)}"
        if node.having:
            sql += f" HAVING {self.predicate(node.having, scope)}"
        if node.order:
            sql += self._order(node.order, scope, [item.sql for item in items], kinds, names)
        sql += self._limits(node)
        return Query(sql, columns, names, kinds, variables)

    def _items(self, nodes: list[s.Item], scope: Scope) -> tuple[list[Value], list[str], list[str | None]]:
        items: list[Value] = []
        names: list[str] = []
        variables: list[str | None] = []
        for node in nodes:
            if isinstance(node.value, s.Star):
                qualifier = node.value.qualifier
                chosen = [src for src in scope.sources if not qualifier or src.alias.lower() == qualifier[-1].lower()]
                if not chosen:
                    raise SqlError(107, "The column prefix does not match with a table name or alias name.", 15)
                for src in chosen:
                    names += [name for name, _ in src.columns]
                    items += [value for _, value in src.columns]
                    variables += [None] * len(src.columns)
                continue
            items.append(self.value(node.value, scope))
            label = node.value.name[-1] if isinstance(node.value, s.Column) else ""
            names.append(node.alias if node.alias is not None else label)
            variables.append(node.variable)
        return items, names, variables

    def _order(
        self, order: list[tuple[Any, bool]], scope: Scope, columns: list[str], kinds: list[SqlType], names: list[str]
    ) -> str:
        parts = []
        for node, descending in order:
            direction = "DESC NULLS LAST" if descending else "ASC NULLS FIRST"
            if isinstance(node, s.Literal) and node.kind == "int":
                place = int(node.value) - 1
                if not 0 <= place < len(columns):
                    raise SqlError(
                        108, "The ORDER BY position number is out of range of the number of items in the list."
                    )
                value = Value(columns[place], kinds[place])
            else:
                lowered = [name.lower() for name in names]
                alias = node.name[0].lower() if isinstance(node, s.Column) and len(node.name) == 1 else None
                if alias in lowered:
                    place = lowered.index(alias)
                    value = Value(columns[place], kinds[place])
                else:
                    value = self.value(node, scope)
            parts.append(f"{key(value)} {direction}")
        return f" ORDER BY {', '.join(parts)}"

    def _limits(self, node: Any) -> str:
        sql = ""
        count = node.fetch if node.fetch is not None else node.top
        if count is not None:
            sql += f" LIMIT {self.value(count, Scope()).sql}"
        if node.offset is not None:
            if not node.order:
                raise SqlError(102, "Incorrect syntax near 'OFFSET'.", 15)
            sql += f" OFFSET {self.value(node.offset, Scope()).sql}"
        return sql

    # FROM

    def source(self, node: Any, scope: Scope) -> str:
        """A FROM item; what it names is added to the scope."""
        if isinstance(node, s.Join):
            left = self.source(node.left, scope)
            if node.kind.endswith("LATERAL"):
                inner = Scope(parent=scope)
                right = self.source(node.right, inner)
                scope.sources += inner.sources
                return f"{left} {node.kind} {right}" + (" ON true" if node.kind.startswith("LEFT") else "")
            right = self.source(node.right, scope)
            condition = f" ON {self.predicate(node.on, scope)}" if node.on is not None else ""
            return f"({left} {node.kind} {right}{condition})"
        if isinstance(node, s.Derived):
            return self._named(self.query(node.query, scope.parent), node.alias, node.names, scope)
        if isinstance(node, s.Rows):
            return self._rows(node, scope)
        if isinstance(node, s.Table):
            if len(node.name) == 1:
                for frame in reversed(self._ctes):
                    if (found := frame.get(node.name[0].lower())) is not None:
                        stored = Query(f"SELECT * FROM {found.sql}", found.columns, found.names, found.kinds, [])
                        return self._named(stored, node.alias or node.name[0], [], scope)
            query, table = self.context.table(self, node.name, node.hints)
            return self._named(query, node.alias or node.name[-1], [], scope, table)
        if isinstance(node, s.Routine):
            args = [self.value(arg, scope) for arg in node.args]
            query = self.context.routine(self, node.name, args)
            return self._named(query, node.alias or node.name[-1], [], scope)
        raise Unknown(f"{type(node).__name__} in FROM")

    def _named(self, query: Query, alias: str, names: list[str], scope: Scope, table: Any = None) -> str:
        label = self.alias()
        shown = names or query.names
        if len(shown) != len(query.columns):
            raise SqlError(8158, f"'{alias}' has more columns than were specified in the column list.")
        columns = [
            (name, Value(f"{label}.{column}", kind))
            for name, column, kind in zip(shown, query.columns, query.kinds, strict=True)
        ]
        scope.sources.append(Source(alias, columns, table))
        return f"({query.sql}) AS {label}"

    def _rows(self, node: s.Rows, scope: Scope) -> str:
        rows = [[self.value(cell, scope) for cell in row] for row in node.rows]
        kinds = [self.common([row[index].kind for row in rows]) for index in range(len(rows[0]))]
        text = ", ".join(
            "(" + ", ".join(self.convert(cell, kind).sql for cell, kind in zip(row, kinds, strict=True)) + ")"
            for row in rows
        )
        columns = [f"k{index}" for index in range(len(kinds))]
        query = Query(f"SELECT * FROM (VALUES {text}) AS v({', '.join(columns)})", columns, node.names, kinds, [])
        return self._named(query, node.alias, node.names, scope)

    # Functions

    def _value_call(self, node: s.Call, scope: Scope) -> Value:
        name = ".".join(node.name).lower()
        if name in functions.AGGREGATES:
            inner = Scope(scope.sources, scope.parent)
            star = bool(node.args) and isinstance(node.args[0], s.Star)
            args = [] if star else [self.value(arg, inner) for arg in node.args]
            value = functions.aggregate(self, name, args, distinct=node.distinct, star=star)
            return self._over(value, node, scope) if node.over else value
        if name in functions.WINDOWS:
            return self._over(Value(f"{name}()", BIGINT), node, scope)
        if name in ("datediff", "datediff_big", "dateadd", "datepart"):
            word = node.args[0].name[0].lower() if isinstance(node.args[0], s.Column) else ""
            part = functions.PARTS.get(word, word)
            args = [self.value(arg, scope) for arg in node.args[1:]]
            if name.startswith("datediff"):
                return functions.datediff(self, part, args, big=name.endswith("big"))
            return functions.dateadd(self, part, args) if name == "dateadd" else functions.datepart(self, part, args)
        if name == "iif":
            return self.value(s.Case(None, [(node.args[0], node.args[1])], node.args[2]), scope)
        if len(node.name) > 1 and f".{node.name[-1].lower()}" in clr.METHODS:
            return self._value_method(s.Method(s.Column(node.name[:-1]), node.name[-1], node.args), scope)
        args = [self.value(arg, scope) for arg in node.args]
        handler = functions.TABLE.get(name) or clr.STATICS.get(name)
        if handler is not None:
            return handler(self, args)
        return self.context.call(self, name, args)

    def _value_method(self, node: s.Method, scope: Scope) -> Value:
        operand = self.value(node.operand, scope)
        handler = clr.METHODS.get(f".{node.name.lower()}")
        if handler is None or node.args:
            raise Unknown(f"the method {node.name}")
        return handler(operand)

    def _over(self, value: Value, node: s.Call, scope: Scope) -> Value:
        partition, order = node.over or ([], [])
        text = ""
        if partition:
            text += f"PARTITION BY {', '.join(key(self.value(part, scope)) for part in partition)}"
        if order:
            text += self._order(order, scope, [], [], [])
        return Value(f"{value.sql} OVER ({text})", value.kind)
