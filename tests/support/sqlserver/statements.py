"""The parser of batches: control flow, data modification, transactions, SET and EXEC. Definitions are in definitions.py."""

from __future__ import annotations

from typing import Any

from tests.support.sqlserver import syntax as s
from tests.support.sqlserver.definitions import DefinitionParser
from tests.support.sqlserver.errors import SqlError

_SWITCHES = frozenset(
    [
        "ansi_nulls",
        "ansi_padding",
        "ansi_warnings",
        "ansi_null_dflt_on",
        "arithabort",
        "concat_null_yields_null",
        "quoted_identifier",
        "numeric_roundabort",
        "nocount",
        "xact_abort",
        "implicit_transactions",
        "cursor_close_on_commit",
        "arithignore",
        "ansi_defaults",
    ]
)


class BatchParser(DefinitionParser):
    """`batch` gives the statements of a text, which needs no separators."""

    def batch(self) -> list[Any]:
        found = []
        while self.token.kind != "end":
            if self.accept(";"):
                continue
            found.append(self.statement())
        return found

    def statement(self) -> Any:
        token = self.token
        if token.word in ("select", "with", "("):
            return self.query()
        method = getattr(self, f"_{token.word}", None) if token.kind == "id" and token.word.isalpha() else None
        if method is None or token.word not in _VERBS:
            raise self.wrong()
        statement = method()
        if isinstance(statement, s.Statement):
            statement.line = token.line
        return statement

    def _make(self, verb: str, **values: Any) -> s.Statement:
        return s.Statement(verb, values=values)

    # Control flow

    def _begin(self) -> Any:
        self.expect("begin")
        if self.accept("tran") or self.accept("transaction"):
            return self._make("begin", name=self._transaction_name())
        if self.accept("try"):
            body = self._until("end", "try")
            self.expect("begin", "catch")
            return self._make("try", body=body, catch=self._until("end", "catch"))
        return self._make("block", body=self._until("end"))

    def _until(self, *words: str) -> list[Any]:
        body = []
        while not self.accept(*words):
            if self.token.kind == "end":
                raise self.wrong()
            if not self.accept(";"):
                body.append(self.statement())
        return body

    def _transaction_name(self) -> str | None:
        return self.identifier() if self.at_identifier() else None

    def _if(self) -> Any:
        self.expect("if")
        condition = self.predicate()
        then = self.statement()
        self.accept(";")
        return self._make(
            "if", condition=condition, then=then, otherwise=self.statement() if self.accept("else") else None
        )

    def _while(self) -> Any:
        self.expect("while")
        return self._make("while", condition=self.predicate(), body=self.statement())

    def _break(self) -> Any:
        self.expect("break")
        return self._make("break")

    def _return(self) -> Any:
        self.expect("return")
        return self._make("return")

    def _declare(self) -> Any:
        self.expect("declare")
        found = []
        while True:
            name = self._variable()
            self.accept("as")
            kind = self.type_name()
            found.append((name, kind, self.expression() if self.accept("=") else None))
            if not self.accept(","):
                return self._make("declare", variables=found)

    def _variable(self) -> str:
        if self.token.kind != "var":
            raise self.wrong()
        return self.advance().value.lower()

    def _print(self) -> Any:
        self.expect("print")
        return self._make("print", value=self.expression())

    def _raiserror(self) -> Any:
        self.expect("raiserror", "(")
        args = self.expressions()
        self.expect(")")
        if self.accept("with"):
            self.expect("nowait")
        return self._make("raiserror", args=args)

    def _throw(self) -> Any:
        self.expect("throw")
        args = [] if self.token.kind == "end" or self.at(";", "end") else self.expressions()
        return self._make("throw", args=args)

    def _waitfor(self) -> Any:
        self.expect("waitfor", "delay")
        return self._make("waitfor", value=self.expression())

    def _use(self) -> Any:
        self.expect("use")
        return self._make("use", name=self.identifier())

    def _kill(self) -> Any:
        self.expect("kill")
        return self._make("kill", spid=self.integer())

    def _checkpoint(self) -> Any:
        self.expect("checkpoint")
        return self._make("checkpoint")

    # Transactions and settings

    def _commit(self) -> Any:
        self.expect("commit")
        if not self.accept("tran") and not self.accept("transaction"):
            self.accept("work")
            return self._make("commit")
        self._transaction_name()
        return self._make("commit")

    def _rollback(self) -> Any:
        self.expect("rollback")
        if not self.accept("tran") and not self.accept("transaction"):
            self.accept("work")
            return self._make("rollback", name=None)
        return self._make("rollback", name=self._transaction_name())

    def _save(self) -> Any:
        self.expect("save")
        if not self.accept("tran"):
            self.expect("transaction")
        return self._make("save", name=self.identifier())

    def _set(self) -> Any:
        self.expect("set")
        if self.token.kind == "var":
            name = self._variable()
            self.expect("=")
            return self._make("assign", name=name, value=self.expression())
        if self.accept("transaction", "isolation", "level"):
            words = [self.advance().word]
            while self.token.word in ("committed", "uncommitted", "read") and len(words) < 2:
                words.append(self.advance().word)
            return self._make("isolation", level=" ".join(words))
        if self.accept("identity_insert"):
            table = self.name()
            return self._make("identity_insert", table=table, on=self.on_off())
        option = self.advance().word
        if option in _SWITCHES:
            others = [option]
            while self.accept(","):
                others.append(self.advance().word)
            return self._make("switch", options=others, on=self.on_off())
        if option in ("textsize", "lock_timeout", "datefirst", "rowcount", "deadlock_priority"):
            value = self.advance().value if self.token.kind == "id" else self.integer()
            return self._make("number", option=option, value=value)
        if option in ("language", "dateformat"):
            return self._make("number", option=option, value=self.advance().value)
        if option == "context_info":
            return self._make("number", option=option, value=self.expression())
        self._at -= 1
        raise self.wrong()

    # Data

    def _output(self) -> list[s.Item]:
        return self.items() if self.accept("output") else []

    def _insert(self) -> s.Insert:
        self.expect("insert")
        self.accept("into")
        table = self.name()
        self._table_hints()
        columns = None
        if self.at("(") and self.ahead().word != "select":
            columns = self.names_in_parentheses()
        output = self._output()
        source: Any = None
        if self.accept("values"):
            source = self.rows()
        elif self.accept("default"):
            self.expect("values")
        elif self.at("select", "with", "("):
            source = self.query()
        else:
            raise self.wrong()
        return s.Insert(table, columns, source, output)

    def _table_hints(self) -> None:
        if self.accept("with"):
            self._skip_parentheses()

    def _update(self) -> s.Update:
        self.expect("update")
        top = self.top()
        table = self.name()
        self._table_hints()
        self.expect("set")
        assignments: list[tuple[str, Any]] = []
        while True:
            column = self.name()[-1]
            if self.at("+=", "-=", "*="):
                op = self.advance().word[0]
                assignments.append((column, s.Binary(op, s.Column((column,)), self.expression())))
            else:
                self.expect("=")
                value = None if self.accept("default") else self.expression()
                assignments.append((column, value))
            if not self.accept(","):
                break
        output = self._output()
        source = self.source() if self.accept("from") else None
        where = self.predicate() if self.accept("where") else None
        return s.Update(table, assignments, source, where, top, output)

    def _delete(self) -> s.Delete:
        self.expect("delete")
        top = self.top()
        self.accept("from")
        table = self.name()
        self._table_hints()
        output = self._output()
        source = self.source() if self.accept("from") else None
        where = self.predicate() if self.accept("where") else None
        return s.Delete(table, source, where, top, output)

    def _truncate(self) -> Any:
        self.expect("truncate", "table")
        return self._make("truncate", table=self.name())

    # EXEC

    def _exec(self) -> Any:
        self.advance()
        if self.accept("("):
            value = self.expression()
            self.expect(")")
            return self._make("execute text", value=value)
        self._return_variable()
        procedure = self.name()
        args: list[tuple[str | None, Any]] = []
        while self.token.kind in ("var", "gvar", "str", "nstr", "int", "num", "bin") or self.at("null", "default", "-"):
            name = None
            if self.token.kind == "var" and self.ahead().word == "=":
                name = self._variable()
                self.advance()
            args.append((name, None if self.accept("default") else self.expression()))
            if self.accept("output") or self.accept("out"):
                raise SqlError(40517, "The emulator was asked for what it does not know: an output parameter")
            if not self.accept(","):
                break
        return self._make("execute", procedure=procedure, args=args)

    _execute = _exec

    def _return_variable(self) -> None:
        if self.token.kind == "var" and self.ahead().word == "=":
            raise self.wrong()


_VERBS = frozenset(
    [
        "begin",
        "if",
        "while",
        "break",
        "return",
        "declare",
        "print",
        "raiserror",
        "throw",
        "waitfor",
        "use",
        "kill",
        "checkpoint",
        "commit",
        "rollback",
        "save",
        "set",
        "insert",
        "update",
        "delete",
        "truncate",
        "exec",
        "execute",
        "create",
        "alter",
        "drop",
        "grant",
        "revoke",
        "deny",
    ]
)


def parse(text: str) -> list[Any]:
    """The statements of a batch."""
    return BatchParser(text).batch()
