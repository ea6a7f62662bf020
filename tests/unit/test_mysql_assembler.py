"""Transactions, boundaries and positions, from a binary log written by hand."""

from __future__ import annotations

import pytest

from connectors.mysql.assembler import Assembler
from connectors.mysql.gtids import GtidSet, MariadbGtids
from connectors.mysql.position import BinlogPosition
from engine.errors import DecodeError, ResyncRequired
from engine.source import Follow
from tests.fixtures.mysql.log import OTHER, SERVER
from tests.fixtures.mysql.stream import Stream, T, U, gtids, keys, rows


class TestTransactions:
    def test_a_batch_ends_at_the_last_commit(self) -> None:
        s = Stream(T)
        assert s.run(s.insert(1, 10, 11), s.insert(2, 12), s.log.begin(3)) == []
        assert (s.assembler.in_transaction, s.assembler.has_changes) == (True, True)
        batch = s.flush()
        assert rows(batch) == [("t", "INSERT", (10, 1)), ("t", "INSERT", (11, 1)), ("t", "INSERT", (12, 2))]
        assert (batch.transactions, batch.complete) == (2, True)
        assert batch.position.covers(gtids(f"{SERVER}:1-2"))
        assert not batch.position.covers(gtids(f"{SERVER}:3"))
        assert s.assembler.flush() == []

    def test_any_cut_of_the_packets_gives_the_same(self) -> None:
        def packets(s: Stream) -> list[bytes]:
            log = s.log
            return [
                *(log.begin(1), log.table_map(7, "t"), log.table_map(8, "u")),
                *(log.insert(7, (1, 1)), log.insert(8, (2, 2)), log.update(7, ((1, 1), (1, 5)))),
                *(log.delete(8, (2, 2)), log.xid(), log.begin(2), log.table_map(7, "t"), log.insert(7, (3, 3))),
            ]

        whole, cut = Stream(T, U), Stream(T, U)
        end = [whole.log.xid, cut.log.xid]
        whole.run(*packets(whole), end[0]())
        cut.one_by_one(*packets(cut))
        cut.run(end[1]())
        assert sorted(rows(whole.flush())) == sorted(rows(cut.flush()))

    def test_the_commit_time_is_the_servers(self) -> None:
        s = Stream(T)
        s.run(s.log.gtid(1, committed=1_700_000_000_123_456), s.log.query("BEGIN"), s.log.xid())
        assert s.flush().commit_time == 1_700_000_000.123456
        s.log.time = 1_800_000_000
        s.run(s.log.begin(2), s.log.xid())
        assert s.flush().commit_time == 1_800_000_000

    def test_tables_that_are_not_followed_move_the_position_only(self) -> None:
        s = Stream(T)
        s.run(s.insert(1, 5, table="elsewhere"))
        batch = s.flush()
        assert (batch.changes, batch.transactions) == ((), 1)
        assert s.catalog.asked == []

    def test_gtids_of_several_servers(self) -> None:
        s = Stream(T)
        s.run(
            *(s.log.gtid(5, OTHER), s.log.query("BEGIN"), s.log.query("COMMIT")),
            *(s.insert(1, 1), s.insert(2, 2)),
            *(s.log.gtid(6, OTHER), s.log.query("BEGIN"), s.log.xid()),
        )
        assert s.flush().position.covers(gtids(f"{SERVER}:1-2,{OTHER}:5-6"))

    def test_by_file_and_offset_where_there_are_no_gtids(self) -> None:
        s = Stream(T, by_gtid=False)
        log = s.log
        s.run(log.anonymous(), log.query("BEGIN"), log.table_map(7, "t"), log.insert(7, (1, 1)), log.xid())
        end = log.offset
        s.run(log.anonymous(), log.query("BEGIN"))
        assert s.flush().position == BinlogPosition("bin.000001", end)
        s.run(log.xid(), log.rotate("bin.000002"))
        assert s.flush().position == BinlogPosition("bin.000002", 4)

    def test_a_transaction_without_a_gtid_where_they_are_needed_asks_for_a_resync(self) -> None:
        s = Stream(T)
        with pytest.raises(ResyncRequired):
            s.run(s.log.anonymous(), s.log.query("BEGIN"), s.log.xid())

    def test_mariadb_transactions_begin_with_their_gtid(self) -> None:
        s = Stream(T, mariadb=True)
        log = s.log
        s.run(log.mariadb_gtid(4, domain=3), log.table_map(7, "t"), log.insert(7, (1, 1)), log.xid())
        s.run(log.mariadb_gtid(9, domain=0), log.table_map(7, "t"), log.insert(7, (2, 1)), log.query("COMMIT"))
        batch = s.flush()
        assert keys(batch) == [1, 2]
        assert batch.position.gtids == MariadbGtids.parse("0-1-9,3-1-4")  # type: ignore[attr-defined]

    def test_events_that_form_no_transactions_are_refused(self) -> None:
        for wrong in (
            lambda s: s.log.table_map(7, "t"),
            lambda s: s.log.xid(),
            lambda s: s.log.begin(1) + s.log.begin(2),
            lambda s: s.log.begin(1) + s.log.insert(9, (1, 1)),
            lambda s: s.log.query("CREATE TABLE x (a int)"),
        ):
            s = Stream(T)
            with pytest.raises(DecodeError):
                s.run(wrong(s))

    def test_what_a_crash_left_unfinished_is_forgotten(self) -> None:
        s = Stream(T)
        s.run(s.log.begin(1), s.log.table_map(7, "t"), s.log.insert(7, (1, 1)))
        s.run(s.log.start("bin.000002"))
        assert not s.assembler.in_transaction
        s.run(s.insert(1, 2))
        assert keys(s.flush()) == [2]

    def test_a_rolled_back_transaction_in_the_log_reloads_what_it_touched(self) -> None:
        s = Stream(T, U)
        out = s.run(s.log.begin(1), s.log.table_map(7, "t"), s.log.insert(7, (1, 1)), s.log.query("ROLLBACK"))
        (change,) = out
        assert (change.old.id.name, change.reload) == ("t", True)
        assert rows(s.flush()) == []

    def test_savepoints_mean_nothing(self) -> None:
        s = Stream(T)
        log = s.log
        s.run(log.begin(1), log.query("SAVEPOINT `a`"), log.table_map(7, "t"), log.insert(7, (1, 1)), log.xid())
        assert keys(s.flush()) == [1]


class TestBoundaries:
    def test_a_batch_ends_at_a_cut(self) -> None:
        s = Stream(T, cuts=(gtids(f"{SERVER}:1-2"),))
        out = s.run(s.insert(1, 1), s.insert(2, 2), s.insert(3, 3), s.insert(4, 4))
        assert [keys(b) for b in out] == [[1, 2]]
        assert keys(s.flush()) == [3, 4]

    def test_a_cut_by_file_and_offset(self) -> None:
        s = Stream(T, by_gtid=False)
        log = s.log

        def transaction(key: int) -> bytes:
            changes = log.table_map(7, "t") if False else b""
            return (
                log.anonymous()
                + log.query("BEGIN")
                + changes
                + log.table_map(7, "t")
                + log.insert(7, (key, 1))
                + log.xid()
            )

        data = [transaction(1), transaction(2)]
        cut = BinlogPosition("bin.000001", log.offset)
        data += [transaction(3)]
        s.assembler = Assembler(BinlogPosition("bin.000001", 4), [Follow(T.table)], [cut], 1 << 20, s.catalog)
        (batch,) = s.run(*data)
        assert keys(batch) == [1, 2]
        assert batch.position == cut
        assert keys(s.flush()) == [3]

    def test_a_table_is_followed_from_its_since_on(self) -> None:
        s = Stream(T, U, since={"u": gtids(f"{SERVER}:1-2")})
        out = s.run(
            *(s.insert(1, 1, table="u", table_id=8), s.insert(2, 2), s.insert(3, 3, table="u", table_id=8)),
            *(s.insert(4, 4),),
        )
        assert [rows(b) for b in out] == [[("t", "INSERT", (2, 2))]]
        assert sorted(rows(s.flush())) == [("t", "INSERT", (4, 4)), ("u", "INSERT", (3, 3))]

    def test_a_since_that_is_behind_the_start_counts_from_the_start(self) -> None:
        start = BinlogPosition("bin.000001", 4, GtidSet.parse(f"{SERVER}:1-5"))
        s = Stream(T, start=start, since={"t": gtids(f"{SERVER}:1-3")})
        s.run(s.insert(6, 6))
        assert keys(s.flush()) == [6]

    def test_full_batches_go_out_between_transactions(self) -> None:
        s = Stream(T, batch_bytes=2000)
        out = s.run(*(s.insert(n, *range(n * 100, n * 100 + 20)) for n in range(1, 30)))
        out += s.assembler.flush()
        assert len(out) >= 5
        assert all(b.complete for b in out)
        assert keys(*out) == [k for n in range(1, 30) for k in range(n * 100, n * 100 + 20)]

    def test_a_large_transaction_goes_out_in_fragments(self) -> None:
        s = Stream(T, batch_bytes=3000)
        log = s.log
        events = [s.insert(1, 1), log.begin(2), log.table_map(7, "t")]
        events += [log.insert(7, *((n * 100 + i, 2) for i in range(50))) for n in range(30)]
        out = s.run(*events)
        assert [b.complete for b in out[:2]] == [True, False]
        assert {str(b.position) for b in out[1:]} == {str(out[0].position)}
        out += s.run(log.xid())
        out += s.assembler.flush()
        assert out[-1].complete
        assert out[-1].position.covers(gtids(f"{SERVER}:1-2"))
        assert keys(*out) == [1, *(n * 100 + i for n in range(30) for i in range(50))]


def test_a_start_behind_four_gigabytes_of_a_file_is_found_again() -> None:
    before, after = 1, 2
    start = (1 << 32) + 5000
    s = Stream(T, start=BinlogPosition("bin.000001", start))
    log = s.log

    def transaction(key: int) -> bytes:
        begin = log.anonymous() + log.query("BEGIN")
        return begin + log.table_map(7, "t") + log.insert(7, (key, 1)) + log.xid()

    log.offset = 4
    s.run(transaction(before))
    log.offset = (1 << 31) + 17
    s.run(log.anonymous(), log.query("BEGIN"))
    log.offset = start - 31  # the XID event's length
    s.run(log.xid())
    assert s.assembler.flush() == []
    assert log.offset == start
    s.run(transaction(after))
    batch = s.flush()
    assert keys(batch) == [after]
    assert batch.position == BinlogPosition("bin.000001", log.offset)
