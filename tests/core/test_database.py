"""SQLite files made aside: what a killed, failed or second process leaves."""

import os
import sqlite3
from contextlib import closing

import pytest

from rp2k_lab.core import database
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.quoting import sqlite_file


def write(address, value=1):
    with closing(sqlite3.connect(sqlite_file(address))) as opened:
        opened.execute("CREATE TABLE a (b INTEGER)")
        opened.execute("INSERT INTO a VALUES (?)", (value,))
        opened.commit()


def content(file):
    with closing(sqlite3.connect(file)) as opened:
        return opened.execute("SELECT b FROM a").fetchall()


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_name_appears_when_the_database_is_whole(tmp_path):
    file = tmp_path / "o'b 100%2F#?.db"

    def fill(address):
        assert not file.exists()
        write(address)
        assert not file.exists()

    database.make_aside(file, fill)
    assert content(file) == [(1,)]
    assert names(tmp_path) == [file.name]


def test_a_failure_leaves_nothing(tmp_path):
    def fail(address):
        write(address)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.make_aside(tmp_path / "a.db", fail)
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = tmp_path / ".a.db.x1.part"
    left.mkdir()
    (left / "a.db").write_bytes(b"half")
    (tmp_path / "a.db-journal").write_bytes(b"of a deleted database")
    database.make_aside(tmp_path / "a.db", write)
    assert names(tmp_path) == ["a.db"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_database_that_another_process_made_meanwhile_stays(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no hard links")))
    file = tmp_path / "a.db"

    def slow(address):
        write(address, 1)
        write(f"sqlite:///{file}", 2)

    database.make_aside(file, slow)
    assert content(file) == [(2,)]
    (tmp_path / "b.db").touch()  # SQLite's file before the first statement
    database.make_aside(tmp_path / "b.db", write)
    assert content(tmp_path / "b.db") == [(1,)]


def test_a_replaced_database_is_kept_under_another_name(tmp_path):
    file = tmp_path / "a.db"
    write(f"sqlite:///{file}", 1)
    database.make_aside(file, lambda address: write(address, 2), database.free_name(file, "former"))
    assert (content(file), content(tmp_path / "a.db.former")) == ([(2,)], [(1,)])
    assert database.free_name(file, "former").name == "a.db.former2"


def test_a_lock_that_never_ends_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_LOCK_SECONDS", 0)
    file = tmp_path / "a.db"
    with (
        database.exclusive(file),
        pytest.raises(RequestError, match=r"a\.db\.lock: another process holds this lock"),
        database.exclusive(file),
    ):
        pass


def test_a_process_with_the_file_open_is_found(tmp_path):
    file = tmp_path / "a.db"
    write(f"sqlite:///{file}")
    assert database.processes_using(file) == []
