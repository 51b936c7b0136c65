"""Which RUNNING runs of a store are marked KILLED when another run of the host starts."""

import fcntl
import os
import socket

import mlflow  # noqa: F401  (its import starts a process)
import psutil
import pytest

from rp2k_lab.tracking.mlflow_store import connect, is_alive, mark_dead_runs, process_tags

DEAD = {"pid": str(2**30), "pid_started": "1.0"}


def journal(folder):
    file = folder / f"{'a' * 32}.journal"
    file.touch()
    return file, {"folder": str(folder), "local_id": "a" * 32}


def test_this_process_is_alive_and_another_start_of_its_id_is_not():
    tags = process_tags()
    assert is_alive(tags)
    assert not is_alive(tags | {"pid_started": str(psutil.Process().create_time() - 60)})
    assert not is_alive(tags | DEAD)


def test_a_run_without_the_new_tags_is_judged_as_before():
    old = {name: process_tags()[name] for name in ("host", "pid", "pid_started")}
    assert is_alive(old)
    assert not is_alive(old | DEAD)


@pytest.mark.parametrize(
    "changes",
    [{"pid": None}, {"pid_started": None}, {"pid": "none"}, {"pid": "-1"}, {"pid_started": "nan"}],
)
def test_a_removed_or_foreign_tag_tells_nothing(changes):
    tags = {name: value for name, value in (process_tags() | DEAD | changes).items() if value is not None}
    assert is_alive(tags)


@pytest.mark.parametrize("name", ["boot_id", "pid_namespace"])
def test_the_process_of_another_container_is_judged_by_its_journal(tmp_path, name):
    tags = process_tags() | DEAD | {name: "another"}
    assert is_alive(tags)  # its folder is not here
    file, place = journal(tmp_path)
    assert not is_alive(tags | place)
    with file.open() as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        assert is_alive(tags | place)
    assert not is_alive(tags | place)


def test_a_system_without_proc_has_the_former_tags(monkeypatch):
    def fail(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(os, "stat", fail)
    assert set(process_tags()) == {"host", "pid", "pid_started"}


def test_one_bad_run_does_not_stop_the_others(store, monkeypatch, caplog):
    client, experiment = connect(f"sqlite:///{store}", "study")
    tags = {
        "no pid": {"host": socket.gethostname()},
        "other code": {"host": socket.gethostname(), "pid": "worker-3"},
        "refused\x1b[31m": process_tags() | DEAD,
        "dead": process_tags() | DEAD,
        "alive": process_tags(),
    }
    ids = {name: client.create_run(experiment, tags=tags[name], run_name=name).info.run_id for name in tags}
    set_tag = client.set_tag

    def refuse(run_id, *arguments):
        if run_id == ids["refused\x1b[31m"]:
            raise ValueError("the store refuses")
        set_tag(run_id, *arguments)

    monkeypatch.setattr(client, "set_tag", refuse)
    mark_dead_runs(client, experiment)
    statuses = {name: client.get_run(run_id).info.status for name, run_id in ids.items()}
    assert statuses == dict.fromkeys(ids, "RUNNING") | {"dead": "KILLED"}
    assert r"run refused\x1b[31m: cannot be marked KILLED (the store refuses)" in caplog.text
