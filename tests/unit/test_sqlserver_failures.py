"""The driver's errors as the engine's, by number."""

from __future__ import annotations

import pymssql
import pytest

from connectors.sqlserver.connection import Connections
from connectors.sqlserver.failures import number_of, translate
from engine.errors import (
    DatabaseUnknown,
    EngineError,
    LoginRefused,
    PreconditionError,
    TlsRefused,
    TransientError,
    directive,
)
from engine.source import Secret, SourceOptions, Tls

OPTIONS = SourceOptions("127.0.0.1", 1, "reflex", Secret("hush"), "shop", connect_timeout=1.0)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (18456, LoginRefused),
        (4060, DatabaseUnknown),
        (208, PreconditionError),
        (229, PreconditionError),
        (1205, TransientError),
        (1222, TransientError),
        (40613, TransientError),
        (20003, TransientError),
        (20009, TransientError),
        (99999, PreconditionError),
    ],
)
def test_numbers_decide(number: int, kind: type[EngineError]) -> None:
    for error in (pymssql.OperationalError(number, b"text"), pymssql.OperationalError((number, b"text"))):
        assert number_of(error) == number
        assert type(translate(error, "trying")) is kind
        assert directive(translate(error, "trying")).remedy


def test_a_lost_connection_has_no_number() -> None:
    assert type(translate(pymssql.InterfaceError("Connection is closed."), "trying")) is TransientError


def test_texts_that_may_quote_values_are_left_out() -> None:
    error = pymssql.OperationalError(
        (2627, b"Violation. The duplicate key value is (secret).DB-Lib error message 20018")
    )
    assert "secret" not in str(translate(error, "trying"))
    told = pymssql.OperationalError(
        (208, b"Invalid object name 'cdc.x'.DB-Lib error message 20018, severity 16:\nGeneral")
    )
    assert str(translate(told, "trying")) == "trying: Invalid object name 'cdc.x'. (error 208)"


def test_a_server_that_is_not_there_is_transient() -> None:
    with pytest.raises(TransientError, match=r"connecting: the connection to 127\.0\.0\.1:1 failed"):
        Connections(OPTIONS).open("connecting")


@pytest.mark.parametrize("tls", [Tls("verify-full"), Tls("verify-ca"), Tls("require", ca="/ca.pem")])
def test_a_certificate_that_cannot_be_verified_is_not_passed_over(tls: Tls) -> None:
    options = SourceOptions("127.0.0.1", 1, "reflex", Secret("hush"), "shop", tls=tls)
    with pytest.raises(TlsRefused, match="cannot verify"):
        Connections(options).open("connecting")


def test_a_closed_source_opens_nothing() -> None:
    connections = Connections(OPTIONS)
    connections.close()
    with pytest.raises(TransientError, match="closed"):
        connections.open("connecting")
