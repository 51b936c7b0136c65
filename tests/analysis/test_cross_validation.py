"""The command lines of folds, and what is refused; two of them in real processes: tests/task/test_errors.py."""

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
from rp2k_lab.sweep.trial_process import TrialFailed
from rp2k_lab.tracking.provenance import FINGERPRINT
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MlflowTracker

# A run takes a few seconds.
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
def test_a_folds_command_line_is_the_runs_training_but_for_the_fold(compose, overrides):
    config = parse(compose(*overrides))
    fold = parse(compose(*fold_overrides(config, "2/3", {"epochs": None, "action": "warn"})))
    assert fold.dataset == config.dataset.model_copy(update={"fold": "2/3"})
    assert fold.device == config.device.model_copy(update={"parallel": "none"})
    assert fold.tracking == config.tracking.model_copy(update={"run_name": None})
    for key in ("model", "aug", "loss", "optimizer", "seed", "epochs", "batch_size", "size", "resize", "crop_ratio"):
        assert getattr(fold, key) == getattr(config, key)
    assert (fold.task.name, fold.task.test) == ("train", False)


@pytest.mark.parametrize("fold", ["0/3", "4/3", "1/1", "1", "a/b", "-1/3", "1/3/5"])
def test_other_folds_are_refused(compose, fold):
    with pytest.raises(RequestError, match=rf"^dataset\.fold={fold}: needs i/k"):
        parse(compose(f"dataset.fold='{fold}'"))


@pytest.fixture(scope="module")
def analyzed(compose, tmp_path_factory):
    """(configuration, index, run) of a training that is to be analyzed, in a store of the test's own."""
    folder = tmp_path_factory.mktemp("store")
    composed = compose(*TINY, f"tracking.uri=sqlite:///{folder}/mlflow.db")
    config = parse(composed)
    with MlflowTracker(config.tracking, "whole", folder / "whole") as tracker:
        run_id = tracker.run_id
    index = build_index(config.dataset)
    return config, index, EarlierRun("whole", "whole", run_id, None, composed, Path("-"), tuple(index.classes))


@pytest.fixture
def never(monkeypatch):
    """never(error): no fold is trained; it ends with the error; `never.asked` is what `run_trial` was last told."""

    def never(error):
        def run_trial(*arguments):
            never.asked = arguments
            raise error

        monkeypatch.setattr(module, "run_trial", run_trial)

    return never


SILENCE = SimpleNamespace(signum=None, check=lambda: None)


def test_a_fold_that_fails_is_named_with_its_log(analyzed, tmp_path, never):
    never(TrialFailed("killed by SIGKILL"))
    with pytest.raises(StudyIncomplete, match=r"^fold 1/4: killed by SIGKILL\n.*folds/1of4/log\.txt; the same command"):
        held_out_probabilities(*analyzed[:2], 4, analyzed[2], tmp_path, SILENCE)


def test_a_fold_that_was_interrupted_goes_on_where_it_was(analyzed, tmp_path, never):
    never(TrialFailed("stopped"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with pytest.raises(StudyIncomplete):
        held_out_probabilities(*analyzed[:2], 3, analyzed[2], tmp_path / "first", SILENCE)
    overrides, folder, link, *_ = never.asked
    with suppress(KeyboardInterrupt), MlflowTracker(analyzed[0].tracking, link["name"], folder) as tracker:
        tracker.set_tags(link["tags"] | {"folder": folder, FINGERPRINT: "0" * 16})
        raise KeyboardInterrupt
    for again in ("first", "second"):
        with pytest.raises(StudyIncomplete):
            held_out_probabilities(*analyzed[:2], 3, analyzed[2], tmp_path / again, SILENCE)
        assert never.asked[:3] == ([*overrides, f"runs='{folder}'", "task.resume=continue"], folder, link)


def test_a_signal_ends_it_as_it_ends_a_run(analyzed, tmp_path, never):
    never(TrialFailed("stopped with its study"))
    signals = StopSignal()
    signals.signum = signal.SIGTERM
    with pytest.raises(Interrupted) as stopped:
        held_out_probabilities(*analyzed[:2], 4, analyzed[2], tmp_path, signals)
    assert stopped.value.exit_code == 75


def test_what_was_not_trained_has_no_folds(analyzed, tmp_path):
    config, index, parent = analyzed
    tuned = replace(parent, config=parent.config | {"task": {"name": "fixres"}})
    with pytest.raises(RequestError, match=r"^task\.folds=3: whole is a run of task=fixres"):
        held_out_probabilities(config, index, 3, tuned, tmp_path, SILENCE)
    part = config.model_copy(update={"dataset": config.dataset.model_copy(update={"fold": "1/3"})})
    with pytest.raises(RequestError, match=r"^task\.folds=3: whole is a fold itself \(dataset\.fold=1/3\)\n"):
        held_out_probabilities(part, index, 3, parent, tmp_path, SILENCE)


def test_a_full_disk_is_told_before_anything_is_trained(analyzed, tmp_path, never, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    never(AssertionError("trained"))
    monkeypatch.setattr(module.os, "posix_fallocate", full)
    with pytest.raises(
        DataError, match=r"held_out\.npy: no room for the probabilities of 300 photos, 0\.0 GB \(No space"
    ):
        held_out_probabilities(*analyzed[:2], 2, analyzed[2], tmp_path, SILENCE)
    assert not (tmp_path / "held_out.npy").exists()
