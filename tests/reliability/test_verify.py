"""task.verify and what a resumed run has to agree with, without training."""

from types import SimpleNamespace

import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, NotReproduced, RequestError
from rp2k_lab.device.workers import ALONE
from rp2k_lab.tracking.provenance import differences, fingerprint
from rp2k_lab.train import resume
from rp2k_lab.train.verify import changes, verify

NAN = float("nan")
RECORDED = {
    "train/loss": [(1, 0.1), (2, NAN)],
    "val/top1": [(2, 0.5), (2, 0.25)],
    "train/images_per_second": [(2, 9.0)],
}


def run_with(state="FINISHED", **tags):
    facts = {"git_commit": "a" * 40, "git_dirty": "false", "dataset_fingerprint": "f", "status": state} | tags
    return SimpleNamespace(run_id="0" * 32, name="earlier", status=state, tags=facts, folder="")


def test_equal_bits_are_equal_and_speeds_do_not_count():
    again = {name: list(values) for name, values in RECORDED.items()} | {"train/images_per_second": [(2, 8.0)]}
    assert changes(RECORDED, again) == []


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("train/loss", [(1, 0.1), (2, 0.0)], "train/loss at step 2: nan recorded, 0.0 now"),
        ("train/loss", [(1, 0.10000000000000002), (2, NAN)], "train/loss at step 1: 0.1 recorded, 0.10000000000000002"),
        ("train/loss", [(1, 0.1), (3, NAN)], "train/loss at step 2"),
        ("train/loss", [(1, 0.1)], "train/loss: 2 values recorded, 1 now"),
        ("val/top1", [(2, 0.25), (2, 0.5)], "val/top1 at step 2: 0.5 recorded, 0.25 now"),
        ("val/top5", [(2, 0.5)], "val/top5: 0 values recorded, 1 now"),
    ],
)
def test_any_other_bit_is_named(name, values, said):
    (found,) = changes(RECORDED, RECORDED | {name: values})
    assert found.startswith(said)


def test_what_differs_is_listed_and_counted_in_two_lines(monkeypatch):
    store = SimpleNamespace(history=lambda run_id: RECORDED)
    monkeypatch.setattr("rp2k_lab.train.verify.RunStore", lambda uri: store)
    assert verify(None, run_with(), RECORDED).startswith("4 values of 2 metrics equal run earlier, id 000000")
    now = {f"m{i}": [(i, 0.5)] for i in range(5)}
    with pytest.raises(NotReproduced) as error:
        verify(None, run_with(), now)
    first, second = str(error.value).splitlines()
    assert "7 of 7 metrics differ: " in first
    assert "; and 4 more" in first
    assert "environment.txt" in second


def test_the_fingerprint_is_that_of_what_decides_the_metrics(defaults):
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


def test_differences_name_both_values_but_not_the_folder_of_the_photos(defaults, tmp_path):
    here = defaults | {"seed": 1, "dataset": defaults["dataset"] | {"root": str(tmp_path), "cache_gb": 1.0}}
    assert differences(parse(defaults), parse(here)) == ["seed=0 (here 1)"]


def test_other_photos_are_refused_and_other_code_is_said(caplog, monkeypatch):
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


@pytest.mark.parametrize(
    ("status", "verify", "said"),
    [
        ("KILLED", True, "the run is KILLED, not FINISHED\nuse a FINISHED run"),
        ("FINISHED", False, "the run is FINISHED, nothing is left to do"),
        ("KILLED", False, None),
        ("FINISHED", True, None),
    ],
)
def test_only_the_unfinished_goes_on_and_only_the_finished_is_verified(status, verify, said):
    config = SimpleNamespace(runs=("x",), task=SimpleNamespace(verify=verify))
    if said is None:
        resume.check_state(config, run_with(status))
        return
    with pytest.raises(RequestError) as error:
        resume.check_state(config, run_with(status))
    assert str(error.value).startswith(f"runs=x: {said}")


def test_a_folder_is_trained_in_by_one_process_and_left_when_empty(tmp_path):
    with resume.acquire_run_folder(None, None, tmp_path / "out", ALONE) as start:
        assert (start.folder, start.step) == (tmp_path / "out", 0)
        with (
            pytest.raises(RequestError, match=r"out: another process trains this run\n"),
            resume.acquire_run_folder(None, None, tmp_path / "out", ALONE),
        ):
            pass
    assert not (tmp_path / "out").exists()


def test_a_run_whose_folder_is_elsewhere_is_refused_with_the_way_out(tmp_path):
    run = SimpleNamespace(name="earlier", folder=str(tmp_path / "gone"))
    with (
        pytest.raises(RequestError, match=r"gone: the folder of run earlier is not on this machine\n.*runs=FOLDER"),
        resume.acquire_run_folder(None, run, tmp_path / "out", ALONE),
    ):
        pass


def test_a_pruned_trial_is_finished():
    assert resume.is_finished(run_with("KILLED", status="PRUNED"))
    assert not resume.is_finished(run_with("KILLED", status="FINISHED"))  # killed before MLflow had the end


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"resume": "continue"}, "runs=null: task=train takes 1 earlier run\nuse runs="),
        ({"verify": True}, "runs=null: task=train takes 1 earlier run\nuse runs="),
        ({"resume": "auto", "verify": True}, "task.verify=true: trains from the first step"),
        ({"resume": "sometimes"}, "task.resume=sometimes: input should be 'never', 'auto' or 'continue'"),
        ({"checkpoint_minutes": 0.0}, "task.checkpoint_minutes=0.0: input should be greater than 0"),
        ({"checkpoint_epochs": 0}, "task.checkpoint_epochs=0: input should be greater than or equal to 1"),
    ],
)
def test_wrong_requests(defaults, task, said):
    with pytest.raises(RequestError) as error:
        parse(defaults | {"task": defaults["task"] | task})
    assert str(error.value).startswith(said)


def test_runs_alone_says_what_can_be_done_with_one(defaults):
    with pytest.raises(RequestError, match=r"\nadd task\.resume=continue or task\.verify=true, or leave out runs="):
        parse(defaults | {"runs": "abc"})
