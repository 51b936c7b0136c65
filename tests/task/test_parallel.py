"""Data-parallel training by MindSpore's launcher, with two real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest

from rp2k_lab import PROJECT
from rp2k_lab.tracking.tracker import MlflowTracker
from tests.helpers.tiny_runs import TINY, Command, Store

pytestmark = pytest.mark.slow

SMALL = (*TINY, "dataset.val_images=61", "dataset.test_images=81", "model=swin_tiny", "schedule.warmup_epochs=0")
# All options that read a gradient, a rate or a random number; each update clips the norm.
EVERYTHING = (
    "aug.flip=0.5",
    "aug.crop=[0.5,1.0]",
    "optimizer.accumulate_steps=2",
    "optimizer.clip_norm=0.1",
    "optimizer.ema_decay=0.8",
    "optimizer.lr_batch_size=256",
)


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """launch(*arguments, workers=2, after=None): start `run.py` with a small network by msrun; workers=0: without.

    The command gets a new folder, or the store of an earlier command `after`.
    """

    commands = []

    def start(*arguments, workers=2, after=None) -> Command:
        folder = after.folder if after else tmp_path_factory.mktemp("run")
        store = Store(folder)
        entry = [str(PROJECT / "tests/helpers/tiny_model_run.py"), *SMALL, *arguments]
        entry += [f"tracking.uri={store.uri}", f"hydra.run.dir={folder}/{'later' if after else 'out'}"]
        binaries = Path(sys.executable).parent
        command = [sys.executable, *entry]
        if workers:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            options = [f"--worker_num={workers}", f"--local_worker_num={workers}", f"--master_port={port}"]
            options += ["--join=True", f"--log_dir={folder}/log"]
            command = [str(binaries / "msrun"), *options, *entry, "device.parallel=data"]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": f"{binaries}:{os.environ['PATH']}"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        commands.append(Command(subprocess.Popen(command, cwd=folder, env=environment, **pipes), folder, store))
        return commands[-1]

    yield start
    for command in commands:  # after a failed test
        if command.process.poll() is None:
            for process in [*psutil.Process(command.process.pid).children(recursive=True), command.process]:
                process.kill()


@pytest.fixture(scope="module")
def one_and_two(launch) -> tuple[Command, Command]:
    """The same training by one process with batches of 32, and by two with 16 each."""
    keep = "task.keep_state=true"
    commands = launch("batch_size=32", *EVERYTHING, keep, workers=0), launch("batch_size=16", *EVERYTHING, keep)
    for command in commands:
        code, out, err = command.wait()
        assert code == 0, out + err
        command.out = out
    return commands


def test_two_ranks_equal_one_process_with_twice_the_batch(one_and_two):
    """Equal except for the order of sums: 1e-6 of losses near 2 and of weights near 0.2; equal predictions."""
    import mindspore

    one, two = (command.store.history(command.store.runs()[0]) for command in one_and_two)
    assert len(one["train/loss"]) == 18
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-6, atol=1e-7, err_msg=name)
    for name in ("best", "last"):
        files = [command.folder / "out" / "checkpoints" / f"{name}.ckpt" for command in one_and_two]
        one, two = (mindspore.load_checkpoint(str(file)) for file in files)
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_allclose(one[key].asnumpy(), two[key].asnumpy(), rtol=0, atol=1e-6, err_msg=key)
    for split, photos in (("val", 61), ("test", 81)):
        files = [command.folder / "out" / split / "predictions.parquet" for command in one_and_two]
        one, two = (pd.read_parquet(file) for file in files)
        assert len(one) == photos
        pd.testing.assert_frame_equal(one, two, rtol=1e-5)


def test_only_rank_0_writes_and_prints(one_and_two):
    one, two = one_and_two
    (run,) = two.store.runs()
    assert (run.info.status, run.data.tags["workers"]) == ("FINISHED", "2")
    assert run.data.params["device.parallel"] == "data"
    assert files_in(one.folder / "out") == files_in(two.folder / "out")
    assert files_in(two.folder) - files_in(one.folder) == {"log"}
    rank_1 = (two.folder / "log" / "worker_1.log").read_text().splitlines()
    assert [line for line in rank_1 if not line.startswith("[INFO]")] == []  # MindSpore's last lines
    assert two.out.count(run.info.run_id) == one.out.count("next  ") * 2  # the closing lines: id and page
    assert one.out.count("epoch 2/2") == two.out.count("epoch 2/2") == 1


@pytest.mark.soak
def test_killed_ranks_resume_and_equal_an_uninterrupted_run(one_and_two, launch):
    _, two = one_and_two
    again = ("batch_size=16", *EVERYTHING, "task.resume=auto", "task.checkpoint_minutes=0.000001")
    command = launch(*again)
    for worker in workers(command):
        worker.kill()
    command.wait(60)
    resumed = launch(*again, after=command)
    code, out, err = resumed.wait()
    assert code == 0, out + err
    assert "resumes from step" in out
    (run,) = command.store.runs()
    assert (run.info.status, run.data.tags["workers"]) == ("FINISHED", "2")
    assert command.store.history(run) == two.store.history(two.store.runs()[0])
    verifying = launch(f"runs={run.info.run_id}", "task.verify=true", after=command)
    code, out, err = verifying.wait()
    assert code == 0, out + err
    assert f"equal run {run.info.run_name}, id {run.info.run_id}, bit for bit" in out


@pytest.mark.soak
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_one_rank_stops_both_at_the_same_step(launch, signum):
    import mindspore

    command = launch("batch_size=16", "epochs=2000")
    _, second = workers(command)
    second.send_signal(signum)
    command.wait(60)
    (run,) = command.store.runs()
    assert run.info.status == run.data.tags["status"] == "KILLED"
    last = mindspore.load_checkpoint(str(command.folder / "out" / "checkpoints" / "last.ckpt"))
    assert int(last["step"].asnumpy()) == command.store.history(run)["train/loss"][-1][0] >= 9
    assert (command.folder / "log" / "worker_0.log").read_text().count("stopped") == 1


@pytest.mark.soak
def test_death_of_one_rank_ends_all_within_a_minute(launch):
    """msrun kills rank 0, which cannot report it; the next run on this host marks the run."""
    command = launch("batch_size=16", "epochs=2000")
    first, second = workers(command)
    second.kill()
    killed = time.monotonic()
    code, _, _ = command.wait(60)
    assert time.monotonic() - killed < 60
    assert code != 0
    assert not first.is_running()
    assert [run.info.status for run in command.store.runs()] == ["RUNNING"]
    experiment = SimpleNamespace(name="mlflow", uri=command.store.uri, experiment="rp2k-lab", flush_seconds=1)
    with MlflowTracker(experiment, "next", command.folder / "next"):
        pass
    assert sorted(run.info.status for run in command.store.runs()) == ["FINISHED", "KILLED"]


def workers(command: Command) -> list[psutil.Process]:
    """Return the processes by rank, after the first epoch."""
    for line in command.process.stdout:
        if line.startswith("epoch 1/"):
            break
    children = psutil.Process(command.process.pid).children()
    numbered = {c.environ().get("MS_NODE_ID"): c for c in children if "tail" not in c.name()}
    return [numbered["0"], numbered["1"]]


def files_in(folder: Path) -> set[str]:
    """Return the names in a folder except the journal, which is named after its run."""
    return {path.name for path in folder.iterdir() if path.suffix not in (".journal", ".sent")}
