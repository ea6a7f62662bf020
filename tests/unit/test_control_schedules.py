"""Pause schedules, and the configuration that an instance is given."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.config.loader import parse_config
from engine.config.model import TlsSection
from engine.control.instance_config import PASSWORD_VARIABLE, instance_spec
from engine.control.records import (
    Backend,
    Connection,
    Database,
    DesiredState,
    Instance,
    PauseSchedule,
    Status,
    SyncMode,
)
from engine.control.schedules import last_edge

MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
RUN, PAUSE = DesiredState.RUNNING, DesiredState.PAUSED


def an_instance(**fields: Any) -> Instance:
    connection = Connection(
        id=uuid4(),
        account_id=uuid4(),
        name="shop",
        backend=Backend.POSTGRES,
        host="db.example",
        port=5432,
        available_schemas=("shop", "crm"),
        user="reflex",
        secret_ref="connections/x/1",
        sync_mode=SyncMode.LOGICAL,
        min_sync_interval=30,
        created_at=MOMENT,
        updated_at=MOMENT,
    )
    of_connection = {name: fields.pop(name) for name in list(fields) if name in Connection.__slots__}
    connection = replace(connection, **of_connection)
    database = Database(
        id=uuid4(),
        account_id=connection.account_id,
        connection_id=connection.id,
        name="live",
        mysql_db="shop",
        sync_mode=connection.sync_mode,
        sync_interval=30,
        instance_size="nano",
        log_level="info",
        region="local",
        created_at=MOMENT,
        updated_at=MOMENT,
    )
    return Instance(replace(database, **fields), connection)


NIGHT = PauseSchedule("20:00", "06:00")
WEEK = PauseSchedule("20:00", "06:00", (1, 2, 3, 4, 5))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestSchedules:
    @pytest.mark.parametrize(
        ("schedule", "after", "until", "expected"),
        [
            # 2024-01-05 is a Friday, 2024-01-07 a Sunday.
            (NIGHT, "2024-01-05 19:59", "2024-01-05 20:00", ("2024-01-05 20:00", PAUSE)),
            (NIGHT, "2024-01-05 20:00", "2024-01-05 20:01", None),
            (NIGHT, "2024-01-05 20:00", "2024-01-06 06:00", ("2024-01-06 06:00", RUN)),
            (NIGHT, "2024-01-01 00:00", "2024-01-05 12:00", ("2024-01-05 06:00", RUN)),
            (WEEK, "2024-01-05 12:00", "2024-01-06 12:00", ("2024-01-05 20:00", PAUSE)),
            (WEEK, "2024-01-05 20:00", "2024-01-08 05:59", None),
            (WEEK, "2024-01-05 20:00", "2024-01-08 06:00", ("2024-01-08 06:00", RUN)),
            (PauseSchedule("20:00", "06:00", (0,)), "2024-01-01 00:00", "2024-01-07 06:00", ("2024-01-07 06:00", RUN)),
            (PauseSchedule("08:00", "08:00"), "2024-01-05 07:00", "2024-01-05 09:00", ("2024-01-05 08:00", PAUSE)),
            (WEEK, "2020-01-01 00:00", "2024-01-07 23:59", ("2024-01-05 20:00", PAUSE)),
        ],
    )
    def test_the_last_moment(
        self, schedule: PauseSchedule, after: str, until: str, expected: tuple[str, DesiredState] | None
    ) -> None:
        edge = last_edge(schedule, at(after), at(until))
        assert (None if edge is None else (edge.at, edge.desired)) == (expected and (at(expected[0]), expected[1]))

    @given(
        st.integers(0, 1439),
        st.integers(0, 1439),
        st.sets(st.integers(0, 6)),
        st.integers(0, 20_000),
        st.lists(st.integers(1, 3000), max_size=6),
    )
    def test_however_time_is_cut_no_moment_is_lost(
        self, pause: int, resume: int, days: set[int], start: int, cuts: list[int]
    ) -> None:
        schedule = PauseSchedule(
            f"{pause // 60:02}:{pause % 60:02}", f"{resume // 60:02}:{resume % 60:02}", tuple(sorted(days))
        )
        begin = now = MOMENT + timedelta(minutes=start)
        last = None
        for minutes in cuts:
            then = now + timedelta(minutes=minutes)
            last = last_edge(schedule, now, then) or last
            now = then
        assert last == last_edge(schedule, begin, now)


class TestInstanceConfig:
    def test_it_is_a_configuration_of_the_engine(self) -> None:
        instance = an_instance(sync_interval=60, instance_size="small", log_level="debug")
        spec = instance_spec(instance, TlsSection(mode="require"))
        assert spec.secrets == {PASSWORD_VARIABLE: "connections/x/1"}
        config = parse_config(spec.text("/data/x", {}), environ={PASSWORD_VARIABLE: "geheim"})
        assert config.connection.password.reveal() == "geheim"
        assert config.connection.tls.mode == "require"
        assert (config.connection.host, config.connection.port, config.connection.user) == (
            "db.example",
            5432,
            "reflex",
        )
        assert config.instance.name == instance.database.id.hex
        assert (config.instance.schema_name, config.instance.sync_mode) == ("shop", "logical")
        assert (config.instance.sync_interval, config.instance.log_level) == (60, "debug")
        assert config.size is spec.size

    def test_the_server_id_is_mysqls(self) -> None:
        mysql = an_instance(backend=Backend.MYSQL, sync_mode=SyncMode.BINLOG, binlog_server_id=42)
        assert instance_spec(mysql).config["instance"]["binlog_server_id"] == 42
        assert "binlog_server_id" not in instance_spec(an_instance(binlog_server_id=42)).config["instance"]

    @given(st.text(min_size=1).map(lambda text: text + "${HOME}$${x}${"))
    @example("a name that no file system takes" * 10)
    def test_no_value_is_taken_for_a_reference(self, text: str) -> None:
        instance = an_instance(host=text, user=text, mysql_db=text, backend=Backend.MYSQL, sync_mode=SyncMode.BINLOG)
        spec = instance_spec(instance)
        config = parse_config(spec.text(text, {}), environ={PASSWORD_VARIABLE: text})
        assert config.replica.path == text
        assert config.connection.host == config.connection.user == config.instance.schema_name == text
        assert config.connection.password.reveal() == text

    @pytest.mark.parametrize(
        "change",
        [
            {"instance_size": "small"},
            {"log_level": "debug"},
            {"sync_interval": 31},
            {"mysql_db": "crm"},
            {"host": "other"},
            {"user": "other"},
            {"secret_ref": "connections/x/2"},
        ],
    )
    def test_the_revision_changes_with_what_a_process_is_started_with(self, change: dict[str, Any]) -> None:
        instance = an_instance()
        assert instance_spec(changed(instance, **change)).revision != instance_spec(instance).revision

    def test_the_revision_stays_with_what_concerns_no_process(self) -> None:
        instance = an_instance()
        same = changed(
            instance,
            name="renamed",
            available_schemas=("shop", "crm", "hr"),
            status=Status.RUNNING,
            desired_state=RUN,
            replication_paused=True,
        )
        assert instance_spec(same).revision == instance_spec(instance).revision


def changed(instance: Instance, **changes: Any) -> Instance:
    database = {k: v for k, v in changes.items() if k in Database.__slots__}
    connection = {k: v for k, v in changes.items() if k in Connection.__slots__}
    return Instance(replace(instance.database, **database), replace(instance.connection, **connection))
