"""Data-parallel training by MindSpore's launcher: two real worker processes."""

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

SMALL = (*TINY, "dataset.val_images=61", "dataset.test_images=81", "model=swin_tiny", "optimizer.warmup_epochs=0")
# Whatever reads a gradient, a rate or a random number; the norm is clipped in every update.
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
    """launch(*arguments, workers=2): `run.py` with a small network, by msrun, or with workers=0 as it is.

    In a folder of its own, or with the store of an earlier command: `after=command`.
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
    for command in commands:  # where a test failed half-way
        if command.process.poll() is None:
            for process in [*psutil.Process(command.process.pid).children(recursive=True), command.process]:
                process.kill()


@pytest.fixture(scope="module")
def one_and_two(launch) -> tuple[Command, Command]:
    """The same training by one process with 32 photos a batch, and by two with 16 each."""
    commands = launch("batch_size=32", *EVERYTHING, workers=0), launch("batch_size=16", *EVERYTHING)
    for command in commands:
        code, out, err = command.wait()
        assert code == 0, out + err
        command.out = out
    return commands


def test_two_workers_train_what_one_process_trains_with_twice_the_batch(one_and_two):
    """Up to the order of the sums: 1e-6 of losses about 2, 1e-6 of weights about 0.2; the same answers."""
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


def test_the_first_worker_alone_writes_and_speaks(one_and_two):
    one, two = one_and_two
    (run,) = two.store.runs()
    assert (run.info.status, run.data.tags["workers"]) == ("FINISHED", "2")
    assert run.data.params["device.parallel"] == "data"
    assert files_in(one.folder / "out") == files_in(two.folder / "out")
    assert files_in(two.folder) - files_in(one.folder) == {"log"}
    silent = (two.folder / "log" / "worker_1.log").read_text().splitlines()
    assert [line for line in silent if not line.startswith("[INFO]")] == []  # MindSpore's own, when it ends
    assert two.out.count(run.info.run_id) == one.out.count("next  ") * 2  # the closing lines: id and page
    assert one.out.count("epoch 2/2") == two.out.count("epoch 2/2") == 1


@pytest.mark.soak
def test_workers_that_were_killed_go_on_and_end_as_those_that_were_left_alone(one_and_two, launch):
    _, two = one_and_two
    again = ("batch_size=16", *EVERYTHING, "task.resume=auto", "task.checkpoint_minutes=0.000001")
    command = launch(*again)
    for worker in workers(command):
        worker.kill()
    command.wait(60)
    resumed = launch(*again, after=command)
    code, out, err = resumed.wait()
    assert code == 0, out + err
    assert "goes on from step" in out
    (run,) = command.store.runs()
    assert (run.info.status, run.data.tags["workers"]) == ("FINISHED", "2")
    assert command.store.history(run) == two.store.history(two.store.runs()[0])
    verifying = launch(f"runs={run.info.run_id}", "task.verify=true", after=command)
    code, out, err = verifying.wait()
    assert code == 0, out + err
    assert f"are those of run {run.info.run_name}, id {run.info.run_id}, bit for bit" in out


@pytest.mark.soak
def test_a_signal_to_one_worker_stops_both_at_the_same_step(launch):
    import mindspore

    command = launch("batch_size=16", "epochs=2000")
    _, second = workers(command)
    second.send_signal(signal.SIGTERM)
    command.wait(60)
    (run,) = command.store.runs()
    assert run.info.status == run.data.tags["status"] == "KILLED"
    last = mindspore.load_checkpoint(str(command.folder / "out" / "checkpoints" / "last.ckpt"))
    assert int(last["step"].asnumpy()) == command.store.history(run)["train/loss"][-1][0] >= 9
    assert (command.folder / "log" / "worker_0.log").read_text().count("stopped") == 1


@pytest.mark.soak
def test_the_end_of_one_worker_ends_all_within_a_minute(launch):
    """The first one is killed by msrun, which it cannot tell anyone; the next run of this host says it for it."""
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
    """The workers' processes in order, once the first epoch is done."""
    for line in command.process.stdout:
        if line.startswith("epoch 1/"):
            break
    children = psutil.Process(command.process.pid).children()
    numbered = {c.environ().get("MS_NODE_ID"): c for c in children if "tail" not in c.name()}
    return [numbered["0"], numbered["1"]]


def files_in(folder: Path) -> set[str]:
    """But for the journal, whose name is of its run."""
    return {path.name for path in folder.iterdir() if path.suffix not in (".journal", ".sent")}
