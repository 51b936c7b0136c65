"""Database of studies: opening, refusals, locks, outages."""

import sys
import threading

import optuna
import pytest
import sqlalchemy

from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep import storage as module
from rp2k_lab.sweep.storage import exclusive, heartbeat, open_storage, read_study, with_retries

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://user:secret@host/a", "hydra.sweeper.storage=mysql://host/a: unknown database"),
        ("postgresql+psycopg://user:secret@127.0.0.1:9/a", "127.0.0.1"),
        ("postgresql+nosuch://user:secret@127.0.0.1/a", "nosuch"),
        ("postgresql+psycopg://user:secret@host:port/a", "hydra.sweeper.storage=postgresql"),
        ("sqlite:////proc/no/optuna.db", "/proc/no"),
    ],
)
def test_a_database_that_cannot_be_opened_is_refused(url, words):
    with pytest.raises(RequestError) as caught, open_storage(url, 1):
        pass
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_database_whose_making_is_interrupted_does_not_exist(tmp_path, monkeypatch):
    """Optuna's tables are made by many statements; a database is there with all of them, or not at all."""
    url, statements = f"sqlite:///{tmp_path}/o'brien/100%252F/optuna.db", []

    def strike(*arguments):
        statements.append(1)
        if len(statements) == 20:
            raise KeyboardInterrupt

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", strike)
    try:
        with pytest.raises(KeyboardInterrupt), open_storage(url, 1):
            pass
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", strike)
    with read_study(url, "a") as study:
        assert study is None
    file = tmp_path / "o'brien" / "100%2F" / "optuna.db"
    assert not file.exists()
    file.touch()  # what SQLite leaves before the first statement
    with read_study(url, "a") as study:
        assert study is None
    with open_storage(url, 1) as storage:
        assert optuna.get_all_study_names(storage) == []
    assert sorted(entry.name for entry in file.parent.iterdir()) == ["optuna.db", "optuna.db.lock"]


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        ("Please execute `$ optuna storage upgrade --storage $STORAGE_URL`", "upgrade it: optuna storage upgrade"),
        ("disk I/O error", "use another file: hydra.sweeper.storage=sqlite:///FILE"),
    ],
)
def test_the_way_out_of_the_clones_own_database_is_another_one(monkeypatch, tmp_path, error, way_out):
    def fail(*arguments, **options):
        raise RuntimeError(error)

    monkeypatch.setattr(module, "STORE", tmp_path)
    monkeypatch.setattr(optuna.storages, "RDBStorage", fail)
    with pytest.raises(RequestError) as caught, open_storage(None, 1):
        pass
    assert str(caught.value).split("\n")[1].startswith(way_out)


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(RequestError, match="pip install"), open_storage("postgresql+psycopg://127.0.0.1:9/a", 1):
        pass


def test_exclusive_admits_one_worker_at_a_time(url, opened):
    storages, order = [opened(url) for _ in range(2)], []

    def second():
        with exclusive(storages[1], "a"):
            order.append("second")

    thread = threading.Thread(target=second)
    with exclusive(storages[0], "a"):
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_two_studies_on_a_server_have_separate_locks(postgresql, opened):
    storage = opened(postgresql.new_database())
    with exclusive(storage, "a"), exclusive(storage, "b"):
        pass


def test_a_process_may_have_more_workers_than_pool_connections(url, opened):
    """With eight GPUs, each thread claims a trial, sends heartbeats and queries the database."""
    storage = opened(url)
    barrier, connected = threading.Barrier(20), []

    def connect():
        with storage.engine.connect() as connection:
            barrier.wait(120)
            connected.append(connection)

    threads = [threading.Thread(target=connect) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(connected) == 20


def test_a_dropped_connection_is_reopened(postgresql, opened):
    storage = opened(postgresql.new_database())
    optuna.create_study(study_name="a", storage=storage)
    postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert optuna.get_all_study_names(storage) == ["a"]


def test_a_lock_ends_with_its_connection(postgresql, opened):
    url = postgresql.new_database()
    first, second = opened(url), opened(url)
    entered = []

    def lose_the_connection():
        with exclusive(first, "a"):
            postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            with exclusive(second, "a"):
                entered.append("a")

    with pytest.raises(module.SQLAlchemyError):
        lose_the_connection()
    assert entered == ["a"]


def test_with_retries_waits_for_a_restarted_server(postgresql, opened):
    storage = opened(postgresql.new_database())
    study = optuna.create_study(study_name="a", storage=storage)
    postgresql.control("stop")
    queried = threading.Event()

    def names():
        queried.set()
        return optuna.get_all_study_names(storage)

    def start_again():
        queried.wait()
        postgresql.control("start")

    starter = threading.Thread(target=start_again)
    starter.start()
    assert with_retries(names) == [study.study_name]
    starter.join()


def test_with_retries_raises_the_error_of_a_long_outage(monkeypatch):
    monkeypatch.setattr(module, "_OUTAGE_SECONDS", 0)

    def fail():
        raise optuna.exceptions.StorageInternalError

    with pytest.raises(optuna.exceptions.StorageInternalError):
        with_retries(fail)


def test_heartbeats_continue_after_an_error(url, monkeypatch, opened):
    storage = opened(url)
    trial = optuna.trial.FixedTrial({})
    trial._trial_id = 0
    beats, third = [], threading.Event()

    def record(trial_id):
        beats.append(trial_id)
        if len(beats) == 3:
            third.set()
        raise optuna.exceptions.StorageInternalError

    monkeypatch.setattr(storage, "record_heartbeat", record)
    monkeypatch.setattr(storage, "get_heartbeat_interval", lambda: 0.01)
    with heartbeat(storage, trial):
        assert third.wait(60)
    assert set(beats) == {0}
