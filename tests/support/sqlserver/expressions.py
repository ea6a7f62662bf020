"""The parser of T-SQL expressions and predicates."""

from __future__ import annotations

from typing import Any

from tests.support.sqlserver import syntax as s
from tests.support.sqlserver.errors import SqlError, Unknown, syntax
from tests.support.sqlserver.lexer import RESERVED, Token, tokens
from tests.support.sqlserver.types import MAX, SqlType, make

_COMPARISONS = ("=", "<>", "!=", "<", ">", "<=", ">=", "!<", "!>")


class ExpressionParser:
    """Reads tokens from the left; every `_` method leaves the position after what it read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = tokens(text)
        self._at = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._at]

    def ahead(self, distance: int = 1) -> Token:
        return self._tokens[min(self._at + distance, len(self._tokens) - 1)]

    def advance(self) -> Token:
        token = self.token
        self._at += 1
        return token

    def at(self, *words: str) -> bool:
        return self.token.word in words and bool(self.token.word)

    def accept(self, *words: str) -> bool:
        """Take these words if all of them come now."""
        if all(self.ahead(index).word == word for index, word in enumerate(words)):
            self._at += len(words)
            return True
        return False

    def expect(self, *words: str) -> None:
        for word in words:
            if not self.accept(word):
                raise self.wrong()

    def wrong(self) -> SqlError:
        token = self.token
        if token.word in RESERVED:
            return SqlError(156, f"Incorrect syntax near the keyword '{token.value}'.", 15)
        return syntax(token.value)

    def identifier(self) -> str:
        token = self.token
        if token.kind == "qid" or (token.kind == "id" and token.word not in RESERVED):
            return self.advance().value
        raise self.wrong()

    def at_identifier(self) -> bool:
        return self.token.kind == "qid" or (self.token.kind == "id" and self.token.word not in RESERVED)

    def name(self) -> s.Name:
        parts = [self.identifier()]
        while self.accept("."):
            if self.at("."):
                parts.append("")
            else:
                parts.append(self.identifier())
        return tuple(parts)

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        if self.token.kind != "int":
            raise self.wrong()
        return sign * int(self.advance().value)

    def type_name(self, *, cast: bool = False) -> SqlType:
        name = self.name()
        if len(name) == 2 and name[0].lower() == "sys":
            name = name[1:]
        arguments = []
        if self.accept("("):
            while True:
                if self.accept("max"):
                    arguments.append(MAX)
                else:
                    arguments.append(self.integer())
                if not self.accept(","):
                    break
            self.expect(")")
        return make(name[-1], arguments, cast=cast)

    # Predicates

    def predicate(self) -> Any:
        left = self._conjunction()
        while self.accept("or"):
            left = s.Binary("or", left, self._conjunction())
        return left

    def _conjunction(self) -> Any:
        left = self._negation()
        while self.accept("and"):
            left = s.Binary("and", left, self._negation())
        return left

    def _negation(self) -> Any:
        if self.accept("not"):
            return s.Unary("not", self._negation())
        if self.accept("exists"):
            self.expect("(")
            query = self.query()
            self.expect(")")
            return s.Exists(query)
        if self.at("(") and self._parenthesis_holds_predicate():
            self.expect("(")
            inner = self.predicate()
            self.expect(")")
            return inner
        return self._comparison()

    def _parenthesis_holds_predicate(self) -> bool:
        start = self._at
        self.advance()
        try:
            if self.at("select", "with"):
                return False
            inner = self.predicate()
            return self.at(")") and isinstance(inner, _PREDICATES) and _is_predicate(inner)
        except SqlError:
            return False
        finally:
            self._at = start

    def _comparison(self) -> Any:
        left = self.expression()
        if self.token.word in _COMPARISONS:
            op = {"!=": "<>", "!<": ">=", "!>": "<="}.get(self.token.word, self.token.word)
            self.advance()
            return s.Binary(op, left, self.expression())
        if self.accept("is"):
            negated = self.accept("not")
            self.expect("null")
            return s.IsNull(left, negated)
        negated = self.accept("not")
        if self.accept("in"):
            self.expect("(")
            options = self.query() if self.at("select", "with") else self.expressions()
            self.expect(")")
            return s.In(left, options, negated)
        if self.accept("between"):
            low = self.expression()
            self.expect("and")
            both = s.Binary("and", s.Binary(">=", left, low), s.Binary("<=", left, self.expression()))
            return s.Unary("not", both) if negated else both
        if self.accept("like"):
            pattern = self.expression()
            escape = self.expression() if self.accept("escape") else None
            return s.Like(left, pattern, escape, negated)
        if negated:
            raise self.wrong()
        return left

    # Values

    def expressions(self) -> list[Any]:
        found = [self.expression()]
        while self.accept(","):
            found.append(self.expression())
        return found

    def expression(self) -> Any:
        left = self._product()
        while self.at("+", "-", "&", "|", "^"):
            op = self.advance().word
            left = s.Binary(op, left, self._product())
        return left

    def _product(self) -> Any:
        left = self._unary()
        while self.at("*", "/", "%"):
            op = self.advance().word
            left = s.Binary(op, left, self._unary())
        return left

    def _unary(self) -> Any:
        if self.at("-", "+", "~"):
            op = self.advance().word
            operand = self._unary()
            return operand if op == "+" else s.Unary(op, operand)
        value = self._primary()
        while self.at(".") and self.ahead().kind == "id" and self.ahead(2).word == "(":
            self.advance()
            call = self._call((self.advance().value,))
            value = s.Method(value, call.name[0], call.args)
        while self.accept("collate"):
            value = s.Collate(value, self.identifier())
        return value

    def _primary(self) -> Any:
        token = self.token
        if token.kind in ("int", "num", "float", "str", "nstr", "bin"):
            return s.Literal(token.kind, self.advance().value)
        if token.kind in ("var", "gvar"):
            return s.Variable(self.advance().value.lower())
        if token.word == "null":
            self.advance()
            return s.Literal("null", "")
        if self.accept("("):
            inner = s.Scalar(self.query()) if self.at("select", "with") else self.expression()
            self.expect(")")
            return inner
        if token.word == "case":
            return self._case()
        if token.word in ("cast", "try_cast") and self.ahead().word == "(":
            self._at += 2
            operand = self.expression()
            self.expect("as")
            kind = self.type_name(cast=True)
            self.expect(")")
            return s.Cast(operand, kind, None, token.word == "try_cast")
        if token.word in ("convert", "try_convert"):
            self.advance()
            self.expect("(")
            kind = self.type_name(cast=True)
            self.expect(",")
            operand = self.expression()
            style = self.expression() if self.accept(",") else None
            self.expect(")")
            return s.Cast(operand, kind, style, token.word == "try_convert")
        if token.word in ("left", "right", "coalesce", "nullif", "schema", "user", "current_timestamp", "identity"):
            self.advance()
            return self._call((token.value,)) if self.at("(") else s.Call((token.value,), [])
        name = self.name()
        if self.accept(":", ":"):
            return self._call((f"{name[-1]}::{self.identifier()}",))
        return self._call(name) if self.at("(") else s.Column(name)

    def _case(self) -> s.Case:
        self.expect("case")
        operand = None if self.at("when") else self.expression()
        whens = []
        while self.accept("when"):
            condition = self.predicate() if operand is None else self.expression()
            self.expect("then")
            whens.append((condition, self.expression()))
        otherwise = self.expression() if self.accept("else") else None
        self.expect("end")
        return s.Case(operand, whens, otherwise)

    def _call(self, name: s.Name) -> s.Call:
        self.expect("(")
        args: list[Any] = []
        distinct = self.accept("distinct")
        if self.at("*"):
            self.advance()
            args.append(s.Star(()))
        elif name[-1].lower() == "iif":
            args = [self.predicate()]
            while self.accept(","):
                args.append(self.expression())
        elif not self.at(")"):
            args = self.expressions()
        self.expect(")")
        over = None
        if self.accept("over"):
            self.expect("(")
            partition: list[Any] = []
            order: list[Any] = []
            if self.accept("partition", "by"):
                partition = self.expressions()
            if self.at("order"):
                order = self.order_by()
            self.expect(")")
            over = (partition, order)
        return s.Call(name, args, distinct, over)

    def order_by(self) -> list[tuple[Any, bool]]:
        self.expect("order", "by")
        found = []
        while True:
            value = self.expression()
            descending = self.accept("desc")
            if not descending:
                self.accept("asc")
            found.append((value, descending))
            if not self.accept(","):
                return found

    def query(self) -> Any:
        raise Unknown("a query here")


_PREDICATES = (s.Binary, s.Unary, s.In, s.Like, s.IsNull, s.Exists)


def _is_predicate(node: Any) -> bool:
    if isinstance(node, s.Binary):
        return node.op in (*_COMPARISONS, "and", "or")
    return not isinstance(node, s.Unary) or node.op == "not"
