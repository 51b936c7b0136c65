"""Runs that are not fully uploaded, found by their journals."""

from contextlib import closing, suppress
from types import SimpleNamespace

import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking import local_runs
from rp2k_lab.tracking.journal import Journal
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.provenance import FINGERPRINT, fingerprint
from rp2k_lab.tracking.run_lookup import find_run, lookup_run
from rp2k_lab.tracking.tracker import MlflowTracker
from rp2k_lab.train.resume import earlier_run


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(local_runs, "OUTPUTS", tmp_path / "outputs")
    return tmp_path / "outputs"


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path}/mlflow.db"


def make_journal(folder, uri=None, kind="offline", name="run", tags=(), end=KeyboardInterrupt):
    """Return the journal of a run that `end` stopped (an exception; None: it finished)."""
    tracking = SimpleNamespace(name=kind, uri=uri, experiment="study", flush_seconds=60)
    with suppress(end), MlflowTracker(tracking, name, folder) as tracker:
        tracker.set_tags(dict(tags))
        tracker.log_metrics({"loss": 0.5}, 1)
        tracker.log_metrics({"loss": 0.25, "top1": 0.1}, 2)
        if end:
            raise end
    return tracker.journal


def test_offline_run_is_found_by_folder_name_and_id(outputs, uri):
    file = make_journal(outputs / "day" / "time", tags={"k": "v"})
    (outputs / "day" / "time" / "checkpoints").mkdir()
    for reference in (str(file.parent), "run", file.stem[:6]):
        run = lookup_run(uri, reference)
        assert (run.run_id, run.name, run.status, run.folder) == (file.stem, "run", "KILLED", str(file.parent))
        assert run.metrics == {"loss": 0.25, "top1": 0.1}
        assert (run.tags["k"], run.tags["status"]) == ("v", "KILLED")
    assert local_runs.history_of(uri, file.stem) == {"loss": [(1, 0.5), (2, 0.25)], "top1": [(2, 0.1)]}
    assert local_runs.history_of(uri, "0" * 32) is None
    with pytest.raises(RequestError, match="there is no such store"):
        lookup_run(uri, "nobody")


def test_offline_run_uses_the_files_in_its_folder(outputs, uri, compose):
    file = make_journal(outputs / "a")
    with pytest.raises(RequestError, match="the run is KILLED and logged no best weights"):
        find_run(uri, "run", outputs)
    (file.parent / "checkpoints").mkdir()
    import yaml

    (file.parent / "config.yaml").write_text(yaml.safe_dump(compose()), "utf-8")
    (file.parent / "classes.txt").write_text("a\nb\n")
    (file.parent / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    run = find_run(uri, "run", outputs)
    assert (run.page, run.classes, run.checkpoint.read_bytes()) == (None, ("a", "b"), b"weights")


def test_uploaded_run_is_read_from_the_store(outputs, uri):
    file = make_journal(outputs / "a", uri, "mlflow")
    other = make_journal(outputs / "b", "sqlite:///elsewhere.db")
    assert local_runs.unsent_journals(uri) == []
    assert [run.experiment_id for run in RunStore(uri).find("run")] == [lookup_run(uri, "run").experiment_id]
    assert other not in local_runs.unsent_journals(uri)
    file.with_suffix(".sent").unlink()  # a run with unknown upload state is not listed twice
    assert local_runs.unsent_journals(uri) == [file]
    assert lookup_run(uri, "run").run_id == file.stem


def test_auto_resume_finds_the_unfinished_run_without_a_reachable_store(outputs, uri, compose, caplog):
    config = parse(compose(f"tracking.uri={uri}", "task.resume=auto"))
    assert earlier_run(config) is None
    tags = {FINGERPRINT: fingerprint(config)}
    file = make_journal(outputs / "a", tags=tags)
    make_journal(outputs / "b", tags={FINGERPRINT: "another"})
    make_journal(outputs / "c", tags=tags | {"verifies": file.stem})
    assert earlier_run(config).run_id == file.stem
    away = parse(compose("tracking.uri=http://127.0.0.1:9", "task.resume=auto"))
    assert earlier_run(away).run_id == file.stem
    assert "task.resume=auto: searching only outputs/ (tracking.uri=http://127.0.0.1:9: " in caplog.text


@pytest.mark.parametrize(
    ("tags", "end", "resumable"),
    [({FINGERPRINT: "x"}, KeyboardInterrupt, True), ({}, KeyboardInterrupt, False), ({FINGERPRINT: "x"}, None, False)],
    ids=["interrupted", "not recorded", "finished"],
)
def test_only_an_interrupted_training_is_resumable(outputs, tags, end, resumable):
    folder = make_journal(outputs / "a", tags=tags, end=end).parent
    assert local_runs.is_resumable(folder) is resumable
    if tags:
        with pytest.raises(RequestError, match=r"a: is the folder of run run, id [0-9a-f]{32}\nuse another: "):
            local_runs.check_unused(folder)
    else:
        local_runs.check_unused(folder)
    assert not local_runs.is_resumable(outputs / "elsewhere")
    with closing(Journal(next(folder.glob("*.journal")))):
        assert not local_runs.is_resumable(folder)
