"""task=train with `loss.distillation` and a head with a margin, end to end: `python run.py`."""

import signal
from pathlib import Path

import pytest

from tests.helpers.forked_run import start_run
from tests.helpers.tiny_runs import KILL_AT_EVENT, TINY, Store

pytestmark = pytest.mark.soak

STUDENT = (
    "model.head=arcface",
    "model.head_scale=16.0",
    "model.head_margin_schedule=cosine",
    "model.head_margin_epochs=1.5",
    "loss=focal",
    "loss.distillation=0.5",
    "device.precision=O2",
)


class Lab:
    """A store with two teachers, and the commands that use it."""

    def __init__(self, folder: Path):
        self.folder, self.store, self._commands = folder, Store(folder), 0
        for overrides in (["tracking.run_name=one"], ["tracking.run_name=two", "seed=1", "model.head=cosine"]):
            code, _, err = self.run(*overrides, "epochs=1", "task.test=false")
            assert (code, err) == (0, "")

    def run(self, *arguments: str, failure: str = "- 0 -") -> tuple[int, str, str]:
        """Run to the end or to a failure (kill_at_event.py); return (exit code, stdout, stderr)."""
        self._commands += 1
        overrides = [f"tracking.uri={self.store.uri}", f"hydra.run.dir={self.folder}/out{self._commands}"]
        process = start_run([failure, *TINY, *overrides, *arguments], self.folder, KILL_AT_EVENT)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("lab"))


def test_a_killed_training_resumes_with_its_teachers_bit_for_bit(lab):
    command = (*STUDENT, "runs=[one,two]", "task.checkpoint_minutes=0.000001", "task.resume=auto")
    code, _, err = lab.run(*command, failure="write 12 KILL")
    assert (code, err) == (-signal.SIGKILL, "")
    code, out, err = lab.run(*command)
    assert (code, err) == (0, "")
    assert "resumes from step 10" in out  # best weights were the tenth write
    assert "taught by one, two, weight 0.5, temperature 4" in out
    assert "no chance guard" in out
    run = lab.store.runs()[0]
    teachers = {each.info.run_name: each.info.run_id for each in lab.store.runs()[1:]}
    assert run.data.tags["parent"] == f"{teachers['one']},{teachers['two']}"
    code, out, err = lab.run(f"runs={run.info.run_id}", "task.verify=true")
    assert (code, err) == (0, "")
    assert f"equal run {run.info.run_name}, id {run.info.run_id}, bit for bit" in out
    code, _, err = lab.run(f"runs={run.info.run_id}", "task=errors", "task.folds=2")
    assert (code, err.splitlines()[0].partition(":")[0]) == (2, "task.folds=2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.classes=9", "runs=one"], "a teacher with other classes than dataset=shelf"),
        (["runs=[one,one]"], "the same run twice"),
        (["runs=nobody"], "runs=nobody: there is no such run"),
    ],
)
def test_unusable_teachers_are_refused(lab, overrides, message):
    code, _, err = lab.run(*STUDENT, *overrides)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 2


def test_the_trained_network_is_evaluated_tuned_and_exported_like_any_other(lab):
    student = (*STUDENT, "epochs=1", "tracking.run_name=student", "model.head=subcenter_arcface")
    code, _, err = lab.run(*student, "runs=one")
    assert (code, err) == (0, "")
    for task in (["task=evaluate"], ["task=fixres", "size=64"], ["task=export"], ["task=errors"]):
        code, out, err = lab.run("runs=student", *task)
        assert (code, err) == (0, ""), (task, out, err)
        assert "is not written" not in out
