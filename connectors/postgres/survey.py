"""What a PostgreSQL server offers to a user: its databases, and whether TLS is why it cannot be reached."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Final

from connectors.postgres.connection import Connections, fetch
from engine.errors import TlsFailed, TlsRefused, TransientError
from engine.source import SourceOptions, Survey

_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
"""Length and code of SSLRequest (protocol documentation, "Message Formats")."""

_DATABASES = """
SELECT datname, pg_catalog.pg_database_size(oid)::int8 FROM pg_catalog.pg_database
WHERE datallowconn AND NOT datistemplate AND pg_catalog.has_database_privilege(oid, 'CONNECT') ORDER BY datname
"""


def survey(options: SourceOptions) -> Survey:
    """The databases that the user may connect to. `options.database` is the one to ask in."""
    connections = Connections(options)
    try:
        with connections.session("looking at the server") as connection:
            return Survey(dict(fetch(connection, _DATABASES)))
    except TransientError:
        # libpq says only by its text that TLS is the reason, so the server is asked.
        if options.tls.mode in {"require", "verify-ca", "verify-full"}:
            _handshake(options)
        raise
    finally:
        connections.close()


def _handshake(options: SourceOptions) -> None:
    """Raise TlsRefused or TlsFailed if TLS itself is what does not work."""
    tls = options.tls
    try:
        with socket.create_connection((options.host, options.port), options.connect_timeout) as tcp:
            tcp.sendall(_SSL_REQUEST)
            if tcp.recv(1) != b"S":
                raise TlsRefused("the server offers no TLS", "Switch it on there (ssl = on), or allow to go without.")
            context = ssl.create_default_context(cafile=tls.ca)
            # As libpq, whose check is the plain one.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            context.check_hostname = tls.mode == "verify-full"
            verified = tls.mode != "require" or tls.ca is not None
            context.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
            context.wrap_socket(tcp, server_hostname=options.host).close()
    except ssl.SSLCertVerificationError:
        raise TlsRefused(
            "the server's certificate was refused", "Name its authority, and the host as it does."
        ) from None
    except ssl.SSLError as error:
        raise TlsFailed(f"TLS failed ({error.reason or 'the connection was closed'})") from None
    except OSError:
        return
