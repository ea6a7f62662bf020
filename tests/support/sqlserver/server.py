"""The listener: a thread per connection, the capture jobs' thread, and what tests do to a server."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import socket
import threading
import time
from collections.abc import Iterator

from tests.support.sqlserver import capture, cdc, tokens
from tests.support.sqlserver.catalog import Principal
from tests.support.sqlserver.errors import Cancelled, Disconnected, SqlError, Unknown
from tests.support.sqlserver.interpreter import run
from tests.support.sqlserver.packets import (
    ATTENTION,
    BATCH,
    LOGIN,
    PRELOGIN,
    RPC,
    Channel,
    Login,
    RpcReader,
    prelogin_response,
    read_login,
    without_headers,
)
from tests.support.sqlserver.procedures import execute
from tests.support.sqlserver.response import Response
from tests.support.sqlserver.session import Session
from tests.support.sqlserver.store import Database
from tests.support.sqlserver.transactions import abort
from tests.support.sqlserver.types import FLOAT, INT, MAX, SqlType

_OLDEST = 0x730A0003


class Emulator:
    """A server on loopback. `unknown` lists what it was asked for and does not know."""

    host = "127.0.0.1"

    def __init__(self, password: str, port: int = 0) -> None:
        self.port = port
        self.logins = {"sa": password}
        self.unknown: list[str] = []
        self.clock_offset = dt.timedelta()
        self.capture_running = True
        self.capture_delay = 0.0
        self.capture_limit = 500
        self.scan_interval = 0.05
        self.scan_duration = 0.0
        """Seconds between the moment up to which a scan reads the log and the one at which it has shown what it read."""
        self.failing_jobs: set[str] = set()
        """Databases whose scans end with an error."""
        self.databases: dict[str, Database] = {}
        self._stopped_jobs: set[str] = set()
        self._sessions: dict[Session, Channel] = {}
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._spid = 50
        self._closing = threading.Event()
        self._gate = threading.Event()
        self._gate.set()
        for name in ("master", "tempdb", "model", "msdb"):
            self.add_database(name)

    def clock(self) -> dt.datetime:
        """The server's time: UTC, moved by `clock_offset`."""
        return dt.datetime.now(dt.UTC).replace(tzinfo=None) + self.clock_offset

    # Databases

    def add_database(self, name: str) -> Database:
        """CREATE DATABASE; error 1801 for one that there is."""
        if name.lower() in self.databases:
            raise SqlError(1801, f"Database '{name}' already exists. Choose a different database name.", 16, 3)
        number = max((one.id for one in self.databases.values()), default=0) + 1
        database = Database(name, number, self.clock)
        self.databases[name.lower()] = database
        return database

    def remove_database(self, name: str, session: Session | None = None) -> None:
        """DROP DATABASE; error 3702 while somebody uses it."""
        database = self.databases.get(name.lower())
        if database is None:
            raise SqlError(3701, f"Cannot drop the database '{name}', because it does not exist.", 11)
        if any(one.database is database for one in self.sessions()):
            raise SqlError(3702, f'Cannot drop database "{name}" because it is currently in use.', 16, 3)
        with database.mutex:
            database.dropped = True
            del self.databases[name.lower()]
        database.close()

    def may_enter(self, login: str, name: str) -> bool:
        """Whether a login has a user in a database."""
        database = self.databases.get(name.lower())
        if database is None:
            return False
        everybody = login == "sa" or database.id <= 4
        return everybody or any(one.login.lower() == login.lower() for one in database.users.values())

    def add_user(self, database: str, login: str, *roles: str) -> None:
        """A user of a database for a login, in roles."""
        users = self.databases[database.lower()].users
        users[login] = Principal(login, max(5, *(one.id for one in users.values())) + 1, login, set(roles))

    # Running

    def start(self) -> None:
        """Listen, and run the capture jobs. The data of an earlier run are there."""
        if self._listener is not None:
            return
        self._closing.clear()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        for target in (self._accept, self._capture):
            thread = threading.Thread(target=target, args=(listener,) if target == self._accept else (), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Refuse and end all connections; open transactions are rolled back."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._closing.set()
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        listener.close()
        self.kill_connections()
        for thread in self._threads:
            thread.join(10)
        self._threads.clear()
        deadline = time.monotonic() + 10
        while self.sessions() and time.monotonic() < deadline:
            time.sleep(0.01)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Connections stay open, and nothing answers."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def close(self) -> None:
        """Stop, and forget the data."""
        self.stop()
        for database in self.databases.values():
            database.close()
        self.databases.clear()

    @property
    def running(self) -> bool:
        return self._listener is not None

    def sessions(self) -> list[Session]:
        with self._lock:
            return list(self._sessions)

    def kill(self, spid: int) -> None:
        """KILL: end one connection. Error 6106 for none of that number."""
        with self._lock:
            channels = [channel for session, channel in self._sessions.items() if session.spid == spid]
        if not channels:
            raise SqlError(6106, f"Process ID {spid} is not an active process ID.")
        channels[0].close()

    def kill_connections(self, login: str | None = None) -> int:
        """End the connections of a login, or all; returns how many."""
        with self._lock:
            channels = [channel for session, channel in self._sessions.items() if login in (None, session.login)]
        for channel in channels:
            channel.close()
        return len(channels)

    # Capture jobs

    def run_capture_job(self, database: str, *, run: bool) -> None:
        """Start or stop the capture job of one database; when this returns, no scan is under way."""
        with self.databases[database.lower()].mutex:
            (self._stopped_jobs.discard if run else self._stopped_jobs.add)(database.lower())

    def _capture(self) -> None:
        while not self._closing.wait(self.scan_interval):
            for name, database in list(self.databases.items()):
                self._gate.wait()
                with database.mutex:
                    if not self._captures(name, database) or self._too_early(database):
                        continue
                    upto = capture.begin(database)
                if self.scan_duration:
                    self._closing.wait(self.scan_duration)
                with database.mutex:
                    if self._captures(name, database):
                        self._scan(name, database, upto)

    def _captures(self, name: str, database: Database) -> bool:
        stopped = not self.capture_running or name in self._stopped_jobs
        return not stopped and not database.dropped and database.cdc is not None

    def _scan(self, name: str, database: Database, upto: int) -> None:
        if name in self.failing_jobs:
            capture.fail(database)
            return
        cursor = database.cursor()
        try:
            capture.scan(database, cursor, self.capture_limit, upto)
        except Exception as error:
            self.unknown.append(f"the capture job: {type(error).__name__}: {error}")
            self._stopped_jobs.add(name)
        finally:
            cursor.close()

    def _too_early(self, database: Database) -> bool:
        pending = [commit for commit in database.commits if commit.number > database.cdc.captured]
        if not pending or not self.capture_delay:
            return False
        return (self.clock() - pending[0].time).total_seconds() < self.capture_delay

    def captured(self, database: str) -> bool:
        """Whether the capture job has passed everything that was committed."""
        found = self.databases[database.lower()]
        with found.mutex:
            state = found.cdc
            return state is None or all(commit.number <= state.captured for commit in found.commits)

    def clean_up(self, database: str, instance: str | None = None) -> bytes:
        """Clean change tables up to the last captured commit, whatever the retention; returns the new low end."""
        found = self.databases[database.lower()]
        with found.mutex, found.cursor() as cursor:
            state = cdc.required(found)
            low = cursor.execute(f"SELECT max(c1) FROM {state.mapping.stored}").fetchone()
            if low is None or low[0] is None:
                raise RuntimeError("nothing was captured yet")
            for one in state.instances:
                if instance in (None, one.name) and int.from_bytes(low[0], "big") >= one.start_lsn:
                    cdc.clean_up(found, cursor, one, low[0])
            return bytes(low[0])

    # Connections

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._spid += 1
            threading.Thread(
                target=self._serve, args=(Channel(connection, self._spid, self._gate), self._spid), daemon=True
            ).start()

    def _serve(self, channel: Channel, spid: int) -> None:
        session = None
        try:
            session = self._login(channel, spid)
            if session is not None:
                with self._lock:
                    self._sessions[session] = channel
                while True:
                    self._request(channel, session)
        except Disconnected:
            pass
        finally:
            channel.close()
            if session is not None:
                if session.database.name.lower() in self.databases:
                    abort(session, None)
                    session.cursor.close()
                with self._lock:
                    self._sessions.pop(session, None)

    def _login(self, channel: Channel, spid: int) -> Session | None:
        kind, data = channel.read()
        if kind == PRELOGIN:
            channel.write(prelogin_response())
            channel.flush()
            kind, data = channel.read()
        if kind != LOGIN:
            raise Disconnected
        login = read_login(data)
        response = Response(channel)
        try:
            session = self._session(login, spid)
        except SqlError as error:
            response.message(error)
            if error.number == 4060:
                response.message(SqlError(18456, f"Login failed for user '{login.user}'.", 14))
            response.done(error=True)
            response.finish()
            return None
        response.change(1, session.database.name, "master")
        response.message(SqlError(5701, f"Changed database context to '{session.database.name}'.", 0, 2))
        response.change(2, "us_english", "")
        response.change(7, tokens.COLLATION, b"")
        channel.write(tokens.login_ack())
        size = min(max(login.packet_size or 4096, 512), 32767)
        response.change(4, str(size), "4096")
        response.finish()
        channel.packet_size = size
        return session

    def _session(self, login: Login, spid: int) -> Session:
        if login.version < 0x04000073 and _OLDEST and (login.version >> 24) < 0x73 and (login.version & 0xFF) < 0x73:
            self.unknown.append(f"TDS version 0x{login.version:08X}")
            raise SqlError(17836, "The emulator speaks TDS 7.3 and 7.4 only.", 20)
        names = {name.lower(): name for name in self.logins}
        name = names.get(login.user.lower())
        if name is None or self.logins[name] != login.password:
            raise SqlError(18456, f"Login failed for user '{login.user}'.", 14)
        database = login.database or "master"
        if database.lower() not in self.databases or not self.may_enter(name, database):
            raise SqlError(4060, f'Cannot open database "{database}" requested by the login. The login failed.', 11)
        session = Session(self, spid, name, login.host, login.application)
        session.enter(database)
        return session

    def _request(self, channel: Channel, session: Session) -> None:
        kind, data = channel.read()
        response = Response(channel, procedure=kind == RPC)
        if kind == ATTENTION:
            response.finish(cancelled=True)
            return
        try:
            if kind == BATCH:
                run(session, without_headers(data).decode("utf-16-le"), response)
            elif kind == RPC:
                self._procedure(session, data, response)
            else:
                raise Unknown(f"a request of type 0x{kind:02X}")
        except Cancelled:
            if session.switches["xact_abort"]:
                abort(session, response)
            response.finish(cancelled=True)
            return
        except SqlError as error:
            if isinstance(error, Unknown):
                self.unknown.append(error.message)
            response.message(error)
            response.done(error=True)
        except Disconnected:
            raise
        except Exception as error:
            # A bug of the emulator's must fail the test that met it.
            self.unknown.append(f"{type(error).__name__}: {error}")
            response.message(SqlError(50001, re.sub(r"\s+", " ", f"emulator: {error}")[:2000], 16))
            response.done(error=True)
            if not isinstance(error, KeyError | ValueError | TypeError | AttributeError | IndexError | RuntimeError):
                raise
        response.in_transaction = session.level > 0
        response.finish()

    def _procedure(self, session: Session, data: bytes, response: Response) -> None:
        request = RpcReader(data)
        args = []
        for name, value in request.parameters:
            kind = SqlType("nvarchar", length=MAX)
            if isinstance(value, bytes):
                kind = SqlType("varbinary", length=MAX)
            elif isinstance(value, float):
                kind = FLOAT
            elif isinstance(value, int):
                kind = INT if abs(value) < 2**31 else SqlType("bigint")
            args.append((name.lower() or None, None if value is None else (value, kind)))
        session.variables, session.response, session.text = {}, response, request.name
        execute(session, session.parse_name(request.name), args, response)
