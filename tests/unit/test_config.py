"""The configuration: defaults, references, secrets, rules between fields, and all errors at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config, load_config, parse_config
from engine.errors import ConfigError
from engine.schema import TableId
from engine.sizes import SIZES
from engine.source import Secret

MINIMAL: dict[str, Any] = {
    "connection": {
        "backend": "postgres",
        "host": "db.example",
        "user": "reflex",
        "password": "hunter2-secret",
        "available_schemas": ["shop"],
    },
    "instance": {"name": "shop-live"},
}


def merged(changes: dict[str, Any], base: dict[str, Any] = MINIMAL) -> dict[str, Any]:
    """`base` with nested changes; a value of None removes the key."""
    out = dict(base)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(value, out[key])
        else:
            out[key] = value
    return out


def config(changes: dict[str, Any] | None = None, **environ: str) -> Config:
    return parse_config(json.dumps(merged(changes or {})), environ=environ)


def problems(changes: dict[str, Any], **environ: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        config(changes, **environ)
    assert "hunter2" not in str(caught.value)
    return {p.field: p.message for p in caught.value.problems}


def test_minimal_file_gets_every_stated_default() -> None:
    c = config()
    assert (c.connection.port, c.instance.schema_name, c.replica.path) == (5432, "shop", "./shop-live.duckdb")
    assert (c.instance.sync_mode, c.instance.sync_interval, c.instance.batch_window_ms) == ("auto", 30, 200)
    assert (c.instance.instance_size, c.instance.log_level, c.instance.cdc_reconnect_mode) == ("nano", "info", "resume")
    assert (c.http.host, c.http.port, c.token) == ("127.0.0.1", 8080, None)
    assert (c.tables.include, c.tables.exclude) == (("*",), ())
    assert c.connection.tls.mode == "prefer"


@pytest.mark.parametrize(("backend", "port"), [("mysql", 3306), ("postgres", 5432), ("mssql", 1433)])
def test_default_port_follows_backend(backend: str, port: int) -> None:
    assert config({"connection": {"backend": backend}}).connection.port == port


def test_source_options_carry_everything() -> None:
    c = config(
        {
            "connection": {"available_schemas": ["shop", "shop.sales"], "port": 6000, "tls": {"mode": "require"}},
            "instance": {"schema": "shop.sales", "batch_window_ms": 50, "instance_size": "small"},
            "tables": {
                "include": ["public.*"],
                "exclude": ["audit_*"],
                "columns": {"public.users": {"exclude": ["password_hash"]}, "public.x": {}},
            },
        }
    )
    as_text = frozenset({(TableId("public", "users"), "amount")})
    options = c.source_options(as_text=as_text)
    assert (options.database, options.schema, options.host, options.port) == ("shop", "sales", "db.example", 6000)
    assert (options.user, options.password, options.instance) == ("reflex", Secret("hunter2-secret"), "shop-live")
    assert (options.include, options.exclude) == (("public.*",), ("audit_*",))
    assert options.exclude_columns == {"public.users": ("password_hash",)}
    assert options.as_text == as_text
    assert options.batch_window == 0.05
    assert options.batch_bytes == SIZES["small"].batch_bytes
    assert options.tls.mode == "require"


def test_mysql_database_keeps_its_dot() -> None:
    c = config({"connection": {"backend": "mysql", "available_schemas": ["my.db"]}})
    assert (c.database, c.source_schema) == ("my.db", None)


def test_environment_anywhere_in_a_string_and_its_escape() -> None:
    c = config(
        {"connection": {"host": "${HOST}.internal", "port": "${PORT}", "user": "$${literal}${HOST}"}},
        HOST="db",
        PORT="6543",
    )
    assert (c.connection.host, c.connection.port, c.connection.user) == ("db.internal", 6543, "${literal}db")


def test_a_value_from_the_environment_is_never_parsed_as_yaml() -> None:
    c = config({"connection": {"password": "${PW}"}}, PW="a: b\n#'\"${HOME}")
    assert c.connection.password.reveal() == "a: b\n#'\"${HOME}"


def test_every_missing_variable_is_named_with_its_field() -> None:
    found = problems(
        {"connection": {"password": "${PW}"}, "http": {"token": "${TOK}"}, "tables": {"include": ["${T}"]}}
    )
    assert set(found) == {"connection.password", "http.token", "tables.include[0]"}
    assert "PW is not set" in found["connection.password"]
    assert "TOK is not set" in found["http.token"]


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        {
            "connection": {"host": None, "port": 70000, "backend": "postgres"},
            "instance": {"sync_interval": 4, "sync_mode": "binlog", "schema": "other", "batch_window_ms": 0},
            "http": {"host": "0.0.0.0"},
        }
    )
    assert set(found) == {
        "connection.host",
        "connection.port",
        "instance.sync_interval",
        "instance.sync_mode",
        "instance.schema",
        "instance.batch_window_ms",
        "http.token",
    }
    assert "from 5 to 3600" in found["instance.sync_interval"]
    assert "poll, logical, auto" in found["instance.sync_mode"]
    assert "shop" in found["instance.schema"]


@pytest.mark.parametrize(
    ("changes", "field", "meant"),
    [
        ({"instance": {"syncMode": "poll"}}, "instance.syncMode", "sync_mode"),
        ({"connection": {"hostname": "x"}}, "connection.hostname", "host"),
        ({"connection": {"tls": {"mod": "x"}}}, "connection.tls.mod", "mode"),
        ({"tables": {"columns": {"a.b": {"excludes": []}}}}, "tables.columns.a.b.excludes", "exclude"),
        ({"instances": {}}, "instances", "instance"),
    ],
)
def test_unknown_fields_are_refused_with_a_suggestion(changes: dict[str, Any], field: str, meant: str) -> None:
    assert f"did you mean {meant}?" in problems(changes)[field]


def test_unknown_field_like_none_lists_the_known_ones() -> None:
    assert "path" in problems({"replica": {"zzz": 1}})["replica.zzz"]


@pytest.mark.parametrize(
    ("backend", "mode", "fits"),
    [
        (backend, mode, mode in {"auto", "poll", own})
        for backend, own in (("mysql", "binlog"), ("postgres", "logical"), ("mssql", "cdc"))
        for mode in ("auto", "poll", "binlog", "logical", "cdc")
    ],
)
def test_sync_mode_must_fit_the_backend(backend: str, mode: str, fits: bool) -> None:
    changes = {"connection": {"backend": backend}, "instance": {"sync_mode": mode}}
    if fits:
        assert config(changes).instance.sync_mode == mode
    else:
        assert set(problems(changes)) == {"instance.sync_mode"}


def test_schema_is_required_among_several() -> None:
    assert "is required" in problems({"connection": {"available_schemas": ["a", "b"]}})["instance.schema"]


@pytest.mark.parametrize("entry", [".sales", "shop.", ""])
def test_malformed_available_schema(entry: str) -> None:
    assert "connection.available_schemas[0]" in problems({"connection": {"available_schemas": [entry, "shop"]}})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "db.example"])
def test_token_is_required_off_loopback(host: str) -> None:
    assert "http.token" in problems({"http": {"host": host}})
    assert "http.token" in problems({"http": {"host": host, "token": "${EMPTY}"}}, EMPTY="")
    assert config({"http": {"host": host, "token": "t0ken"}}).token == "t0ken"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert config({"http": {"host": host}}).token is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("sync_interval", 30.5), ("sync_interval", True), ("batch_window_ms", "x"), ("binlog_server_id", 2**32)],
)
def test_whole_numbers_only(field: str, value: object) -> None:
    assert set(problems({"instance": {field: value}})) == {f"instance.{field}"}


def test_password_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "pw"
    secret.write_text("pass word\n")
    c = config({"connection": {"password": None, "password_file": str(secret)}})
    assert c.connection.password.reveal() == "pass word"
    assert "pass word" not in repr(c)


def test_password_file_that_is_missing(tmp_path: Path) -> None:
    found = problems({"connection": {"password": None, "password_file": str(tmp_path / "none")}})
    assert "No such file" in found["connection.password_file"]


def test_only_one_password() -> None:
    assert "connection.password_file" in problems({"connection": {"password_file": "x"}})


def test_tls_files_and_pairs(tmp_path: Path) -> None:
    found = problems({"connection": {"tls": {"mode": "verify-full", "ca": str(tmp_path / "ca.pem"), "cert": "c.pem"}}})
    assert set(found) == {"connection.tls.ca", "connection.tls.cert", "connection.tls.key"}


def test_no_secret_shows_itself() -> None:
    c = config({"http": {"token": "tok-hunter2"}})
    shown = repr(c) + str(c) + c.model_dump_json() + repr(c.model_dump()) + repr(c.source_options())
    assert "hunter2" not in shown
    assert {s.reveal() for s in c.secrets} == {"hunter2-secret", "tok-hunter2"}


@pytest.mark.parametrize(
    "text",
    [
        "connection: {password: *hunter2}",
        "connection: {password: @hunter2}",
        "connection:\n\tpassword: hunter2",
        "connection: {password: !hunter2 x}",
        "connection: {password: 'hunter2",
        'connection: {password: "\\hunter2"}',
    ],
)
def test_yaml_errors_give_the_place_and_not_the_text(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, environ={})
    assert "hunter2" not in str(caught.value)
    assert "line" in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"port: is there twice \(line 3\)"):
        parse_config("connection:\n  port: 1\n  port: 2\n", environ={})


@pytest.mark.parametrize("text", ["", "[]", "just text", "1"])
def test_not_a_mapping(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        parse_config(text, environ={})


def test_environment_variable_holds_text_or_path(tmp_path: Path) -> None:
    text = json.dumps(MINIMAL)
    file = tmp_path / "reflex.yaml"
    file.write_text(text)
    for given in (text, str(file), json.dumps(MINIMAL, indent=2)):
        assert load_config(environ={"REFLEX_CONFIG": given}).instance.name == "shop-live"
    assert load_config(file, environ={}).instance.name == "shop-live"


def test_file_wins_over_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "reflex.yaml"
    file.write_text(json.dumps(merged({"instance": {"name": "from-file"}})))
    assert load_config(file, environ={"REFLEX_CONFIG": json.dumps(MINIMAL)}).instance.name == "from-file"


def test_no_configuration_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="REFLEX_CONFIG"):
        load_config(environ={})
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "nothing.yaml", environ={})


def test_sizes_leave_python_its_share() -> None:
    previous = 0
    for size in SIZES.values():
        assert size.duckdb_bytes + 160 * 2**20 + 4 * size.batch_bytes <= size.memory_bytes
        assert size.duckdb_bytes > previous
        assert 1 <= size.threads(cores=2) <= 2
        previous = size.duckdb_bytes
    assert SIZES["nano"].duckdb_bytes == pytest.approx(200 * 2**20, rel=0.1)
    assert SIZES["2xlarge"].threads(cores=64) == 8


def test_a_reference_that_is_not_closed() -> None:
    assert "not closed" in problems({"connection": {"user": "a${NOPE"}})["connection.user"]
    assert config({"connection": {"user": "a$${NOPE"}}).connection.user == "a${NOPE"
