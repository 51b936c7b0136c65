"""task.verify, and the checks of a run to resume, without training."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, NotReproduced, RequestError
from rp2k_lab.device.workers import ALONE
from rp2k_lab.tracking import provenance
from rp2k_lab.tracking.provenance import differences, fingerprint
from rp2k_lab.train import resume
from rp2k_lab.train.verify import changes, verify, with_closing

NAN = float("nan")
RECORDED = {
    "train/loss": [(1, 0.1), (2, NAN)],
    "val/top1": [(2, 0.5), (2, 0.25)],
    "train/images_per_second": [(2, 9.0)],
}


def run_with(state="FINISHED", **tags):
    facts = {"git_commit": "a" * 40, "git_dirty": "false", "dataset_fingerprint": "f", "status": state} | tags
    return SimpleNamespace(run_id="0" * 32, name="earlier", status=state, tags=facts, folder="")


def test_equal_values_match_and_speeds_are_ignored():
    repeated = {name: list(values) for name, values in RECORDED.items()} | {"train/images_per_second": [(2, 8.0)]}
    repeated["system/cpu_utilization_percentage"] = [(1, 50.0)]
    assert changes(RECORDED, repeated) == []


def test_closing_scores_of_earlier_versions_get_todays_names():
    earlier = {"train/loss": [(1, 2.0), (2, 1.0)], "val/top1": [(1, 0.5), (2, 0.25), (2, 0.5)], "val/count": [(2, 9.0)]}
    today = earlier | {"val/top1": [(1, 0.5), (2, 0.25)], "val_best/top1": [(2, 0.5)]}
    assert with_closing(earlier) == today
    assert with_closing(today) == today


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("train/loss", [(1, 0.1), (2, 0.0)], "train/loss at step 2: nan recorded, 0.0 now"),
        ("train/loss", [(1, 0.10000000000000002), (2, NAN)], "train/loss at step 1: 0.1 recorded, 0.10000000000000002"),
        ("train/loss", [(1, 0.1), (3, NAN)], "train/loss at step 2"),
        ("train/loss", [(1, 0.1)], "train/loss: 2 values recorded, 1 now"),
        ("val/top1", [(2, 0.25), (2, 0.5)], "val/top1 at step 2: 0.5 recorded, 0.25 now"),
        ("val/top5", [(2, 0.5)], "val/top5: 0 values recorded, 1 now"),
    ],
)
def test_a_changed_bit_is_reported(name, values, message):
    (change,) = changes(RECORDED, RECORDED | {name: values})
    assert change.startswith(message)


def test_groups_of_another_version_are_not_compared(monkeypatch):
    """Its tail was a part of the classes of equal size, by name."""
    recorded = RECORDED | {"val/tail_top1": [(2, 0.5)]}
    store = SimpleNamespace(history=lambda run_id: recorded)
    monkeypatch.setattr("rp2k_lab.train.verify.RunStore", lambda uri: store)
    now, earlier = with_closing(recorded) | {"val/tail_top1": [(2, 0.25)]}, run_with(class_groups="tail 12 classes")
    line = verify(None, earlier, now, "tail 20 classes")
    assert line.startswith("4 values of 3 metrics equal run earlier")
    assert line.endswith("head, medium and tail were other classes then and are not compared")
    with pytest.raises(NotReproduced, match="val/tail_top1 at step 2"):
        verify(None, earlier, now, "tail 12 classes")


def test_differences_are_listed_and_counted_in_two_lines(monkeypatch):
    store = SimpleNamespace(history=lambda run_id: RECORDED)
    monkeypatch.setattr("rp2k_lab.train.verify.RunStore", lambda uri: store)
    assert verify(None, run_with(), with_closing(RECORDED), "").startswith(
        "4 values of 3 metrics equal run earlier, id 000000"
    )
    now = {f"m{i}": [(i, 0.5)] for i in range(5)}
    with pytest.raises(NotReproduced) as error:
        verify(None, run_with(), now, "")
    first, second = str(error.value).splitlines()
    assert "8 of 8 metrics differ: " in first
    assert "; and 5 more" in first
    assert "environment.txt" in second


def test_fingerprint_covers_what_affects_the_metrics(defaults):
    config = parse(defaults)
    same = {
        "debug": True,
        "device": defaults["device"] | {"num_threads": 7},
        "dataset": defaults["dataset"] | {"cache_gb": 1.0},
        "task": defaults["task"] | {"resume": "auto", "checkpoint_minutes": 1.0, "checkpoints_kept": 9},
        "tracking": defaults["tracking"] | {"experiment": "other"},
    }
    for key, value in same.items():
        assert fingerprint(parse(defaults | {key: value})) == fingerprint(config), key
    others = {
        "seed": 1,
        "epochs": 6,
        "task": defaults["task"] | {"test": False},
        "optimizer": defaults["optimizer"] | {"lr": 0.049},
    }
    assert (
        len({fingerprint(parse(defaults | {key: value})) for key, value in others.items()} - {fingerprint(config)}) == 4
    )


def test_differences_show_both_values_without_the_folder_of_the_images(defaults, tmp_path):
    current = defaults | {"seed": 1, "dataset": defaults["dataset"] | {"root": str(tmp_path), "cache_gb": 1.0}}
    assert differences(parse(defaults), parse(current)) == ["seed=0 (here 1)"]


def test_other_images_are_refused_and_other_code_is_reported(caplog, monkeypatch):
    index = SimpleNamespace(root="photos", fingerprint="f")
    code = {"git_commit": "a" * 40, "git_dirty": "false"}
    monkeypatch.setattr(resume, "git_state", lambda: code)
    caplog.set_level("INFO")
    resume.check_record(run_with(), index)
    code["git_commit"] = "b" * 40
    resume.check_record(run_with(git_dirty="true"), index)
    code["git_commit"] = "a" * 40
    resume.check_record(run_with(resumed_with="aaaaaaaaaaaa,cccccccccccc with changes"), index)
    assert [record.getMessage() for record in caplog.records] == [
        "code: commit aaaaaaaaaaaa, unchanged",
        "code: the run has commit aaaaaaaaaaaa with changes, now it is bbbbbbbbbbbb",
        "code: the run has commit aaaaaaaaaaaa and cccccccccccc with changes, now it is aaaaaaaaaaaa",
    ]
    with pytest.raises(DataError, match=r"photos: not the photos of run earlier \(fingerprint g, was f\)\n"):
        resume.check_record(run_with(), SimpleNamespace(root="photos", fingerprint="g"))


def test_another_number_of_cores_is_reported_and_an_equal_environment_is_not(caplog, monkeypatch):
    monkeypatch.setattr(resume, "git_state", lambda: {"git_commit": "a" * 40, "git_dirty": "false"})
    index, run = SimpleNamespace(root="photos", fingerprint="f"), run_with(environment=provenance.environment_tag())
    resume.check_record(run, index)
    resume.check_record(run_with(), index)  # of an earlier version
    assert not caplog.records
    monkeypatch.setattr(provenance, "cores", lambda: 64)
    resume.check_record(run, index)
    (record,) = caplog.records
    assert record.getMessage().startswith("environment: the run has cores=")
    assert record.getMessage().endswith(", now 64")


def test_a_resume_records_its_environment_unless_the_first_one_is_unknown(monkeypatch, defaults):
    monkeypatch.setattr(resume, "git_state", lambda: {"git_commit": "a" * 40, "git_dirty": "false"})
    config = parse(defaults)
    first = resume.Start(Path(), None).tags(config, None)["environment"]
    assert provenance.environment_changes(first) == []
    monkeypatch.setattr(provenance, "cores", lambda: 64)
    again = resume.Start(Path(), run_with(environment=first)).tags(config, None)["environment"]
    assert json.loads(again)[:-1] == json.loads(first)
    assert json.loads(again)[-1]["cores"] == "64"
    assert "environment" not in resume.Start(Path(), run_with()).tags(config, None)


@pytest.mark.parametrize(
    ("status", "verify", "message"),
    [
        ("KILLED", True, "the run is KILLED, not FINISHED\nuse a FINISHED run"),
        ("FINISHED", False, "the run is FINISHED, nothing is left to do"),
        ("KILLED", False, None),
        ("FINISHED", True, None),
    ],
)
def test_only_unfinished_runs_resume_and_only_finished_ones_are_verified(status, verify, message):
    config = SimpleNamespace(runs=("x",), task=SimpleNamespace(verify=verify))
    if message is None:
        resume.check_state(config, run_with(status))
        return
    with pytest.raises(RequestError) as error:
        resume.check_state(config, run_with(status))
    assert str(error.value).startswith(f"runs=x: {message}")


def test_run_folder_is_locked_and_removed_when_empty(tmp_path):
    with resume.acquire_run_folder(None, None, tmp_path / "out", ALONE) as start:
        assert (start.folder, start.step) == (tmp_path / "out", 0)
        with (
            pytest.raises(RequestError, match=r"out: another process trains this run\n"),
            resume.acquire_run_folder(None, None, tmp_path / "out", ALONE),
        ):
            pass
    assert not (tmp_path / "out").exists()


def test_run_whose_folder_is_missing_is_refused_with_a_hint(tmp_path):
    run = SimpleNamespace(name="earlier", folder=str(tmp_path / "gone"), own_folder=None)
    with (
        pytest.raises(RequestError, match=r"gone: the folder of run earlier is not on this machine.*\n.*runs=FOLDER"),
        resume.acquire_run_folder(None, run, tmp_path / "out", ALONE),
    ):
        pass


def test_pruned_trial_is_finished():
    assert resume.is_finished(run_with("KILLED", status="PRUNED"))
    assert not resume.is_finished(run_with("KILLED", status="FINISHED"))  # killed before the upload of its end


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"resume": "continue"}, "runs=null: task=train takes 1 earlier run\nuse runs="),
        ({"verify": True}, "runs=null: task=train takes 1 earlier run\nuse runs="),
        ({"resume": "auto", "verify": True}, "task.verify=true: trains from the first step"),
        ({"resume": "sometimes"}, "task.resume=sometimes: input should be 'never', 'auto' or 'continue'"),
        ({"checkpoint_minutes": 0.0}, "task.checkpoint_minutes=0.0: input should be greater than 0"),
        ({"checkpoint_epochs": 0}, "task.checkpoint_epochs=0: input should be greater than or equal to 1"),
    ],
)
def test_wrong_requests(defaults, task, message):
    with pytest.raises(RequestError) as error:
        parse(defaults | {"task": defaults["task"] | task})
    assert str(error.value).startswith(message)


def test_runs_without_an_option_lists_the_options(defaults):
    ways_out = r"\nadd task\.resume=continue, task\.verify=true or loss\.distillation=0\.5, or leave out runs="
    with pytest.raises(RequestError, match=ways_out):
        parse(defaults | {"runs": "abc"})
