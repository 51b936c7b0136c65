"""Killed, stopped and failed runs, as real processes: resumed, they end like an uninterrupted run."""

import json
import random
import re
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from tests.helpers.forked_run import Process, start_run
from tests.helpers.tiny_runs import KILL_AT_EVENT, TINY, Store

pytestmark = pytest.mark.slow

# A checkpoint after every step.
OPTIONS = (*TINY, "task.checkpoint_minutes=0.000001")


class Lab:
    """A store and the commands that use it."""

    def __init__(self, folder: Path):
        self.folder, self.store, self._commands = folder, Store(folder), 0

    def start(self, failure: str, *arguments: str) -> Process:
        """Start `run.py` with a failure (kill_at_event.py) in a new output folder."""
        self._commands += 1
        overrides = [f"tracking.uri={self.store.uri}", f"hydra.run.dir={self.folder}/out{self._commands}"]
        return start_run([failure, *OPTIONS, *overrides, *arguments], self.folder, KILL_AT_EVENT)

    def run(self, failure: str, *arguments: str) -> tuple[int, str, str]:
        """Run to the end; return (exit code, stdout, stderr)."""
        process = self.start(failure, *arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def first_run(self):
        """Return the oldest run of the store."""
        return self.store.runs()[-1]

    def checkpoints(self) -> Path:
        return self.folder / "out1" / "checkpoints"


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def newest_step(lab):
    return max(json.loads(file.read_text())["point"]["step"] for file in lab.checkpoints().glob("step-*.json"))


def assert_same_history(lab, first, second):
    """Compare every value in order: no gaps, no duplicates."""
    recorded, repeated = lab.store.history(first), lab.store.history(second)
    assert [step for step, _ in recorded["train/loss"]] == list(range(1, 19))
    assert [step for step, _ in recorded["val/top1"]] == [9, 18]
    assert [step for step, _ in recorded["val_best/top1"]] == [18]
    assert recorded == repeated


def test_run_that_fails_at_every_kind_of_event_ends_like_an_uninterrupted_one(lab):
    resume = "task.resume=auto"
    code, _, err = lab.run("write 4 KILL")  # like the out-of-memory killer
    assert (code, err) == (-signal.SIGKILL, "")
    assert newest_step(lab) == 3
    assert [run.info.status for run in lab.store.runs()] == ["RUNNING"]

    newest = lab.checkpoints() / "step-00000003.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100] + bytes(100))
    code, out, err = lab.run("evaluation 1 TERM", resume)
    assert code == 75
    assert err.splitlines()[-1] == "stopped"
    assert f"{newest}: damaged (step-00000003.ckpt does not match its checksum); using the previous checkpoint" in out
    assert "resumes from step 2" in out
    assert "event step 7\n" in out  # up to the ninth
    assert newest_step(lab) == 9
    assert lab.first_run().info.status == "KILLED"

    code, out, _ = lab.run("evaluation 2 KILL", resume)
    assert code == -signal.SIGKILL
    assert "resumes from step 9" in out
    assert "event step" not in out  # the evaluation comes first

    code, out, err = lab.run("batch 5 MemoryError", resume)
    assert code == 1
    assert err.splitlines()[0] == "MemoryError: no space"
    assert lab.first_run().info.status == lab.first_run().data.tags["status"] == "FAILED"

    code, out, _ = lab.run("upload 4 KILL", resume)
    assert code == -signal.SIGKILL
    step = int(out.partition("resumes from step ")[2].split()[0])
    assert 9 <= step < 14

    run_id = lab.first_run().info.run_id
    code, out, err = lab.run("- 0 -", f"runs={run_id[:8]}", "task.resume=continue")
    assert (code, err) == (0, "")
    assert "resumes from step 18" in out
    (run,) = lab.store.runs()
    assert run.info.run_id == run_id
    assert run.info.status == run.data.tags["status"] == "FINISHED"
    assert run.data.tags["resumed_from"] == f"2,9,9,{step},18"
    assert len(set(run.data.tags["resumed_with"].split(","))) == 1
    assert run.data.tags["resumed_with"].count(",") == 4
    assert run.data.tags["folder"] == str(lab.folder / "out1")
    assert [file.parent.name for file in lab.folder.glob("out*/*.yaml")] == ["out1"]

    code, out, err = lab.run("- 0 -", f"runs={run_id}", "task.verify=true")
    assert (code, err) == (0, "")
    assert f"equal run {run.info.run_name}, id {run_id}, bit for bit" in out
    verifying = lab.store.runs()[0]
    assert verifying.data.tags["verifies"] == run_id
    assert_same_history(lab, run, verifying)
    for name in ("val/predictions.parquet", "test/predictions.parquet", "checkpoints/best.ckpt"):
        assert (lab.store.artifacts(run) / name).read_bytes() == (lab.store.artifacts(verifying) / name).read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the same run without failures, and the kinds of its events."""
    lab = Lab(tmp_path_factory.mktemp("uninterrupted"))
    code, out, err = lab.run("- 0 -")
    assert (code, err) == (0, "")
    return lab, list(filter(None, map(event_of, out.splitlines())))


@pytest.mark.soak
@pytest.mark.parametrize("kills", [20, 200])
def test_runs_killed_at_random_events_end_like_an_uninterrupted_one(uninterrupted, tmp_path, kills):
    """Kill each run 0–50 ms after a random event of each kind in turn, and resume it until it ends; two at a time."""
    lab, events = uninterrupted
    expected, kinds = lab.store.history(lab.first_run()), Counter(events)

    def kill_runs(name: str) -> tuple[int, Counter]:
        rng, killed, runs = random.Random(f"{kills} {name}"), Counter(), 0
        while killed.total() < kills // 2:
            (folder := tmp_path / f"{name}{runs}").mkdir()
            lab, code = Lab(folder), None
            while code != 0:
                kind = list(kinds)[killed.total() % len(kinds)] if killed.total() < kills // 2 else None
                code = run_killed_at(lab, kind, rng.randint(1, 1 + kinds[kind] // 3), rng.uniform(0, 0.05))
                assert code in (0, -signal.SIGKILL)
                killed[kind] += code != 0
            (run,) = [run for run in lab.store.runs() if run.info.status == "FINISHED"]
            assert lab.store.history(run) == expected, folder
            runs += 1
        return runs, killed

    with ThreadPoolExecutor(2) as pool:
        (runs, killed), (more_runs, more) = pool.map(kill_runs, "ab")
    assert (killed + more).keys() == kinds.keys()
    assert (killed + more).total() == kills
    print(f"{kills} kills, {runs + more_runs} runs, killed at {dict(killed + more)}")


def run_killed_at(lab: Lab, kind: str | None, number: int, seconds: float) -> int:
    """Resume the run, kill it that many seconds after an event, and return its exit code."""
    process = lab.start("- 0 -", "task.resume=auto")
    events = (event for event in map(event_of, process.stdout) if event == kind)
    if kind and sum(1 for _ in islice(events, number)) == number:
        time.sleep(seconds)
        process.kill()
    process.communicate(300)
    return process.returncode


def event_of(line: str) -> str | None:
    """Return the kind of the event that a line of the output reports, or None."""
    return line.split()[1] if line.startswith("event ") else None


@pytest.mark.soak
def test_a_run_on_kept_outputs_resumes_bit_for_bit_and_its_record_says_so(lab):
    """The verification computes the outputs again."""
    options = ("model.freeze=stage2", "model.freeze_views=2", "aug=randaugment", "seed=77")  # no other test's files
    code, out, err = lab.run("step 12 KILL", *options)
    assert (code, err) == (-signal.SIGKILL, "")
    files = re.findall(r"photos (?:written to|read from) (\S+)", out)
    assert len(set(files)) == 3  # two views of train, and val
    code, out, err = lab.run("- 0 -", *options, "task.resume=auto")
    assert (code, err) == (0, "")
    assert re.search(r"resumes from step 1[01]\b", out)  # in the second epoch
    assert re.findall(r"photos read from (\S+)", out) == files
    (run,) = lab.store.runs()
    assert run.data.tags["kept_views"] == "2"
    for file in files:
        Path(file).unlink()
    code, out, err = lab.run("- 0 -", *options, "task.verify=true", f"runs={run.info.run_id}")
    assert (code, err) == (0, "")
    assert re.findall(r"photos written to (\S+)", out) == files
    assert f"equal run {run.info.run_name}, id {run.info.run_id}, bit for bit" in out
