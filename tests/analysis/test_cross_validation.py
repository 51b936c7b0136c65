"""Command lines of folds and refused requests; tests/task/test_errors.py trains two folds."""

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rp2k_lab.analysis import cross_validation as module
from rp2k_lab.analysis.cross_validation import fold_overrides, held_out_probabilities
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, Interrupted, RequestError, StudyIncomplete
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.evaluation.artifacts import record_origin
from rp2k_lab.sweep.trial_process import TrialFailed
from rp2k_lab.tracking.provenance import FINGERPRINT
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MlflowTracker

# A few seconds a run.
TINY = (
    "dataset.classes=8", "dataset.train_images=300", "dataset.val_images=60", "dataset.test_images=80",
    "dataset.min_train_images=5", "model.width_multiplier=0.125", "model.depth_multiplier=0.25", "size=32", "epochs=1",
)  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["aug=randaugment", "aug.crop=null", "loss=logit_adjusted", "model=seresnext50_wider", "size=[64,48]"],
        ["dataset=rp2k", "dataset.root=/", "dataset.drop_catch_all=true", "model=swin_tiny", "optimizer.lr=1e-5"],
        [
            r"dataset.catch_all_class='it\'s {a}, [b]=c\\'",
            "tracking.uri='sqlite:////a b/x.db'",
            "tracking.run_name=mine",
        ],
        ["device=gpu", "device.parallel=data", "task.test=true", "debug=true", "recipe=giantpanda"],
    ],
)
def test_fold_overrides_differ_from_the_run_in_the_fold_only(compose, overrides):
    config = parse(compose(*overrides))
    fold = parse(compose(*fold_overrides(config, "2/3", {"epochs": None, "action": "warn"})))
    assert fold.dataset == config.dataset.model_copy(update={"fold": "2/3"})
    assert fold.device == config.device.model_copy(update={"parallel": "none"})
    assert fold.tracking == config.tracking.model_copy(update={"run_name": None})
    for key in ("model", "aug", "loss", "optimizer", "seed", "epochs", "batch_size", "size", "resize", "crop_ratio"):
        assert getattr(fold, key) == getattr(config, key)
    assert (fold.task.name, fold.task.test) == ("train", False)


@pytest.mark.parametrize("fold", ["0/3", "4/3", "1/1", "1", "a/b", "-1/3", "1/3/5"])
def test_invalid_folds_are_refused(compose, fold):
    with pytest.raises(RequestError, match=rf"^dataset\.fold={fold}: needs i/k"):
        parse(compose(f"dataset.fold='{fold}'"))


@pytest.fixture(scope="module")
def analyzed(compose, tmp_path_factory):
    """Return (configuration, index, run) of a training, in a separate store."""
    folder = tmp_path_factory.mktemp("store")
    composed = compose(*TINY, f"tracking.uri=sqlite:///{folder}/mlflow.db")
    config = parse(composed)
    with MlflowTracker(config.tracking, "whole", folder / "whole") as tracker:
        run_id = tracker.run_id
    index = build_index(config.dataset)
    return config, index, EarlierRun("whole", "whole", run_id, None, composed, Path("-"), tuple(index.classes))


@pytest.fixture
def failing_trial(monkeypatch):
    """failing_trial(error): `run_trial` raises the error; `failing_trial.arguments` are its last arguments."""

    def fail(error):
        def run_trial(*arguments):
            fail.arguments = arguments
            raise error

        monkeypatch.setattr(module, "run_trial", run_trial)

    return fail


NO_SIGNAL = SimpleNamespace(signum=None, check=lambda: None)


def test_failed_fold_is_reported_with_its_log(analyzed, tmp_path, failing_trial):
    failing_trial(TrialFailed("killed by SIGKILL"))
    with pytest.raises(
        StudyIncomplete, match=r"^fold 1/4: killed by SIGKILL\n.*folds/1of4/log\.txt; run the same command"
    ):
        held_out_probabilities(*analyzed[:2], 4, analyzed[2], tmp_path, NO_SIGNAL)


@pytest.mark.slow
def test_interrupted_fold_is_resumed_in_its_folder(compose, analyzed, tmp_path, failing_trial):
    failing_trial(TrialFailed("stopped"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with pytest.raises(StudyIncomplete):
        held_out_probabilities(*analyzed[:2], 3, analyzed[2], tmp_path / "first", NO_SIGNAL)
    overrides, folder, link, *_ = failing_trial.arguments
    fold = parse(compose(*overrides))
    with suppress(KeyboardInterrupt), MlflowTracker(fold.tracking, link["name"], folder) as tracker:
        record_origin(tracker, fold, build_index(fold.dataset), folder)
        tracker.set_tags(link["tags"] | {FINGERPRINT: "0" * 16})
        raise KeyboardInterrupt
    for again in ("first", "second"):
        with pytest.raises(StudyIncomplete):
            held_out_probabilities(*analyzed[:2], 3, analyzed[2], tmp_path / again, NO_SIGNAL)
        assert failing_trial.arguments[:3] == ([*overrides, f"runs='{folder}'", "task.resume=continue"], folder, link)


def test_signal_during_a_fold_interrupts_the_analysis(analyzed, tmp_path, failing_trial):
    failing_trial(TrialFailed("stopped with its study"))
    signals = StopSignal()
    signals.signum = signal.SIGTERM
    with pytest.raises(Interrupted) as stopped:
        held_out_probabilities(*analyzed[:2], 4, analyzed[2], tmp_path, signals)
    assert stopped.value.exit_code == 75


def test_folds_need_a_training_run(analyzed, tmp_path):
    config, index, parent = analyzed
    tuned = replace(parent, config=parent.config | {"task": {"name": "fixres"}})
    with pytest.raises(RequestError, match=r"^task\.folds=3: whole is a run of task=fixres"):
        held_out_probabilities(config, index, 3, tuned, tmp_path, NO_SIGNAL)
    part = config.model_copy(update={"dataset": config.dataset.model_copy(update={"fold": "1/3"})})
    with pytest.raises(RequestError, match=r"^task\.folds=3: whole is a fold itself \(dataset\.fold=1/3\)\n"):
        held_out_probabilities(part, index, 3, parent, tmp_path, NO_SIGNAL)


def test_full_disk_is_reported_before_training(analyzed, tmp_path, failing_trial, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    failing_trial(AssertionError("trained"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        DataError, match=r"held_out\.npy: no space for the probabilities of 300 photos, 0\.0 GB \(No space"
    ):
        held_out_probabilities(*analyzed[:2], 2, analyzed[2], tmp_path, NO_SIGNAL)
    assert not (tmp_path / "held_out.npy").exists()
