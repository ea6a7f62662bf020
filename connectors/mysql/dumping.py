"""How a dump begins and why it was refused: server ids, purged logs, and the catalog that a stream asks."""

from __future__ import annotations

import time
from collections.abc import Collection

from connectors.mysql import history
from connectors.mysql.binlog import Refused
from connectors.mysql.cascades import Cascades, read_cascades
from connectors.mysql.connection import Connection, Connections
from connectors.mysql.failures import BINLOG_FATAL, DRIVER_ERRORS, PRIVILEGE_NEEDED, number_of, server_error
from connectors.mysql.gtids import GtidSet
from connectors.mysql.layouts import Described
from connectors.mysql.position import BinlogPosition
from connectors.mysql.receiver import Dump, Receiver
from connectors.mysql.selection import look_up
from engine.errors import EngineError, PreconditionError, ResyncRequired, TransientError
from engine.schema import TableId
from engine.source import SourceOptions

SAME_SERVER_ID = 4052
"""MariaDB's own number for it (ER_SLAVE_SAME_ID)."""
IN_USE_PATIENCE = 6.0
"""Seconds for which a replica under our server id may still be known to the server after its connection has died."""
_CLASH_REMEDY = "Give every replica of the server an id of its own: `instance.binlog_server_id`."


class Dumping:
    """One dump: begins it, looks up tables for it over a connection of its own, and says why the server ended it.

    `followed` are the tables that are replicated already. `proven` names the server in whose log the file and offset of `after` are known to be what was read to there.
    """

    def __init__(
        self,
        connections: Connections,
        options: SourceOptions,
        server_id: int,
        after: BinlogPosition,
        followed: Collection[TableId] = (),
        proven: str | None = None,
    ) -> None:
        self._connections = connections
        self._proven = proven
        self._options = options
        self._server_id = server_id
        self._after = after
        self._followed = frozenset(followed)
        self._connection: Connection | None = None

    def begin(self, capacity: int) -> Receiver:
        """Start to receive, once no one else streams under our server id (one who has just died is waited for)."""
        if self._options.server_id is not None:
            self._wait_until_free()
        doing = "streaming the binary log"
        connection = self._connections.open(doing)
        try:
            # Asked of the very connection that reads the log: behind a proxy, another one may reach another server.
            with self._connections.translated(doing):
                node = history.look(connection)
        except BaseException:
            self._connections.release(connection)
            raise
        dump = dump_of(self._after, node, by_place=node.name == self._proven)
        return Receiver(connection, dump, self._server_id, f"reflex:{self._options.instance}", capacity)

    def describe(self, table: TableId) -> Described | None:
        """The table in the catalog of now; see `connectors.mysql.layouts.Describe`."""
        connection = self._asking()
        with self._connections.translated(f"looking up the definition of {table}"):
            found = look_up(connection, self._options, table, self._followed)
        return None if found is None else Described(found.schema, found.definitions)

    def cascades(self) -> Cascades:
        """What foreign keys change that is not in the log, as of now."""
        connection = self._asking()
        with self._connections.translated("looking up foreign keys"):
            return read_cascades(connection, self._options.database)

    def refused(self, refusal: Refused) -> EngineError:
        """The error for the packet with which the server ended the dump.

        Number 1236 stands for many things. What the server itself still has and who else is connected decides first;
        its text only where that does not tell.
        """
        doing = "streaming the binary log"
        if refusal.number == SAME_SERVER_ID:
            return self._clash()
        if refusal.number != BINLOG_FATAL:
            return server_error(refusal.number, refusal.message, doing)
        try:
            node = self._look()
            with self._connections.translated(doing):
                state = history.resume_state(self._asking(), node, self._after, history.History.of(node))
            clash = self._taken()
        except EngineError as error:
            return error
        text = refusal.message.lower()
        if clash or "server_uuid/server_id" in text:
            return self._clash()
        if state.position is None:
            return ResyncRequired(state.reason)
        if any(word in text for word in ("gtid", "purged", "could not find")):
            return ResyncRequired(f"the server cannot continue at the replica's position: {refusal.message[:300]}")
        return TransientError(f"{doing}: {refusal.message[:300]} (error {refusal.number})")

    def close(self) -> None:
        """Close the connection that was used for looking things up."""
        if self._connection is not None:
            self._connections.release(self._connection)
            self._connection = None

    def _clash(self) -> PreconditionError:
        return PreconditionError(f"another replica of the server uses server id {self._server_id}.", _CLASH_REMEDY)

    def _asking(self) -> Connection:
        if self._connection is None:
            self._connection = self._connections.open("looking up a table's definition")
        return self._connection

    def _look(self) -> history.Node:
        connection = self._asking()
        with self._connections.translated("asking the server who it is"):
            return history.look(connection)

    def _wait_until_free(self) -> None:
        deadline = time.monotonic() + IN_USE_PATIENCE
        while self._taken():
            if time.monotonic() > deadline:
                raise self._clash()
            time.sleep(0.2)

    def _taken(self) -> bool:
        """Whether a replica with our server id is connected, as far as the server tells us (MariaDB may not)."""
        connection = self._asking()
        with self._connections.translated("asking the server for its replicas"):
            try:
                rows = connection.rows("SHOW SLAVE HOSTS" if connection.server.mariadb else "SHOW REPLICAS")
            except DRIVER_ERRORS as error:
                if number_of(error) == PRIVILEGE_NEEDED:
                    return False
                raise
        return any(int(row["Server_id" if "Server_id" in row else "Server_Id"]) == self._server_id for row in rows)


def dump_of(after: BinlogPosition, node: history.Node, *, by_place: bool = False) -> Dump:
    """How to ask a server for everything behind a position.

    `by_place`: by its file and offset even if it has GTIDs. To find the place of GTIDs, a server reads the file from its
    beginning, which takes about a second for each GB.
    """
    if by_place and after.file and not after.offset >> 32:
        return Dump(node.mariadb, after.file, after.offset)
    if node.mariadb:
        if after.gtids is None:
            return Dump(True, after.file, after.offset)
        return Dump(True, connect_state=str(after.gtids))
    if isinstance(after.gtids, GtidSet):
        return Dump(False, gtids=after.gtids.encode())
    return Dump(False, after.file, after.offset)
