"""The store's file: made at once or not at all, and what earlier starts, other versions and other programs left."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import mlflow
import pytest
import sqlalchemy
from click.testing import CliRunner
from mlflow.experiments import commands as experiments_group
from mlflow.store.db import utils

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.quoting import sqlite_file, sqlite_url
from rp2k_lab.tracking import store_file
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.mlflow_store import StoreUnavailable, connect, open_client
from rp2k_lab.tracking.server import main
from tests.helpers.strike_store import strike

# A version of the tables of MLflow 2, whose runs had no table of data sets.
OLDER = "cc1f77228345"
# Statements that make a new store, counted by `before_cursor_execute`.
STATEMENTS = 1700


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A store of an older MLflow with one run; do not write to it."""
    file = tmp_path_factory.mktemp("older") / "mlflow.db"
    in_place(file, None, make_older)
    return file


@pytest.fixture
def older_store(older, tmp_path):
    """A copy of the older store."""
    return shutil.copy(older, tmp_path / "mlflow.db")


@pytest.fixture
def _copies(complete_store, monkeypatch):
    """Copy a complete store instead of making one."""
    monkeypatch.setattr(store_file, "_upgrade", lambda address: shutil.copy(complete_store, sqlite_file(address)))


def execute(file, *statements):
    with closing(sqlite3.connect(file)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def refusal(file):
    with pytest.raises(RequestError) as caught:
        connect(f"sqlite:///{file}", "study")
    first, second = str(caught.value).split("\n")
    return first, second


def in_place(file, last, make):
    """Do what MLflow does with a file, up to a statement: it leaves the file as a killed process does."""
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    sqlalchemy.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    statements = []

    def stop(*arguments):
        statements.append(1)
        if len(statements) == last:
            raise KeyboardInterrupt

    sqlalchemy.event.listen(engine, "before_cursor_execute", stop)
    try:
        make(engine)
    except (KeyboardInterrupt, sqlalchemy.exc.PendingRollbackError):  # the latter of a `finally` of a migration
        pass
    finally:
        engine.dispose()


def make_older(engine):
    from alembic import command
    from mlflow.store.tracking.dbmodels.initial_models import Base

    Base.metadata.create_all(engine)
    config = utils._get_alembic_config("")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
        for statement in (
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (1, 'study', '/a', 'active')",
            "INSERT INTO runs (run_uuid, name, experiment_id, status, start_time, lifecycle_stage, source_type, "
            f"user_id) VALUES ('{'a' * 32}', 'old', 1, 'FINISHED', 1, 'active', 'LOCAL', 'me')",
        ):
            connection.execute(sqlalchemy.text(statement))


@pytest.mark.slow
def test_a_kill_while_the_store_is_made_leaves_nothing_in_the_way(tmp_path):
    file = tmp_path / "mlflow.db"
    assert strike(file, STATEMENTS // 2, "SIGKILL") == -signal.SIGKILL
    assert not file.exists()
    works_after_a_strike(file)


@pytest.mark.soak
def test_a_hundred_random_strikes_on_new_stores(tmp_path):
    draw = random.Random(0)
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = folder / "mlflow.db"
        for _ in range(draw.randint(1, 2)):
            strike(file, draw.randint(1, STATEMENTS + 20), draw.choice(["SIGKILL", "SIGINT", "SIGTERM"]))
        works_after_a_strike(file)
        shutil.rmtree(folder)


def works_after_a_strike(file):
    client, experiment = connect(f"sqlite:///{file}", "study")
    assert client.search_runs([experiment]) == []
    assert not [name for name in os.listdir(file.parent) if name.endswith((".part", ".incomplete"))]


@pytest.mark.usefixtures("_copies")
@pytest.mark.parametrize("statement", [60, *(pytest.param(n, marks=pytest.mark.soak) for n in (400, 1200))])
def test_an_incomplete_store_of_an_earlier_start_is_replaced(tmp_path, caplog, statement):
    file = tmp_path / "mlflow.db"
    in_place(file, statement, utils._initialize_tables)
    assert RunStore(f"sqlite:///{file}").newest(1) == []
    assert (tmp_path / "mlflow.db.incomplete").is_file()
    assert "was left incomplete and empty" in caplog.text


def test_an_older_store_is_upgraded_and_kept(older_store, tmp_path, caplog):
    (run,) = RunStore(f"sqlite:///{older_store}").newest(2)
    assert run.name == "old"
    assert store_file._revision(tmp_path / "mlflow.db.before_upgrade") == OLDER
    assert "is upgraded to this MLflow" in caplog.text


def test_an_interrupted_upgrade_changes_nothing(older_store, tmp_path, monkeypatch):
    before = older_store.read_bytes()

    def interrupt(address):
        raise KeyboardInterrupt

    monkeypatch.setattr(store_file, "_upgrade", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_client(f"sqlite:///{older_store}")
    assert older_store.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["mlflow.db", "mlflow.db.lock"]


@pytest.mark.soak
def test_upgrades_that_an_earlier_version_interrupted_are_completed_or_refused(older, tmp_path):
    """MLflow's migrations cannot all be repeated: what stays half done is refused, and not changed."""
    draw, completed = random.Random(0), 0
    for number in range(25):
        file = shutil.copy(older, tmp_path / f"{number}.db")
        in_place(file, draw.randint(1, 1500), utils._upgrade_db)
        before, refused = file.read_bytes(), ""
        try:
            assert [run.name for run in RunStore(f"sqlite:///{file}").newest(2)] == ["old"]
            completed += 1
        except RequestError as error:
            refused = str(error)
        assert not refused or ("cannot be upgraded to this MLflow" in refused and file.read_bytes() == before)
    assert completed >= 15


def test_an_older_store_in_use_is_not_replaced(older_store, monkeypatch):
    monkeypatch.setattr(store_file, "processes_using", lambda _: ["python (7)"])
    first, second = refusal(older_store)
    assert first.endswith("older than this MLflow, and open in python (7)")
    assert second == "end it and run this again"


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["UPDATE alembic_version SET version_num = 'ffffffffffff'"], "made by a newer MLflow (version ffffffffffff"),
        (["CREATE TABLE _alembic_tmp_runs (a)", "INSERT INTO _alembic_tmp_runs VALUES (1)"], None),
    ],
)
def test_other_versions(store, statements, words):
    execute(store, *statements)
    if words:
        first, second = refusal(store)
        assert words in first
        assert second == "use another file: tracking.uri=sqlite:///FILE"
    else:  # the rest of a migration whose table is there
        connect(f"sqlite:///{store}", "study")


def test_what_is_no_store_is_refused_and_not_changed(tmp_path):
    file = tmp_path / "a.db"
    execute(file, "CREATE TABLE studies (a)")
    assert "is a database of something else" in refusal(file)[0]
    file.write_text("text " * 1000)
    before = file.read_bytes()
    assert "file is not a database" in refusal(file)[0]
    assert file.read_bytes() == before


def test_a_locked_store_is_a_warning_that_names_the_reason(store, monkeypatch):
    monkeypatch.setattr(store_file, "_LOCKED_SECONDS", 0.05)
    with closing(sqlite3.connect(store)) as database:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="is locked by another process"):
            connect(f"sqlite:///{store}", "study")
        with pytest.raises(RequestError, match="is locked by another process\nrun the same command again later"):
            RunStore(f"sqlite:///{store}")


def test_a_deleted_experiment_is_restored_by_the_printed_command(store, monkeypatch):
    client, experiment = connect(f"sqlite:///{store}", "study")
    client.delete_experiment(experiment)
    with pytest.raises(RequestError, match=r"^tracking\.experiment=study: this experiment is deleted\n") as caught:
        connect(f"sqlite:///{store}", "study")
    variable, command = str(caught.value).split("restore it: ")[1].split(" python -m mlflow ")
    monkeypatch.setenv(*variable.split("="))
    group, *arguments = command.split()
    assert group == "experiments"
    assert CliRunner().invoke(experiments_group, arguments).exit_code == 0
    assert connect(f"sqlite:///{store}", "study")[1] == experiment


def test_the_shells_variables_of_mlflow_lose_nothing(store, monkeypatch):
    """MLflow 3.17 would send in the background and drop what fails."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "nowhere://")
    client, experiment = connect(f"sqlite:///{store}", "study")
    run_id = client.create_run(experiment).info.run_id
    assert client.log_batch(run_id, params=[mlflow.entities.Param("a", "1")]) is None
    assert client.get_run(run_id).data.params == {"a": "1"}


@pytest.mark.usefixtures("_copies")
def test_a_link_to_a_store_that_is_not_yet_made(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "mlflow.db").symlink_to(tmp_path / "disk" / "mlflow.db")
    connect(f"sqlite:///{tmp_path}/mlflow.db", "study")
    assert (tmp_path / "disk" / "mlflow.db").is_file()


def test_names_with_quotes_are_found(store):
    client, experiment = connect(f"sqlite:///{store}", "study")
    for name in ("it's", 'a "b" c\'s', "back\\"):
        client.create_run(experiment, run_name=name)
        assert [run.name for run in RunStore(f"sqlite:///{store}").find(name)] == [name]
    assert RunStore(f"sqlite:///{store}").find("it_s") == []


@pytest.mark.parametrize("folder", ["o'brien", "100%2F ünï [a],b=$c#?"])
def test_a_store_in_any_folder(complete_store, tmp_path, folder):
    file = tmp_path / folder / "mlflow.db"
    file.parent.mkdir()
    shutil.copy(complete_store, file)
    (tmp_path / "note").write_text("kept")
    client, _ = connect(sqlite_url(file), "other")
    run = client.create_run(client.get_experiment_by_name("other").experiment_id)
    client.log_artifact(run.info.run_id, str(tmp_path / "note"))
    (found,) = RunStore(sqlite_url(file)).find(run.info.run_id)
    assert (found.artifact_folder / "note").read_text() == "kept"
    assert found.artifact_folder.is_relative_to(file.parent)
    assert sorted(os.listdir(tmp_path)) == sorted([folder, "note"])


@pytest.mark.parametrize("arguments", [["notaport"], ["0"], ["5000", "a", "b"]])
def test_the_page_refuses_what_is_no_port(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["server", *arguments])
    assert main() == 2
    assert capsys.readouterr().err.endswith("is no port and host\nuse make ui PORT=5001\n")


@pytest.mark.slow
@pytest.mark.parametrize("signum", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.soak)])
def test_a_fresh_page_that_is_stopped_leaves_no_broken_store(tmp_path, signum, wait_for):
    program = [sys.executable, "-m", "rp2k_lab.tracking.server", "5999"]
    environment = {**os.environ, "RP2K_LAB_HOME": str(tmp_path)}
    with subprocess.Popen(program, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list((tmp_path / "mlruns").glob(".mlflow.db.*.part/mlflow.db")))
        process.send_signal(getattr(signal, signum))
        _, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
