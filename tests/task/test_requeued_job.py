"""Jobs of `-m` by submitit: a run that is preempted saves, is queued again, and resumes."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from rp2k_lab import PROJECT
from tests.helpers.tiny_runs import TINY, Store

pytestmark = pytest.mark.soak


def test_a_preempted_job_resumes_its_run(tmp_path, wait_for):
    """SIGUSR2 is submitit's signal; its own handler would end the process in the middle of a step."""
    store, log = Store(tmp_path), tmp_path / "log"
    options = [*TINY, "epochs=30", "task.resume=auto", "task.checkpoint_epochs=1000", f"tracking.uri={store.uri}"]
    options += ["-m", "seed=1", "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}/out"]
    options += [f"hydra.launcher.submitit_folder={log}"]
    command = [sys.executable, str(PROJECT / "run.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
    output = lambda: "".join(file.read_text() for file in log.glob("*_log.out"))  # noqa: E731
    wait_for(lambda: "epoch 2/30" in output() or process.poll() is not None)
    (job,) = [p for p in psutil.Process(process.pid).children(recursive=True) if "submitit.core._submit" in p.cmdline()]
    job.send_signal(signal.SIGUSR2)
    assert process.wait(300) == 0, output() + (tmp_path / "errors").read_text()
    assert "resumes from step" in output()
    (run,) = store.runs()
    assert run.info.status == "FINISHED"
    steps = [step for step, _ in store.history(run)["train/loss"]]
    assert steps == sorted(set(steps))
    messages = "".join(file.read_text() for file in log.glob("*_log.*"))
    assert "Requeued job" in messages
