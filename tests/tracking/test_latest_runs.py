"""`runs=last`, `runs=last:2` and `runs=best`, in real stores and journals."""

import logging
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import mlflow
import psutil
import pytest
from mlflow.entities import Metric

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking import local_runs
from rp2k_lab.tracking.latest_runs import NETWORKS, TO_RESUME, TO_VERIFY, _candidates, choose, is_word
from rp2k_lab.tracking.mlflow_runs import CHECKPOINT, RunStore
from rp2k_lab.tracking.provenance import FINGERPRINT
from rp2k_lab.tracking.run_lookup import lookup_run, resolve
from rp2k_lab.tracking.tracker import MlflowTracker

pytestmark = pytest.mark.slow

EXPERIMENT = "rp2k-lab"


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(local_runs, "OUTPUTS", tmp_path / "outputs")
    return tmp_path / "outputs"


def open_run(folder, uri, name, kind="mlflow", experiment=EXPERIMENT):
    return MlflowTracker(SimpleNamespace(name=kind, uri=uri, experiment=experiment, flush_seconds=60), name, folder)


def make_run(
    folder, uri, name, task="train", score=0.5, *, best=None, weights=True, end=None, kind="mlflow", tags=(), **options
):
    """Return the tracker of a run that `end` stopped (an exception; None: it finished).

    Args:
        best: the best epoch's score; None: a run of earlier versions, whose last one is the best epoch's.
    """
    with suppress(end or ()), open_run(folder, uri, name, kind, **options) as tracker:
        tracker.set_tags({"task": task, "folder": folder, FINGERPRINT: name} | dict(tags))
        tracker.log_metrics({"val/top1": 1.0}, 1)
        tracker.log_metrics({"val/top1": score} | ({"val_best/top1": best} if best else {}), 2)
        if weights:
            (folder / CHECKPOINT).parent.mkdir()
            (folder / CHECKPOINT).write_bytes(b"weights")
            tracker.log_artifact(folder / CHECKPOINT, "checkpoints")
        if end:
            raise end
    return tracker


@pytest.fixture(scope="module")
def uri(tmp_path_factory, empty_store):
    """A store with runs of each kind, oldest first."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow.db").write_bytes(empty_store)
    uri = f"sqlite:///{folder}/mlflow.db"
    client, start = mlflow.MlflowClient(uri), count(1_700_000_000_000)
    experiments = {name: client.create_experiment(name, (folder / name).as_uri()) for name in (EXPERIMENT, "other")}

    def record(name, task="train", score=0.5, weights=True, status="FINISHED", experiment=EXPERIMENT, **tags):
        tags = {
            "task": task,
            "local_id": name,
            "folder": f"{folder}/{name}",
            FINGERPRINT: name,
            "status": status,
        } | tags
        run = client.create_run(experiments[experiment], next(start), tags, name)
        values = [Metric("val/top1", value, 1, step) for step, value in enumerate((1.0, score))]
        client.log_batch(run.info.run_id, values)
        artifacts, folder_of_run = Path(run.info.artifact_uri.removeprefix("file://")), folder / name
        for file in (artifacts / CHECKPOINT, folder_of_run / f"{name}.journal"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"content")
        if not weights:
            (artifacts / CHECKPOINT).unlink()
        client.set_terminated(run.info.run_id, status)
        return run.info.run_id

    record("last", score=0.2)
    record("NaN", score=float("nan"))
    record("tie", score=0.75)
    record("good", "fixres", score=0.75)
    record("elsewhere", score=0.875, experiment="other")
    record("again", verifies="tie")
    record("evaluation", "evaluate", score=0.9)
    record("fold", score=0.9, fold="1/2")
    record("no weights", score=0.9, weights=False)
    record("killed", score=0.9, status="KILLED")
    client.delete_run(record("deleted", score=0.9))
    return uri


def test_last_is_the_newest_finished_run_with_a_network_in_any_experiment(uri, caplog):
    caplog.set_level(logging.INFO)
    names = [choose(uri, f"last:{n}", EXPERIMENT).name for n in range(1, 7)]
    assert names == ["again", "elsewhere", "good", "tie", "NaN", "last"]
    run = choose(uri, "last", EXPERIMENT)
    assert run.name == "again"
    assert caplog.messages[-1] == f"runs=last: again, id {run.run_id[:8]}"
    assert lookup_run(uri, "last") == run
    assert [choose(uri, word, EXPERIMENT, TO_VERIFY).name for word in ("last", "last:2")] == ["elsewhere", "tie"]


def test_best_has_the_highest_score_of_its_experiment_and_is_the_newest_of_equals(uri, caplog):
    caplog.set_level(logging.INFO)
    run = choose(uri, "best", EXPERIMENT)
    assert (run.name, caplog.messages) == ("good", [f"runs=best: good, id {run.run_id[:8]}, val top-1 75.0 %"])
    assert choose(uri, "best", "other").name == "elsewhere"
    assert choose(uri, "best", EXPERIMENT, TO_VERIFY).name == "tie"
    assert lookup_run(uri, "best") == run


def test_best_knows_the_closing_scores_of_every_version(outputs, tmp_path, empty_store):
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    make_run(outputs / "a", uri, "second", score=0.25, best=0.75)
    make_run(outputs / "b", uri, "earlier version", score=0.5)
    make_run(outputs / "c", uri, "first", score=0.875, best=0.875)
    make_run(outputs / "d", None, "not uploaded", score=0.125, best=0.625, kind="offline")
    ranked = [run.name for run in _candidates(uri, EXPERIMENT, NETWORKS)]
    assert ranked == ["first", "second", "not uploaded", "earlier version"]
    assert choose(uri, "best", EXPERIMENT).closing("val", "top1") == 0.875


def test_a_run_with_the_name_of_a_word_is_found_by_its_id(uri):
    (named_last,) = RunStore(uri).find("last")
    assert lookup_run(uri, "last").name == "again"
    assert lookup_run(uri, named_last.run_id[:8]) == named_last
    (without,) = RunStore(uri).find("no weights")
    assert [RunStore(uri).has(run, CHECKPOINT) for run in (named_last, without)] == [True, False]
    assert [is_word(text) for text in ("last", "last:2", "last:x", "best", "best2", "./last", "last.ckpt")] == [
        *[True] * 4,
        *[False] * 3,
    ]


@pytest.mark.parametrize("word", ["last:0", "last:x", "last:", "last:-1", "last:1.5", "last:1:2", "last:00"])
def test_a_malformed_position_is_refused(uri, word):
    with pytest.raises(RequestError, match=rf"^runs={word}: needs a whole number from 1\nuse runs=last "):
        lookup_run(uri, word)


@pytest.mark.parametrize(
    ("word", "wanted", "message"),
    [
        ("last:9", NETWORKS, "fewer than 9 finished runs with a network in sqlite:.*\nuse runs=last:6, or an id$"),
        ("last", TO_RESUME, "no unfinished trainings that can be resumed here in .*\ntrain one: python run.py; "),
        ("best", NETWORKS, "no .*, experiment nobody\ntrain one: .*; or name another experiment: tracking.experiment="),
    ],
)
def test_too_few_runs_are_a_clear_message(uri, tmp_path, word, wanted, message):
    store = uri if wanted is NETWORKS else f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(RequestError, match=f"^runs={word}: {message}") as error:
        choose(store, word, "nobody", wanted)
    assert len(str(error.value).splitlines()) == 2
    assert not (tmp_path / "none.db").exists()


def test_a_store_that_does_not_answer_is_an_error(outputs):
    make_run(outputs / "a", None, "offline", kind="offline")
    with pytest.raises(RequestError, match=r"^tracking.uri=http://127.0.0.1:9: "):
        choose("http://127.0.0.1:9", "last", EXPERIMENT)


def test_runs_that_are_not_uploaded_count(outputs, tmp_path, empty_store):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    make_run(outputs / "a", None, "older", score=0.625, kind="offline")
    assert choose(uri, "last", EXPERIMENT).name == "older"  # without any store
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    stored = make_run(outputs / "b", uri, "uploaded", score=0.5)
    newer = make_run(outputs / "c", None, "newer", score=0.5, kind="offline", experiment="other")
    make_run(outputs / "d", None, "killed", kind="offline", end=KeyboardInterrupt)
    make_run(outputs / "e", None, "no weights", kind="offline", weights=False)
    assert [choose(uri, f"last:{n}", EXPERIMENT).name for n in (1, 2, 3)] == ["newer", "uploaded", "older"]
    assert choose(uri, "last", EXPERIMENT).run_id == newer.journal.stem
    assert choose(uri, "best", EXPERIMENT).name == "older"
    # A run with a part of its record here and in the store is one run, also when it is deleted there.
    stored.journal.with_suffix(".sent").unlink()
    with pytest.raises(RequestError, match="fewer than 4"):
        choose(uri, "last:4", EXPERIMENT)
    mlflow.MlflowClient(uri).delete_run(RunStore(uri).find("uploaded")[0].run_id)
    assert choose(uri, "last:2", EXPERIMENT).name == "older"


def test_the_newest_training_that_can_be_resumed(outputs, tmp_path, empty_store):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    make_run(outputs / "a", uri, "older", end=KeyboardInterrupt)
    stopped = make_run(tmp_path / "elsewhere", uri, "stopped", end=ValueError)
    make_run(outputs / "c", uri, "verification", end=KeyboardInterrupt, tags={"verifies": "x"})
    make_run(outputs / "d", uri, "trial", end=KeyboardInterrupt, tags={"study": "x"})
    make_run(outputs / "e", uri, "other task", "fixres", end=KeyboardInterrupt)
    make_run(outputs / "f", uri, "finished")
    make_run(outputs / "g", uri, "moved", end=KeyboardInterrupt)
    (outputs / "g").rename(outputs / "h")
    with open_run(outputs / "i", uri, "running") as running:
        running.set_tags({"task": "train", FINGERPRINT: "x", "folder": outputs / "i"})
        assert [choose(uri, f"last:{n}", EXPERIMENT, TO_RESUME).name for n in (1, 2)] == ["stopped", "older"]
        assert choose(uri, "last", EXPERIMENT, TO_RESUME).run_id == stopped.run_id
        with pytest.raises(RequestError, match="fewer than 3 unfinished trainings"):
            choose(uri, "last:3", EXPERIMENT, TO_RESUME)
    with ExitStack() as stack:  # its process is killed: the record says RUNNING
        child = stack.enter_context(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        killed = open_run(outputs / "j", uri, "lost", "offline")
        stack.callback(killed.close, "FINISHED")
        process = {"pid": child.pid, "pid_started": str(psutil.Process(child.pid).create_time())}
        killed.set_tags({"task": "train", FINGERPRINT: "x", "folder": outputs / "j"} | process)
        assert choose(uri, "last", EXPERIMENT, TO_RESUME).name == "stopped"
        child.communicate(b"\n")
        assert choose(uri, "last", EXPERIMENT, TO_RESUME).name == "lost"
        killed.set_tags({"host": f"not-{socket.gethostname()}"})
        assert choose(uri, "last", EXPERIMENT, TO_RESUME).name == "stopped"


@pytest.mark.soak
def test_a_server_is_asked_for_the_checkpoint(server, tmp_path):
    make_run(tmp_path / "a", server.address, "older")
    make_run(tmp_path / "b", server.address, "no weights", weights=False)
    assert choose(server.address, "last", EXPERIMENT).name == "older"


def test_the_request_decides_what_last_means(uri, compose):
    def resolved(*overrides):
        ids = resolve(parse(compose(f"tracking.uri={uri}", *overrides)))
        return [run.name for reference in ids for run in RunStore(uri).find(reference)]

    assert resolved("task=evaluate", "runs=last") == ["again"]
    assert resolved("task=ensemble", "runs=[best,last:3,last:2,tie]") == ["good", "good", "elsewhere", "tie"]
    assert resolved("task.verify=true", "runs=last") == ["elsewhere"]
    assert resolved("task.resume=continue", "runs=last") == ["killed"]
    assert resolve(parse(compose("task=export", "runs=a.ckpt"))) == ("a.ckpt",)
