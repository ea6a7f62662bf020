"""Fixtures: real PostgreSQL, MySQL and MariaDB servers, by version; SQL Server, or the emulator of it.

``--pg=15,17`` chooses the versions that `postgres_any` runs over (default: all); `postgres` is the first of them.
``--mysql=mysql-9.7,mariadb-10.11`` does so for `mysql_any`; `mysql` and `mariadb` are the first of their flavour. A
version that is missing skips its tests on a developer's machine and fails them under ``CI=true``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import hypothesis
import pytest

from tests.support.scheduling import Groups
from tests.support.servers import (
    DEFAULT_FLAVOURS,
    DEFAULT_VERSIONS,
    Database,
    MySqlDatabase,
    MySqlPool,
    MySqlServer,
    PostgresServer,
    ServerPool,
    SqlServer,
    SqlServerDatabase,
    SqlServerPool,
)
from tests.support.servers.sqlserver_server import require_known

# A busy machine makes an example slow, not wrong. CI repeats itself: a failure there is the change's.
hypothesis.settings.register_profile(
    "developer", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("developer"), derandomize=True, database=None
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "developer")


FEWER_SERVERS = frozenset(
    {
        "tests/faults/test_mysql_sysbench.py",
        "tests/integration/test_mysql_dates.py",
        "tests/integration/test_mysql_ddl.py",
        "tests/integration/test_mysql_engine.py",
        "tests/integration/test_mysql_engine_history.py",
        "tests/integration/test_mysql_left_out.py",
        "tests/integration/test_poll_engine.py",
        "tests/unit/test_support_compare_mysql.py",
        "tests/unit/test_support_mysql_servers.py",
        "tests/unit/test_support_sysbench.py",
    }
)
"""Modules that run an engine, or a server, for each test: what differs from version to version is told by the tests of the
connector."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Tests that share something run in one process."""
    return Groups(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pg",
        default=",".join(map(str, DEFAULT_VERSIONS)),
        help="PostgreSQL major versions to test against, separated by commas; the first is the default one",
    )
    parser.addoption(
        "--mysql",
        default=",".join(DEFAULT_FLAVOURS),
        help="MySQL and MariaDB servers to test against, like mysql-9.7,mariadb-10.11 (with Docker: any version)",
    )
    parser.addoption(
        "--everything",
        action="store_true",
        help="whole engines on every one of these servers, not just the first and the last",
    )


def _versions(config: pytest.Config) -> list[int]:
    text = str(config.getoption("--pg"))
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        message = f"--pg: major versions separated by commas are expected, not {text!r}"
        raise pytest.UsageError(message) from None


def _flavours(config: pytest.Config) -> list[str]:
    names = str(config.getoption("--mysql")).split(",")
    if not all(name.startswith(("mysql-", "mariadb-")) for name in names):
        message = "--mysql: names like mysql-9.7 and mariadb-10.11, separated by commas, are expected"
        raise pytest.UsageError(message)
    return names


def _flavour(config: pytest.Config, flavour: str) -> str:
    """The first server of one flavour; its default one when the option names none of it."""
    names = [*_flavours(config), *DEFAULT_FLAVOURS]
    return next(name for name in names if name.startswith(f"{flavour}-"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_version" in metafunc.fixturenames:
        versions = _versions(metafunc.config)
        if not {"postgres_any", "postgres_server_any", "private_postgres_any"} & set(metafunc.fixturenames):
            versions = versions[:1]
        metafunc.parametrize("postgres_version", versions, ids=[f"pg{v}" for v in versions], scope="session")
    if "mysql_flavour" in metafunc.fixturenames:
        names = _flavours(metafunc.config)
        module = metafunc.definition.nodeid.partition("::")[0]
        if module in FEWER_SERVERS and not metafunc.config.getoption("--everything"):
            names = [name for name in names if name in (names[0], names[-1])]
        metafunc.parametrize("mysql_flavour", names, scope="session")


def _unavailable(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def server_pool() -> Iterator[ServerPool]:
    """The session's shared servers, one per version, started when first asked for."""
    with ServerPool() as pool:
        yield pool


def _shared(pool: ServerPool, version: int) -> PostgresServer:
    missing = pool.missing(version)
    if missing:
        _unavailable(missing)
    return pool.shared(version)


@pytest.fixture(scope="session")
def postgres_server(server_pool: ServerPool, pytestconfig: pytest.Config) -> PostgresServer:
    """The shared server of the default version. Do not stop or reconfigure it: see `private_postgres`."""
    return _shared(server_pool, _versions(pytestconfig)[0])


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[Database]:
    """A fresh database on the shared server of the default version."""
    yield from _fresh(postgres_server)


@pytest.fixture(scope="session")
def postgres_server_any(server_pool: ServerPool, postgres_version: int) -> PostgresServer:
    """The shared server of each version in turn. Do not stop or reconfigure it."""
    return _shared(server_pool, postgres_version)


@pytest.fixture
def postgres_any(postgres_server_any: PostgresServer) -> Iterator[Database]:
    """A fresh database on each version in turn."""
    yield from _fresh(postgres_server_any)


@pytest.fixture
def private_postgres(make_postgres: Callable[..., PostgresServer]) -> PostgresServer:
    """A server of the default version of the test's own, to stop, kill, freeze, restart and reconfigure."""
    return make_postgres()


@pytest.fixture
def private_postgres_any(make_postgres: Callable[..., PostgresServer], postgres_version: int) -> PostgresServer:
    """A server of the test's own, of each version in turn."""
    return make_postgres(postgres_version)


@pytest.fixture
def make_postgres(
    server_pool: ServerPool, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> Iterator[Callable[..., PostgresServer]]:
    """Make started servers of the test's own: ``make_postgres(version=None, fsync=False, settings={...})``."""
    made: list[PostgresServer] = []

    def make(
        version: int | None = None, *, fsync: bool = False, settings: Mapping[str, object] | None = None
    ) -> PostgresServer:
        wanted = version or _versions(pytestconfig)[0]
        missing = server_pool.missing(wanted)
        if missing:
            _unavailable(missing)
        server = server_pool.private(wanted, fsync=fsync, settings=settings)
        made.append(server)
        return server

    yield make
    for server in made:
        if _failed(request.node):
            request.node.add_report_section("teardown", "server log", server.log_text()[-20_000:])
        server.close()


def _fresh(server: PostgresServer) -> Iterator[Database]:
    database = server.create_database()
    yield database
    database.drop()


@pytest.fixture(scope="session")
def mysql_pool() -> Iterator[MySqlPool]:
    """The session's shared MySQL and MariaDB servers, started when first asked for."""
    with MySqlPool() as pool:
        yield pool


def _shared_mysql(pool: MySqlPool, name: str) -> MySqlServer:
    missing = pool.missing(name)
    if missing:
        _unavailable(missing)
    return pool.shared(name)


@pytest.fixture(scope="session")
def mysql_server(mysql_pool: MySqlPool, pytestconfig: pytest.Config) -> MySqlServer:
    """The shared MySQL. Do not stop or reconfigure it: see `make_mysql`."""
    return _shared_mysql(mysql_pool, _flavour(pytestconfig, "mysql"))


@pytest.fixture(scope="session")
def mariadb_server(mysql_pool: MySqlPool, pytestconfig: pytest.Config) -> MySqlServer:
    """The shared MariaDB. Do not stop or reconfigure it: see `make_mysql`."""
    return _shared_mysql(mysql_pool, _flavour(pytestconfig, "mariadb"))


@pytest.fixture(scope="session")
def mysql_server_any(mysql_pool: MySqlPool, mysql_flavour: str) -> MySqlServer:
    """Each MySQL and MariaDB in turn, shared. Do not stop or reconfigure it."""
    return _shared_mysql(mysql_pool, mysql_flavour)


@pytest.fixture
def mysql(mysql_server: MySqlServer) -> Iterator[MySqlDatabase]:
    """A fresh database on the shared MySQL."""
    yield from _fresh_mysql(mysql_server)


@pytest.fixture
def mariadb(mariadb_server: MySqlServer) -> Iterator[MySqlDatabase]:
    """A fresh database on the shared MariaDB."""
    yield from _fresh_mysql(mariadb_server)


@pytest.fixture
def mysql_any(mysql_server_any: MySqlServer) -> Iterator[MySqlDatabase]:
    """A fresh database on each MySQL and MariaDB in turn."""
    yield from _fresh_mysql(mysql_server_any)


@pytest.fixture
def private_mysql(make_mysql: Callable[..., MySqlServer]) -> MySqlServer:
    """A MySQL of the test's own, to stop, kill, freeze, restart and reconfigure."""
    return make_mysql("mysql")


@pytest.fixture
def private_mysql_any(make_mysql: Callable[..., MySqlServer], mysql_flavour: str) -> MySqlServer:
    """A server of the test's own, of each MySQL and MariaDB in turn."""
    return make_mysql(mysql_flavour)


@pytest.fixture
def make_mysql(
    mysql_pool: MySqlPool, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> Iterator[Callable[..., MySqlServer]]:
    """Make started servers of the test's own: ``make_mysql(name="mysql", fsync=False, settings={...})``.

    `name` is a server's, like ``mariadb-11.8``, or a flavour (its first one). A setting of None is left out.
    """
    made: list[MySqlServer] = []

    def make(name: str = "mysql", *, fsync: bool = False, settings: Mapping[str, object] | None = None) -> MySqlServer:
        wanted = name if "-" in name else _flavour(pytestconfig, name)
        missing = mysql_pool.missing(wanted)
        if missing:
            _unavailable(missing)
        server = mysql_pool.private(wanted, fsync=fsync, settings=settings)
        made.append(server)
        return server

    yield make
    for server in made:
        if _failed(request.node):
            request.node.add_report_section("teardown", "server log", server.log_text()[-20_000:])
        server.close()


def _fresh_mysql(server: MySqlServer) -> Iterator[MySqlDatabase]:
    database = server.create_database()
    yield database
    database.drop()


@pytest.fixture(scope="session")
def sqlserver_pool() -> Iterator[SqlServerPool]:
    """The session's shared SQL Server, started when first asked for: Microsoft's image, or the emulator."""
    with SqlServerPool() as pool:
        yield pool


@pytest.fixture(scope="session")
def sqlserver_server(sqlserver_pool: SqlServerPool) -> SqlServer:
    """The shared SQL Server. Do not stop or reconfigure it: see `private_sqlserver`."""
    return sqlserver_pool.shared("sqlserver")


@pytest.fixture
def sqlserver(sqlserver_server: SqlServer) -> Iterator[SqlServerDatabase]:
    """A fresh database on the shared SQL Server, with snapshot isolation and without CDC."""
    database = sqlserver_server.create_database()
    yield database
    database.drop()
    require_known(sqlserver_server)


@pytest.fixture
def private_sqlserver(sqlserver_pool: SqlServerPool) -> Iterator[SqlServer]:
    """A SQL Server of the test's own, to stop, freeze, restart and reconfigure."""
    server = sqlserver_pool.private("sqlserver")
    yield server
    server.close()
    require_known(server)


_FAILED = pytest.StashKey[bool]()


def _failed(node: pytest.Item) -> bool:
    return node.stash.get(_FAILED, False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        if call.when != "teardown":
            _add_server_logs(item, report)
    return report


def _add_server_logs(item: pytest.Item, report: pytest.TestReport) -> None:
    """Show the end of the log of every server that the failed test used."""
    arguments: Mapping[str, object] = getattr(item, "funcargs", {})
    used = [
        argument.server if isinstance(argument, (Database, MySqlDatabase, SqlServerDatabase)) else argument
        for argument in arguments.values()
    ]
    for server in {id(server): server for server in used}.values():
        if isinstance(server, PostgresServer):
            report.sections.append((f"log of PostgreSQL {server.version}", server.log_text()[-4000:]))
        elif isinstance(server, MySqlServer | SqlServer):
            report.sections.append((f"log of {server.name}", server.log_text()[-4000:]))
