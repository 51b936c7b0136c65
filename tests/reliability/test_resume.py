"""Runs that are killed, stopped and broken off, as real processes, and end as if nothing had happened."""

import json
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from tests.helpers.forked_run import Process, start_run
from tests.helpers.tiny_runs import KILL_AT_EVENT, TINY, Store

# A block a stage, and a checkpoint after every step.
OPTIONS = (*TINY, "task.checkpoint_minutes=0.000001")


class Lab:
    """A store of its own and the commands that use it."""

    def __init__(self, folder: Path):
        self.folder, self.store, self._commands = folder, Store(folder), 0

    def start(self, what: str, *arguments: str) -> Process:
        """`python run.py` to which `what` happens (kill_at_event.py), in an output folder of its own."""
        self._commands += 1
        overrides = [f"tracking.uri={self.store.uri}", f"hydra.run.dir={self.folder}/out{self._commands}"]
        return start_run([what, *OPTIONS, *overrides, *arguments], self.folder, KILL_AT_EVENT)

    def run(self, what: str, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        process = self.start(what, *arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def first_run(self):
        """The only one, or of several the oldest."""
        return self.store.runs()[-1]

    def checkpoints(self) -> Path:
        return self.folder / "out1" / "checkpoints"


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def newest_step(lab):
    return max(json.loads(file.read_text())["point"]["step"] for file in lab.checkpoints().glob("step-*.json"))


def assert_same_history(lab, first, second):
    """Every value, in order: no gap, none twice."""
    one, other = lab.store.history(first), lab.store.history(second)
    assert [step for step, _ in one["train/loss"]] == list(range(1, 19))
    assert [step for step, _ in one["val/top1"]] == [9, 18, 18]
    assert one == other


def test_a_run_struck_at_every_kind_of_moment_ends_as_one_that_was_left_alone(lab):
    again = "task.resume=auto"
    code, _, err = lab.run("write 4 KILL")  # by the caller's own hand, as by a kernel without memory
    assert (code, err) == (-signal.SIGKILL, "")
    assert newest_step(lab) == 3
    assert [run.info.status for run in lab.store.runs()] == ["RUNNING"]

    newest = lab.checkpoints() / "step-00000003.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100] + bytes(100))
    code, out, err = lab.run("evaluation 1 TERM", again)
    assert code == 75
    assert err.splitlines()[-1] == "stopped"
    assert f"{newest}: damaged (step-00000003.ckpt does not match its checksum); using the previous checkpoint" in out
    assert "resumes from step 2" in out
    assert "event step 7\n" in out  # up to the ninth
    assert newest_step(lab) == 9
    assert lab.first_run().info.status == "KILLED"

    code, out, _ = lab.run("evaluation 2 KILL", again)
    assert code == -signal.SIGKILL
    assert "resumes from step 9" in out
    assert "event step" not in out  # the evaluation comes first

    code, out, err = lab.run("photos 5 MemoryError", again)
    assert code == 1
    assert err.splitlines()[0] == "MemoryError: no room"
    assert lab.first_run().info.status == lab.first_run().data.tags["status"] == "FAILED"

    code, out, _ = lab.run("upload 4 KILL", again)
    assert code == -signal.SIGKILL
    taken_up = int(out.partition("resumes from step ")[2].split()[0])
    assert 9 <= taken_up < 14

    run_id = lab.first_run().info.run_id
    code, out, err = lab.run("- 0 -", f"runs={run_id[:8]}", "task.resume=continue")
    assert (code, err) == (0, "")
    assert "resumes from step 18" in out
    (run,) = lab.store.runs()
    assert run.info.run_id == run_id
    assert run.info.status == run.data.tags["status"] == "FINISHED"
    assert run.data.tags["resumed_from"] == f"2,9,9,{taken_up},18"
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
def left_alone(tmp_path_factory):
    """The same run without any strike, and the kinds of its events."""
    lab = Lab(tmp_path_factory.mktemp("alone"))
    code, out, err = lab.run("- 0 -")
    assert (code, err) == (0, "")
    return lab, list(filter(None, map(event_of, out.splitlines())))


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_a_run_killed_at_random_moments_ends_as_one_that_was_left_alone(left_alone, tmp_path, kills):
    """Run after run, two at a time, each killed and resumed until it is done: at each kind of event in turn, its
    number and how long after it by chance."""
    alone, events = left_alone
    expected, kinds = alone.store.history(alone.first_run()), Counter(events)

    def strike(name: str) -> tuple[int, Counter]:
        rng, struck, runs = random.Random(f"{kills} {name}"), Counter(), 0
        while struck.total() < kills // 2:
            (folder := tmp_path / f"{name}{runs}").mkdir()
            lab, code = Lab(folder), None
            while code != 0:
                kind = list(kinds)[struck.total() % len(kinds)] if struck.total() < kills // 2 else None
                code = killed_at(lab, kind, rng.randint(1, 1 + kinds[kind] // 3), rng.uniform(0, 0.05))
                assert code in (0, -signal.SIGKILL)
                struck[kind] += code != 0
            (run,) = [run for run in lab.store.runs() if run.info.status == "FINISHED"]
            assert lab.store.history(run) == expected, folder
            runs += 1
        return runs, struck

    with ThreadPoolExecutor(2) as pool:
        (runs, struck), (more_runs, more) = pool.map(strike, "ab")
    assert (struck + more).keys() == kinds.keys()
    assert (struck + more).total() == kills
    print(f"{kills} kills, {runs + more_runs} runs, killed at {dict(struck + more)}")


def killed_at(lab: Lab, kind: str | None, number: int, seconds: float) -> int:
    """The exit code of the run that goes on, killed so many seconds after an event, unless it ends before."""
    process = lab.start("- 0 -", "task.resume=auto")
    heard = (event for event in map(event_of, process.stdout) if event == kind)
    if kind and sum(1 for _ in islice(heard, number)) == number:
        time.sleep(seconds)
        process.kill()
    process.communicate(300)
    return process.returncode


def event_of(line: str) -> str | None:
    """The kind of the event that a line of the run's output says."""
    return line.split()[1] if line.startswith("event ") else None
