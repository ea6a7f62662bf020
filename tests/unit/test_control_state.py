"""The control API's state: whole or not at all, rules that hold under concurrency, files of other versions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from engine.control.failures import Conflict, NotFound, StateUnusable
from engine.control.records import (
    Backend,
    Connection,
    Database,
    DesiredState,
    HealthStatus,
    Key,
    PauseSchedule,
    Status,
    SyncMode,
    Tag,
    TagColor,
)
from engine.control.rows import now
from engine.control.state import Store, token_ref


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "control" / "state.sqlite")
    yield store
    store.close()


@pytest.fixture
def account(store: Store) -> UUID:
    return store.ensure_account("default").id


def connection(account: UUID, name: str = "shop", **changes: Any) -> Connection:
    id = uuid4()
    made = Connection(
        id=id,
        account_id=account,
        name=name,
        backend=Backend.MYSQL,
        host="db.example",
        port=3306,
        available_schemas=("shop", "audit"),
        user="reflex",
        secret_ref=f"connections/{id}/1",
        sync_mode=SyncMode.BINLOG,
        min_sync_interval=30,
        created_at=now(),
        updated_at=now(),
    )
    return replace(made, **changes)


def database(on: Connection, **changes: Any) -> Database:
    made = Database(
        id=uuid4(),
        account_id=on.account_id,
        connection_id=on.id,
        name="live",
        mysql_db="shop",
        sync_mode=on.sync_mode,
        sync_interval=30,
        instance_size="nano",
        log_level="info",
        region="local",
        created_at=now(),
        updated_at=now(),
    )
    return replace(made, **changes)


def test_what_is_kept_comes_back_the_same(store: Store, account: UUID, tmp_path: Path) -> None:
    shop = connection(account, name="Sh\u00f6p '\"; DROP TABLE connections; --")
    live = database(
        shop,
        binlog_server_id=4242,
        desired_state=DesiredState.PAUSED,
        replication_paused=True,
        pause_schedule=PauseSchedule("22:00", "06:30", (0, 6)),
        tags=(Tag("prod", TagColor.RED), Tag("eu", TagColor.BLUE)),
        status=Status.PAUSED,
        last_error="it was full",
        endpoint_url="http://127.0.0.1:9000",
        health_status=HealthStatus.CAP_EXCEEDED,
        runtime={"pid": 12, "tries": [1.5, None]},
    )
    store.create_connection_with_instance(shop, live)
    again = Store(tmp_path / "control" / "state.sqlite")
    assert again.connections(account) == [shop]
    assert again.databases(account) == [live]
    assert again.instance(live.id).database == live
    again.close()


def test_a_connection_with_an_instance_is_kept_whole_or_not_at_all(store: Store, account: UUID) -> None:
    first = connection(account)
    store.create_connection_with_instance(first, database(first, binlog_server_id=7))
    second = connection(account, "other", host="DB.example", port=3307)
    with pytest.raises(Conflict) as refused:
        store.create_connection_with_instance(second, database(second, binlog_server_id=7))
    assert refused.value.word == "binlog_server_id_taken"
    assert store.connections(account) == [first]
    assert len(store.databases(account)) == 1


def test_server_ids_are_unique_per_account_and_host_among_what_lives(store: Store, account: UUID) -> None:
    first = connection(account)
    live = database(first, binlog_server_id=7)
    store.create_connection_with_instance(first, live)
    elsewhere = connection(account, "elsewhere", host="other.example")
    store.create_connection_with_instance(elsewhere, database(elsewhere, binlog_server_id=7))
    with pytest.raises(Conflict):
        store.change_connection(account, elsewhere.id, lambda c, _: replace(c, host="db.example"))
    assert store.connection(account, elsewhere.id).host == "other.example"
    with pytest.raises(Conflict):
        store.create_database(account, first.id, lambda c: database(c, binlog_server_id=7))
    free = store.create_database(account, first.id, database)
    with pytest.raises(Conflict):
        store.change_database(account, free.id, lambda d, _: replace(d, binlog_server_id=7))
    postgres = connection(account, "pg", backend=Backend.POSTGRES)
    store.create_connection_with_instance(postgres, database(postgres, binlog_server_id=7))
    stranger = connection(store.ensure_account("stranger").id)
    store.create_connection_with_instance(stranger, database(stranger, binlog_server_id=7))
    store.record_status(live.id, status=Status.TERMINATED)
    store.create_database(account, first.id, lambda c: database(c, binlog_server_id=7))


def test_of_many_creations_of_one_name_exactly_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    stores = [Store(path) for _ in range(5)]
    account = stores[0].ensure_account("default").id
    start = threading.Barrier(25)

    def create(number: int) -> str:
        made = connection(account)
        start.wait()
        try:
            stores[number % 5].create_connection_with_instance(made, database(made))
        except Conflict as refused:
            return refused.word
        return "made"

    with ThreadPoolExecutor(25) as pool:
        assert sorted(pool.map(create, range(25))) == ["made"] + ["name_taken"] * 24
    assert len(stores[1].databases(account)) == 1
    for store in stores:
        store.close()


def test_other_accounts_objects_are_not_there(store: Store, account: UUID) -> None:
    shop = connection(account)
    live = database(shop)
    store.create_connection_with_instance(shop, live)
    stranger = store.ensure_account("stranger").id
    store.create_connection_with_instance(connection(stranger))
    assert len(store.connections(stranger)) == 1
    assert store.databases(stranger) == []
    for forbidden in (
        lambda: store.connection(stranger, shop.id),
        lambda: store.change_connection(stranger, shop.id, lambda c, _: c),
        lambda: store.delete_connection(stranger, shop.id),
        lambda: store.create_database(stranger, shop.id, database),
        lambda: store.database(stranger, live.id),
        lambda: store.change_database(stranger, live.id, lambda d, _: d),
        lambda: store.delete_database(stranger, live.id),
    ):
        with pytest.raises(NotFound):
            forbidden()


def test_wishes_and_observations_do_not_overwrite_each_other(store: Store, account: UUID) -> None:
    shop = connection(account)
    live = database(shop)
    store.create_connection_with_instance(shop, live)
    assert store.instances_to_reconcile() == []

    def provision(old: Database, _: Connection) -> Database:
        return replace(old, desired_state=DesiredState.RUNNING, status=Status.FAILED, runtime={"mine": 1})

    wished = store.change_database(account, live.id, provision)
    assert (wished.desired_state, wished.status, wished.runtime) == (DesiredState.RUNNING, Status.REGISTERED, {})
    assert wished.updated_at > live.updated_at
    [instance] = store.instances_to_reconcile()
    assert (instance.database, instance.connection) == (wished, shop)
    seen = store.record_status(live.id, status=Status.RUNNING, endpoint_url="http://h:1", runtime={"pid": 4})
    assert seen.database.desired_state is DesiredState.RUNNING
    quiet = store.record_status(live.id, health_status=HealthStatus.OK)
    assert quiet.database.updated_at == seen.database.updated_at
    with pytest.raises(TypeError):
        store.record_status(live.id, desired_state=DesiredState.PAUSED)
    assert store.wish(live.id, DesiredState.TERMINATED).database.desired_state is DesiredState.TERMINATED
    kept = store.wish(live.id, DesiredState.RUNNING, unless=DesiredState.TERMINATED)
    assert kept.database.desired_state is DesiredState.TERMINATED
    store.record_status(live.id, status=Status.TERMINATED)
    assert store.instances_to_reconcile() == []
    with pytest.raises(NotFound):
        store.record_status(uuid4(), status=Status.RUNNING)


def test_what_is_in_use_is_not_deleted(store: Store, account: UUID) -> None:
    shop = connection(account)
    live = database(shop, desired_state=DesiredState.RUNNING)
    store.create_connection_with_instance(shop, live)
    with pytest.raises(Conflict, match="terminate"):
        store.delete_database(account, live.id)
    with pytest.raises(Conflict) as refused:
        store.delete_connection(account, shop.id)
    assert refused.value.word == "connection_in_use"
    store.record_status(live.id, status=Status.TERMINATED)
    store.delete_database(account, live.id)
    store.delete_connection(account, shop.id)
    assert store.connections(account) == []
    assert set(store.stray_secrets()) == {shop.secret_ref, token_ref(live.id)}
    store.forget_secret(shop.secret_ref)
    assert store.stray_secrets() == [token_ref(live.id)]


def test_a_secret_is_stray_when_nothing_uses_it(store: Store, account: UUID) -> None:
    shop = connection(account)
    later = now() + timedelta(hours=1)
    store.expect_secret(shop.secret_ref)
    assert store.stray_secrets() == []
    assert store.stray_secrets(later) == [shop.secret_ref]
    store.create_connection_with_instance(shop)
    assert store.stray_secrets(later) == []
    store.expect_secret("connections/new")
    store.change_connection(account, shop.id, lambda c, _: replace(c, secret_ref="connections/new"))
    assert store.stray_secrets() == []
    assert store.stray_secrets(later) == [shop.secret_ref]


def test_keys_are_named_once_while_they_are_active(store: Store, account: UUID) -> None:
    key = Key("k1", account, "ops", b"digest", now())
    store.add_key(key)
    assert "digest'" not in repr(key)
    with pytest.raises(Conflict):
        store.add_key(replace(key, id="k2"))
    store.add_key(replace(key, id="k3", account_id=store.ensure_account("stranger").id))
    assert [k.id for k in store.revoke_keys(account, "ops")] == ["k1"]
    assert store.revoke_keys(account, "ops") == []
    store.add_key(replace(key, id="k2"))
    found = store.key("k1")
    assert found is not None
    assert found.revoked_at is not None
    assert sorted(k.id for k in store.all_keys()) == ["k1", "k2", "k3"]


def test_the_file_is_private_and_survives_a_change_that_raises(store: Store, account: UUID, tmp_path: Path) -> None:
    file = tmp_path / "control" / "state.sqlite"
    assert file.stat().st_mode & 0o777 == 0o600
    shop = connection(account)
    store.create_connection_with_instance(shop)

    def broken(*_: object) -> Connection:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.change_connection(account, shop.id, broken)
    assert store.connections(account) == [shop]


def test_readers_wait_for_nobody_who_writes(store: Store, account: UUID, tmp_path: Path) -> None:
    shop = connection(account)
    store.create_connection_with_instance(shop)
    other = sqlite3.connect(tmp_path / "control" / "state.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as writers:
            late = writers.submit(store.create_connection_with_instance, connection(account, "late"))
            try:
                for _ in range(50):
                    assert store.connections(account) == [shop]
                assert not late.done()
            finally:
                other.execute("ROLLBACK")
            late.result()
    finally:
        other.close()
    assert [one.name for one in store.connections(account)] == ["shop", "late"]


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    later = tmp_path / "later.sqlite"
    Store(later).close()
    with sqlite3.connect(later) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StateUnusable, match="later version"):
        Store(later)
    (tmp_path / "text.sqlite").write_text("this is no database, and it is long enough to be looked at" * 20)
    for path in (tmp_path / "text.sqlite", tmp_path, tmp_path / "text.sqlite" / "below"):
        with pytest.raises(StateUnusable):
            Store(path)
