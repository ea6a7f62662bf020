"""Expressions and predicates, compiled to the embedded engine's SQL with SQL Server's types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tests.support.sqlserver import syntax as s
from tests.support.sqlserver import values
from tests.support.sqlserver.convert import Parameters, Value, arithmetic, constant, convert, key, number
from tests.support.sqlserver.errors import SqlError, Unknown, invalid_column, syntax
from tests.support.sqlserver.types import BIGINT, BIT, INT, MAX, NULL, SqlType, common

_RANKS = {"int": ("tinyint", "smallint", "int", "bigint")}


@dataclass
class Source:
    """What a FROM names: its columns as ``(name, expression)``."""

    alias: str
    columns: list[tuple[str, Value]]
    table: Any = None


@dataclass
class Scope:
    """The sources that a query's names may mean; `parent` is the query around it."""

    sources: list[Source] = field(default_factory=list)
    parent: Scope | None = None
    aggregates: bool = True
    grouped: dict[str, str] = field(default_factory=dict)

    def find(self, name: s.Name) -> Value | None:
        """The column of this name; error 209 for more than one."""
        *qualifier, column = (part.lower() for part in name)
        found = [
            value
            for source in self.sources
            if not qualifier or source.alias.lower() == qualifier[-1]
            for label, value in source.columns
            if label.lower() == column
        ]
        if len(found) > 1:
            raise SqlError(209, f"Ambiguous column name '{name[-1]}'.")
        if found:
            return found[0]
        return self.parent.find(name) if self.parent else None


class ScalarCompiler:
    """Compiles values. `variable` and `function` are the session's; queries are the subclass's."""

    def __init__(self, variable: Callable[[str], tuple[Any, SqlType]], context: Any) -> None:
        self.parameters = Parameters()
        self._variable = variable
        self.context = context

    def literal(self, value: Any, kind: SqlType) -> Value:
        return constant(value, kind, self.parameters)

    def convert(self, value: Value, kind: SqlType, style: int = -1, *, assign: bool = False) -> Value:
        return convert(value, kind, self.parameters, style, assign=assign)

    def value(self, node: Any, scope: Scope) -> Value:
        """A value expression."""
        method = getattr(self, f"_value_{type(node).__name__.lower()}", None)
        if method is None:
            raise Unknown(f"{type(node).__name__} as a value")
        return method(node, scope)

    def _value_literal(self, node: s.Literal, scope: Scope) -> Value:
        kind, text = node.kind, node.value
        if kind == "null":
            return Value("NULL", NULL, None)
        if kind in ("str", "nstr"):
            name = "varchar" if kind == "str" else "nvarchar"
            longest = 8000 if kind == "str" else 4000
            text = values.code_page(text) if kind == "str" else text
            return self.literal(text, SqlType(name, length=MAX if len(text) > longest else max(1, len(text))))
        if kind == "bin":
            digits = text[2:]
            data = bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2))
            return self.literal(data, SqlType("varbinary", length=MAX if len(data) > 8000 else max(1, len(data))))
        if kind == "float":
            return self.literal(float(text), SqlType("float"))
        if kind == "int" and int(text) < 2**31:
            return self.literal(int(text), INT)
        exact = Decimal(text)
        if kind == "int" and int(text) < 2**63:
            # A number beyond int is numeric; as bigint it compares and assigns alike, without losing speed.
            return self.literal(int(text), BIGINT)
        return self.literal(exact, number(exact))

    def _value_column(self, node: s.Column, scope: Scope) -> Value:
        found = scope.find(node.name)
        if found is None:
            if len(node.name) > 1:
                raise SqlError(4104, f'The multi-part identifier "{".".join(node.name)}" could not be bound.')
            raise invalid_column(node.name[-1])
        grouped = scope.grouped.get(found.sql)
        return Value(grouped, found.kind) if grouped else found

    def _value_variable(self, node: s.Variable, scope: Scope) -> Value:
        value, kind = self._variable(node.name)
        return self.literal(value, kind)

    def _value_collate(self, node: s.Collate, scope: Scope) -> Value:
        value = self.value(node.operand, scope)
        binary = node.name.lower().endswith(("_bin", "_bin2"))
        if not binary and not node.name.lower().endswith(("_ci_as", "database_default")):
            raise Unknown(f"the collation {node.name}")
        kind = SqlType(value.kind.name, length=value.kind.length, binary_collation=binary)
        return Value(value.sql, kind, value.constant)

    def _value_scalar(self, node: s.Scalar, scope: Scope) -> Value:
        query = self.query(node.query, scope)
        if len(query.kinds) != 1:
            raise SqlError(116, "Only one expression can be specified in the select list of this subquery.")
        return Value(f"({query.sql})", query.kinds[0])

    def _value_cast(self, node: s.Cast, scope: Scope) -> Value:
        value = self.value(node.operand, scope)
        style = -1
        if node.style is not None:
            found = self.value(node.style, scope)
            if not isinstance(found.constant, int):
                raise Unknown("a style that is not a number")
            style = found.constant
        if node.attempt:
            try:
                result = self.convert(value, node.kind, style)
            except SqlError:
                return self.literal(None, node.kind)
            return Value(f"TRY({result.sql})", node.kind)
        if value.kind.unicode and value.kind.family == "text" and node.kind.family == "binary" and style <= 0:
            return self.convert(value, node.kind, style)
        if value.kind.family == "binary" and node.kind.family == "text" and node.kind.unicode and style <= 0:
            return self.convert(value, node.kind, -3)
        return self.convert(value, node.kind, style)

    def _value_case(self, node: s.Case, scope: Scope) -> Value:
        results = [self.value(then, scope) for _, then in node.whens]
        if node.otherwise is not None:
            results.append(self.value(node.otherwise, scope))
        kind = self.common([result.kind for result in results])
        results = [self.convert(result, kind) for result in results]
        sql = "CASE"
        for (condition, _), result in zip(node.whens, results, strict=False):
            if node.operand is None:
                test = self.predicate(condition, scope)
            else:
                test = self._compare("=", self.value(node.operand, scope), self.value(condition, scope))
            sql += f" WHEN {test} THEN {result.sql}"
        if node.otherwise is not None:
            sql += f" ELSE {results[-1].sql}"
        return Value(f"{sql} END", kind)

    @staticmethod
    def common(kinds: list[SqlType]) -> SqlType:
        kind = kinds[0]
        for other in kinds[1:]:
            kind = common(kind, other)
        return INT if kind == NULL else kind

    def _value_unary(self, node: s.Unary, scope: Scope) -> Value:
        value = self.value(node.operand, scope)
        if node.op == "not":
            raise syntax("not")
        if value.known and isinstance(value.constant, int | Decimal | float) and node.op == "-":
            # A Decimal's own minus rounds.
            opposite = value.constant.copy_negate() if isinstance(value.constant, Decimal) else -value.constant
            return self.literal(opposite, value.kind)
        return Value(f"({node.op}({value.sql}))", value.kind)

    def _value_binary(self, node: s.Binary, scope: Scope) -> Value:
        op = node.op
        if op in ("and", "or", "=", "<>", "<", ">", "<=", ">="):
            raise syntax(op)
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        if NULL in (left.kind, right.kind):
            other = right.kind if left.kind == NULL else left.kind
            return self.literal(None, INT if other == NULL else other)
        families = {left.kind.family, right.kind.family}
        if op == "+" and families <= {"text", "binary"}:
            return self._concatenated(left, right)
        if op in ("&", "|", "^"):
            return self._bits(op, left, right)
        if families & {"moment"} and families <= {"moment", "int", "float", "decimal"} and op in "+-":
            if left.kind.name not in ("datetime", "smalldatetime", "int") or right.kind.family == "moment":
                raise SqlError(206, f"Operand type clash: {right.kind.name} is incompatible with {left.kind.name}")
            return Value(f"({left.sql} {op} CAST(({right.sql}) * 864000000000 AS BIGINT))", left.kind)
        kind = common(left.kind, right.kind)
        if kind.family not in ("int", "decimal", "float"):
            raise SqlError(8117, f"Operand data type {kind.name} is invalid for {op} operator.")
        left = self.convert(left, kind) if left.kind.family == "text" else left
        right = self.convert(right, kind) if right.kind.family == "text" else right
        return self._arithmetic(op, left, right, kind)

    def _arithmetic(self, op: str, left: Value, right: Value, kind: SqlType) -> Value:
        checked = f"CASE WHEN {right.sql} = 0 THEN error('division by zero') ELSE {right.sql} END"
        divisor = checked if op in "/%" else right.sql
        if kind.family == "int":
            kind = INT if kind.name == "bit" else kind
            one, two = f"CAST({left.sql} AS {kind.storage})", f"CAST({divisor} AS {kind.storage})"
            if op == "/":
                return Value(
                    f"CAST(trunc({one} / {two}) AS {kind.storage})" if kind != BIGINT else f"({one} // {two})", kind
                )
            return Value(f"({one} {op} {two})", kind)
        if kind.family == "decimal":
            result = arithmetic(op, left.kind, right.kind) or kind
            if kind.name in ("money", "smallmoney") and left.kind.name == right.kind.name:
                result = kind
            return Value(f"CAST({left.sql} {op} {divisor} AS {result.storage})", result)
        return Value(f"tsql_checked(CAST({left.sql} AS DOUBLE) {op} CAST({divisor} AS DOUBLE))", SqlType("float"))

    def _concatenated(self, left: Value, right: Value) -> Value:
        kind = common(left.kind, right.kind)
        if left.kind.family != right.kind.family:
            raise SqlError(402, f"The data types {left.kind.name} and {right.kind.name} are incompatible in add.")
        longest = 4000 if kind.unicode else 8000
        length = MAX if left.kind.lob or right.kind.lob else min(longest, left.kind.length + right.kind.length)
        name = "varbinary" if kind.family == "binary" else "nvarchar" if kind.unicode else "varchar"
        return Value(f"({left.sql} || {right.sql})", SqlType(name, length=length))

    def _bits(self, op: str, left: Value, right: Value) -> Value:
        kind = common(left.kind, right.kind)
        if kind.family == "binary":
            raise SqlError(402, f"The data types {left.kind.name} and {right.kind.name} are incompatible.")
        kind = left.kind if right.kind.family == "binary" else right.kind if left.kind.family == "binary" else kind
        if kind.family != "int":
            raise SqlError(8117, f"Operand data type {kind.name} is invalid for {op} operator.")
        one, two = (f"CAST({self.convert(side, kind).sql} AS BIGINT)" for side in (left, right))
        sql = f"xor({one}, {two})" if op == "^" else f"({one} {op} {two})"
        return Value(f"CAST({sql} AS {kind.storage})", kind)

    # Predicates

    def predicate(self, node: Any, scope: Scope) -> str:
        """A condition; error 4145 for a value in its place."""
        if isinstance(node, s.Binary):
            if node.op in ("and", "or"):
                return f"({self.predicate(node.left, scope)} {node.op} {self.predicate(node.right, scope)})"
            if node.op in ("=", "<>", "<", ">", "<=", ">="):
                return self._compare(node.op, self.value(node.left, scope), self.value(node.right, scope))
        if isinstance(node, s.Unary) and node.op == "not":
            return f"(NOT {self.predicate(node.operand, scope)})"
        if isinstance(node, s.IsNull):
            return f"({self.value(node.operand, scope).sql} IS {'NOT ' if node.negated else ''}NULL)"
        if isinstance(node, s.Exists):
            return f"EXISTS ({self.query(node.query, scope).sql})"
        if isinstance(node, s.In):
            return self._in(node, scope)
        if isinstance(node, s.Like):
            return self._like(node, scope)
        raise SqlError(
            4145, "An expression of non-boolean type specified in a context where a condition is expected.", 15
        )

    def _compare(self, op: str, left: Value, right: Value) -> str:
        left, right = self._alike(left, right)
        return f"({key(left)} {op} {key(right)})"

    def _alike(self, left: Value, right: Value) -> tuple[Value, Value]:
        if left.kind.name in ("text", "ntext", "image", "xml") or right.kind.name in ("text", "ntext", "image", "xml"):
            raise SqlError(
                402, f"The data types {left.kind.name} and {right.kind.name} are incompatible in comparison."
            )
        numbers = {"int", "decimal", "float"}
        if {left.kind.family, right.kind.family} <= numbers:
            return left, right
        kind = common(left.kind, right.kind)
        if left.kind.family == right.kind.family and kind.family in ("text", "binary"):
            if kind.binary_collation:
                left, right = (
                    Value(
                        side.sql, SqlType(side.kind.name, length=side.kind.length, binary_collation=True), side.constant
                    )
                    for side in (left, right)
                )
            return left, right
        if kind.family in ("text", "binary"):
            kind = SqlType(kind.name, length=MAX)
        return (self.convert(left, kind) if left.kind != kind else left), (
            self.convert(right, kind) if right.kind != kind else right
        )

    def _in(self, node: s.In, scope: Scope) -> str:
        value = self.value(node.operand, scope)
        negation = "NOT " if node.negated else ""
        if isinstance(node.options, list):
            tests = [self._compare("=", value, self.value(option, scope)) for option in node.options]
            return f"({negation}({' OR '.join(tests)}))"
        query = self.query(node.options, scope)
        inner = Value(query.columns[0], query.kinds[0])
        left, right = self._alike(value, inner)
        return f"({negation}{key(left)} IN (SELECT {key(right)} FROM ({query.sql}) AS in_query))"

    def _like(self, node: s.Like, scope: Scope) -> str:
        value, pattern = self.value(node.operand, scope), self.value(node.pattern, scope)
        escape = self.value(node.escape, scope).sql if node.escape else "NULL"
        sides = (value.sql, pattern.sql)
        if not value.kind.binary_collation:
            sides = (f"lower({value.sql})", f"lower({pattern.sql})")
        return f"({'NOT ' if node.negated else ''}tsql_like({sides[0]}, {sides[1]}, {escape}))"

    def _value_call(self, node: s.Call, scope: Scope) -> Value:
        raise NotImplementedError

    def query(self, node: Any, scope: Scope | None = None) -> Any:
        raise NotImplementedError


BOOLEAN = BIT
