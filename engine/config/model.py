"""The fields of ``reflex.yaml``: types, defaults and limits, each described in the words an error uses.

A field's `description` completes the sentence "must be …"; the documentation and the error messages both show it.
Rules between fields live in `engine.config.rules`, reading and error reporting in `engine.config.loader`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, model_validator

from engine.schema import TableId
from engine.sizes import SIZES, Size
from engine.source import Secret, SourceOptions, Tls

DEFAULT_PORTS = {"mysql": 3306, "postgres": 5432, "mssql": 1433}

DEFAULT_SCHEMAS = {"postgres": "public", "mssql": "dbo"}

CDC_MODES = {"mysql": "binlog", "postgres": "logical", "mssql": "cdc"}
"""The change-data-capture mode of each backend; all of them can poll."""


def _whole(value: object) -> object:
    if isinstance(value, (bool, float)):
        raise ValueError("not a whole number")  # noqa: TRY004 - pydantic turns only ValueError into a field error
    return value


def _secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("not text")  # noqa: TRY004 - pydantic turns only ValueError into a field error
    return Secret(value)


Whole = Annotated[int, BeforeValidator(_whole)]
SecretText = Annotated[Secret, PlainValidator(_secret), PlainSerializer(lambda _: "***", return_type=str)]


class Section(BaseModel):
    """Base of every part of the file: unknown fields are refused, and no error or repr carries an input value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TlsSection(Section):
    """`connection.tls`."""

    mode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", description="one of disable, prefer, require, verify-ca, verify-full"
    )
    ca: str | None = Field(
        default=None, min_length=1, description="the path of a PEM file with the trusted certificates"
    )
    cert: str | None = Field(
        default=None, min_length=1, description="the path of a PEM file with the client certificate"
    )
    key: str | None = Field(default=None, min_length=1, description="the path of a PEM file with the client key")


class ConnectionSection(Section):
    """`connection`: the source database server."""

    name: str = Field(default="source", min_length=1, max_length=100, description="a name of 1 to 100 characters")
    backend: Literal["mysql", "postgres", "mssql"] = Field(
        description="one of mysql (MariaDB too), postgres, mssql",
    )
    host: str = Field(min_length=1, description="a host name or an IP address")
    port: Whole = Field(
        ge=1,
        le=65535,
        description="a whole number from 1 to 65535 (default 3306 for mysql, 5432 for postgres, 1433 for mssql)",
    )
    user: str = Field(min_length=1, description="a user name, as text")
    password: SecretText = Field(default=Secret(""), description="text (put it in quotes)")
    password_file: str | None = Field(
        default=None, min_length=1, description="the path of a file that holds the password"
    )
    password_ssm: str | None = Field(
        default=None, min_length=1, description="the name of an AWS SSM parameter that holds the password"
    )
    tls: TlsSection = Field(default=TlsSection(), description="a mapping with mode, ca, cert, key")
    available_schemas: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="a list of one or more database names (postgres, mssql: or database.schema)"
    )

    @model_validator(mode="before")
    @classmethod
    def _default_port(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("backend") in DEFAULT_PORTS and "port" not in raw:
            return {**raw, "port": DEFAULT_PORTS[raw["backend"]]}
        return raw


class InstanceSection(Section):
    """`instance`: what is replicated, how, and with which means."""

    name: str = Field(min_length=1, max_length=100, description="a name of 1 to 100 characters")
    schema_name: str = Field(alias="schema", min_length=1, description="one of connection.available_schemas")
    sync_mode: Literal["auto", "poll", "binlog", "logical", "cdc"] = Field(
        default="auto", description="one of auto, poll, binlog (mysql), logical (postgres), cdc (mssql)"
    )
    sync_interval: Whole = Field(default=30, ge=5, le=3600, description="a whole number of seconds from 5 to 3600")
    batch_window_ms: Whole = Field(
        default=200, ge=1, le=60_000, description="a whole number of milliseconds from 1 to 60000"
    )
    instance_size: Literal["nano", "small", "medium", "large", "xlarge", "2xlarge"] = Field(
        default="nano", description="one of nano, small, medium, large, xlarge, 2xlarge"
    )
    log_level: Literal["debug", "info", "warn", "error"] = Field(
        default="info", description="one of debug, info, warn, error"
    )
    binlog_server_id: Whole | None = Field(
        default=None, ge=1, le=4_294_967_295, description="a whole number from 1 to 4294967295"
    )
    cdc_reconnect_mode: Literal["resume", "full"] = Field(
        default="resume", description="one of resume (from the durable position), full (reload on reconnect)"
    )


class ColumnsRule(Section):
    """One entry of `tables.columns`."""

    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), description="a list of column names")


Globs = tuple[Annotated[str, Field(min_length=1)], ...]


class TablesSection(Section):
    """`tables`: which tables and columns are replicated; globs match ``schema.table``, or the bare name."""

    include: Globs = Field(
        default=("*",), min_length=1, description="a list of one or more patterns such as public.orders_*"
    )
    exclude: Globs = Field(default=(), description="a list of patterns such as audit_*")
    columns: dict[str, ColumnsRule] = Field(
        default={}, description="a mapping from schema.table to {exclude: [column, ...]}"
    )


class ReplicaSection(Section):
    """`replica`: the DuckDB file."""

    path: str = Field(min_length=1, description="the path of the DuckDB file")


class HttpSection(Section):
    """`http`: where the instance answers."""

    host: str = Field(default="127.0.0.1", min_length=1, description="a host name or an IP address to listen on")
    port: Whole = Field(default=8080, ge=0, le=65535, description="a whole number from 0 (any free port) to 65535")
    token: SecretText = Field(default=Secret(""), description="text (put it in quotes)")


class Config(Section):
    """The whole of ``reflex.yaml``. Build it with `engine.config.load_config`."""

    version: Literal[1] = Field(default=1, description="1")
    connection: ConnectionSection = Field(description="a mapping: the source database server")
    instance: InstanceSection = Field(description="a mapping: what is replicated, and how")
    tables: TablesSection = Field(default=TablesSection(), description="a mapping with include, exclude, columns")
    replica: ReplicaSection = Field(description="a mapping with path")
    http: HttpSection = Field(default=HttpSection(), description="a mapping with host, port, token")

    @model_validator(mode="before")
    @classmethod
    def _defaults_across_sections(cls, raw: Any) -> Any:
        """The only available schema is the instance's; the replica is named after the instance."""
        if not isinstance(raw, dict):
            return raw
        connection, instance = raw.get("connection"), raw.get("instance")
        replica = raw.get("replica", {})
        if isinstance(instance, dict) and isinstance(connection, dict) and "schema" not in instance:
            available = connection.get("available_schemas")
            if isinstance(available, list) and len(available) == 1:
                instance = {**instance, "schema": available[0]}
                raw = {**raw, "instance": instance}
        if isinstance(replica, dict) and "path" not in replica:
            name = instance.get("name") if isinstance(instance, dict) else None
            stem = name.replace("/", "_") if isinstance(name, str) and name else "reflex"
            raw = {**raw, "replica": {**replica, "path": f"./{stem}.duckdb"}}
        return raw

    @property
    def size(self) -> Size:
        """The instance's size: its caps and how they are divided."""
        return SIZES[self.instance.instance_size]

    @property
    def token(self) -> str | None:
        """The bearer token of the instance's HTTP surface; None when it asks for none."""
        return self.http.token.reveal() or None

    @property
    def database(self) -> str:
        """The database at the source (`instance.schema` less its schema part)."""
        return self._split()[0]

    @property
    def source_schema(self) -> str | None:
        """The one schema that `instance.schema` restricts to (PostgreSQL, SQL Server), if it does."""
        return self._split()[1]

    @property
    def search_schema(self) -> str:
        """The schema of the replica that readers need not name."""
        if self.connection.backend == "mysql":
            return self.database
        return self.source_schema or DEFAULT_SCHEMAS[self.connection.backend]

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Every secret in the configuration, for masking."""
        return tuple(s for s in (self.connection.password, self.http.token) if s.reveal())

    def source_options(self, as_text: frozenset[tuple[TableId, str]] = frozenset()) -> SourceOptions:
        """What the connector needs; `as_text` are the columns that the replica keeps as text."""
        connection, instance, size = self.connection, self.instance, self.size
        tls = connection.tls
        return SourceOptions(
            host=connection.host,
            port=connection.port,
            user=connection.user,
            password=connection.password,
            database=self.database,
            schema=self.source_schema,
            tls=Tls(mode=tls.mode, ca=tls.ca, cert=tls.cert, key=tls.key),
            instance=instance.name,
            include=self.tables.include,
            exclude=self.tables.exclude,
            exclude_columns={table: rule.exclude for table, rule in self.tables.columns.items() if rule.exclude},
            as_text=as_text,
            server_id=instance.binlog_server_id,
            batch_window=instance.batch_window_ms / 1000,
            batch_bytes=size.batch_bytes,
            snapshot_workers=size.snapshot_workers,
            poll_interval=float(instance.sync_interval),
        )

    def _split(self) -> tuple[str, str | None]:
        name = self.instance.schema_name
        if self.connection.backend == "mysql":
            return name, None
        database, _, schema = name.partition(".")
        return database, schema or None
