"""The parser of CREATE, ALTER, DROP, GRANT, DENY and REVOKE."""

from __future__ import annotations

from typing import Any

from tests.support.sqlserver import syntax as s
from tests.support.sqlserver.queries import QueryParser


class DefinitionParser(QueryParser):
    """Each method reads one statement."""

    def _make(self, verb: str, **values: Any) -> s.Statement:
        raise NotImplementedError

    def statement(self) -> Any:
        raise NotImplementedError

    def on_off(self) -> bool:
        if self.at("on", "off"):
            return self.advance().word == "on"
        raise self.wrong()

    def _create(self) -> Any:
        self.expect("create")
        if self.accept("table"):
            return self._create_table()
        if self.accept("schema"):
            name = self.identifier()
            if self.accept("authorization"):
                self.identifier()
            return self._make("create schema", name=name)
        if self.accept("database"):
            name = self.identifier()
            return self._make("create database", name=name, collation=self.name()[-1] if self.accept("collate") else "")
        if self.accept("login"):
            name = self.identifier()
            self.expect("with", "password", "=")
            password = self.advance().value
            while self.accept(","):
                self.name()
                self.expect("=")
                self.advance()
            return self._make("create login", name=name, password=password)
        if self.accept("user"):
            name = self.identifier()
            login = name
            if self.accept("for", "login") or self.accept("from", "login"):
                login = self.identifier()
            elif self.accept("without", "login"):
                login = ""
            return self._make("create user", name=name, login=login)
        if self.accept("role"):
            return self._make("create role", name=self.identifier())
        unique = self.accept("unique")
        clustered = self.accept("clustered")
        if not clustered:
            self.accept("nonclustered")
        self.expect("index")
        name = self.identifier()
        self.expect("on")
        table = self.name()
        columns = self._index_columns()
        if self.accept("include"):
            self.names_in_parentheses()
        where = self.predicate() if self.accept("where") else None
        return self._make(
            "create index", name=name, table=table, columns=columns, unique=unique, clustered=clustered, where=where
        )

    def _index_columns(self) -> list[str]:
        self.expect("(")
        names = []
        while True:
            names.append(self.identifier())
            if not self.accept("asc"):
                self.accept("desc")
            if not self.accept(","):
                break
        self.expect(")")
        return names

    def _create_table(self) -> Any:
        name = self.name()
        self.expect("(")
        columns: list[s.ColumnDefinition] = []
        constraints: list[s.Constraint] = []
        while not self.at(")"):
            if self.at("constraint", "primary", "unique"):
                constraints.append(self._constraint([]))
            else:
                columns.append(self._column(constraints))
            if not self.accept(","):
                break
        self.expect(")")
        if self.accept("on"):
            self.identifier()
        return self._make("create table", name=name, columns=columns, constraints=constraints)

    def _constraint(self, columns: list[str]) -> s.Constraint:
        name = self.identifier() if self.accept("constraint") else None
        if self.accept("primary", "key"):
            kind = "primary"
        else:
            self.expect("unique")
            kind = "unique"
        if not self.accept("clustered") and self.accept("nonclustered"):
            kind = f"{kind} nonclustered"
        return s.Constraint(kind, name, columns or self._index_columns())

    def _column(self, constraints: list[s.Constraint]) -> s.ColumnDefinition:
        name = self.identifier()
        if self.accept("as"):
            start = self._at
            computed = self.expression()
            text = " ".join(token.value for token in self._tokens[start : self._at])
            column = s.ColumnDefinition(name, None, computed=computed, computed_text=text)
            column.persisted = self.accept("persisted")
            if self.accept("not", "null"):
                column.nullable = False
            return column
        column = s.ColumnDefinition(name, self.type_name())
        while True:
            if self.accept("not", "null"):
                column.nullable = False
            elif self.accept("null"):
                column.nullable = True
            elif self.accept("identity"):
                column.identity = (1, 1)
                if self.accept("("):
                    seed = self.integer()
                    self.expect(",")
                    column.identity = (seed, self.integer())
                    self.expect(")")
            elif self.accept("collate"):
                self._collate(column, self.identifier())
            elif self.accept("rowguidcol") or self.accept("sparse"):
                pass
            elif self.accept("default"):
                column.default = self.expression()
            elif self.at("constraint") and self.ahead(2).word == "default":
                self.advance()
                self.identifier()
                self.expect("default")
                column.default = self.expression()
            elif self.at("constraint", "primary", "unique"):
                constraints.append(self._constraint([name]))
                if constraints[-1].kind.startswith("primary"):
                    column.nullable = False
            else:
                return column

    @staticmethod
    def _collate(column: s.ColumnDefinition, name: str) -> None:
        kind = column.kind
        if kind is not None and name.lower().endswith(("_bin", "_bin2")):
            column.kind = type(kind)(kind.name, kind.length, binary_collation=True)

    def _alter(self) -> Any:
        self.expect("alter")
        if self.accept("table"):
            return self._alter_table(self.name())
        if self.accept("role"):
            role = self.identifier()
            verb = "add" if self.accept("add") else "drop"
            if verb == "drop":
                self.expect("drop")
            self.expect("member")
            return self._make("role member", role=role, action=verb, member=self.identifier())
        if self.accept("login"):
            name = self.identifier()
            self.expect("with", "password", "=")
            return self._make("create login", name=name, password=self.advance().value)
        self.expect("database")
        name = "" if self.accept("current") else self.identifier()
        self.expect("set")
        option = self.identifier().lower()
        if option in ("allow_snapshot_isolation", "read_committed_snapshot"):
            on = self.on_off()
            if self.accept("with", "rollback"):
                self.expect("immediate")
            return self._make("database option", name=name, option=option, on=on)
        if option == "recovery":
            return self._make("database option", name=name, option=option, on=self.advance().word != "simple")
        if option == "single_user" or option == "multi_user":
            if self.accept("with", "rollback"):
                self.expect("immediate")
            return self._make("database option", name=name, option=option, on=True)
        raise self.wrong()

    def _alter_table(self, table: s.Name) -> Any:
        if self.accept("alter", "column"):
            name = self.identifier()
            column = s.ColumnDefinition(name, self.type_name())
            if self.accept("collate"):
                self._collate(column, self.identifier())
            if self.accept("not", "null"):
                column.nullable = False
            elif self.accept("null"):
                column.nullable = True
            return self._make("alter column", table=table, column=column)
        if self.accept("drop"):
            if self.accept("constraint"):
                return self._make("drop constraint", table=table, name=self.identifier())
            self.expect("column")
            names = [self.identifier()]
            while self.accept(","):
                names.append(self.identifier())
            return self._make("drop column", table=table, names=names)
        if self.accept("with", "nocheck"):
            pass
        self.expect("add")
        columns: list[s.ColumnDefinition] = []
        constraints: list[s.Constraint] = []
        while True:
            if self.at("constraint", "primary", "unique"):
                constraints.append(self._constraint([]))
            else:
                columns.append(self._column(constraints))
            if not self.accept(","):
                return self._make("add", table=table, columns=columns, constraints=constraints)

    def _drop(self) -> Any:
        self.expect("drop")
        word = self.advance().word
        if word not in ("table", "schema", "index", "database", "user", "login", "role"):
            self._at -= 1
            raise self.wrong()
        if_exists = self.accept("if", "exists")
        names = [self.name()]
        while word == "table" and self.accept(","):
            names.append(self.name())
        table = None
        if word == "index":
            self.expect("on")
            table = self.name()
        return self._make(f"drop {word}", names=names, if_exists=if_exists, table=table)

    def _grant(self) -> Any:
        verb = self.advance().word
        rights = [self._right()]
        while self.accept(","):
            rights.append(self._right())
        target: s.Name = ()
        scope = "database"
        if self.accept("on"):
            scope = "object"
            if self.at("schema", "database", "object", "role", "type"):
                scope = self.advance().word
                self.expect(":")
                self.expect(":")
            target = self.name()
        if not self.accept("to"):
            self.expect("from")
        return self._make("right", action=verb, rights=rights, scope=scope, target=target, grantee=self.identifier())

    _deny = _grant
    _revoke = _grant

    def _right(self) -> str:
        words = [self.advance().word]
        while not self.at(",", "on", "to", "from", "("):
            words.append(self.advance().word)
        return " ".join(words)
