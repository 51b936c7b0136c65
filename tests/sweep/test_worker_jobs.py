"""Workers of a study as jobs: what a launcher gets, what it returns, and how signals reach a worker."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from rp2k_lab.cli.command_line import split_arguments
from rp2k_lab.core.errors import RequestError, StudyIncomplete
from rp2k_lab.sweep.worker_jobs import run_worker

pytestmark = pytest.mark.slow

JOBS = ("hydra/launcher=submitit_local", "hydra.sweeper.workers=2", "hydra.launcher.timeout_min=3")
STUDY = ("seed=0,1", "hydra.sweeper.study=a", "hydra.sweeper.heartbeat_seconds=7")


@pytest.fixture
def launcher(monkeypatch):
    """Replace the launcher: it records what it gets, and returns what the test wants, or raises it."""
    recorder = SimpleNamespace(jobs=None, task=None, returned=["", ""])

    def launch(jobs, initial_job_idx):
        recorder.jobs = jobs
        if isinstance(recorder.returned, BaseException):
            raise recorder.returned
        return [SimpleNamespace(_return_value=value) for value in recorder.returned]

    def instantiate(self, hydra_context, task_function, config):
        recorder.task, recorder.options = task_function, config.hydra.launcher
        return SimpleNamespace(launch=launch)

    monkeypatch.setattr(Plugins, "instantiate_launcher", instantiate)
    return recorder


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """Have the programs of Slurm on the PATH; none is called."""
    for name in ("sbatch", "srun"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def test_each_worker_is_a_job_with_the_command_of_one_worker(sweep, launcher, capsys):
    sweep(*STUDY)
    launcher.returned = ["exit code 75: stopped", ""]  # one worker that saw the end is enough
    sweep(*STUDY, *JOBS)
    assert launcher.options.timeout_min == 3
    assert launcher.jobs == [["hydra.sweep.subdir=worker0"], ["hydra.sweep.subdir=worker1"]]
    python, script, *arguments = launcher.task.args[0]
    assert (python, Path(script).name) == (sys.executable, "run.py")
    flags, overrides = split_arguments(arguments)
    assert flags == ["-m"]
    assert sorted(overrides) == sorted(
        [
            f"tracking.uri=sqlite:///{sweep.folder}/store/mlflow.db",
            *STUDY,
            "hydra/sweeper=optuna",
            f"hydra.sweeper.storage='sqlite:///{sweep.folder}/optuna.db'",
            f"hydra.sweep.dir='{sweep.folder}/out'",
        ]
    )
    out = capsys.readouterr().out
    assert "study a: workers as 2 jobs of submitit_local, output in" in out
    assert "worker 0 ended early: exit code 75: stopped\nstudy a: nothing to run, all 2 are finished\n" in out
    assert f"task=report task.study=a task.storage=sqlite:///{sweep.folder}/optuna.db" in out


REFUSED_BY_SBATCH = RuntimeError("sbatch: error\nsbatch: error: invalid partition")
REFUSED_BY_SBATCH.__cause__ = subprocess.CalledProcessError(1, "sbatch")
RESULTS = [
    (
        ["killed by SIGKILL", "exit code 2: a; b"],
        StudyIncomplete,
        ["no worker finished it; the last: exit code 2: a; b"],
    ),
    (RuntimeError("trace\nstate: NODE_FAIL"), StudyIncomplete, ["a job was lost", "state: NODE_FAIL", "run the same"]),
    (REFUSED_BY_SBATCH, RequestError, ["invalid partition", "hydra.launcher."]),
    (KeyboardInterrupt(), KeyboardInterrupt, []),
]


@pytest.mark.parametrize(("returned", "error", "texts"), RESULTS, ids=["workers", "job", "sbatch", "ctrl-c"])
def test_a_study_that_no_worker_finished_trains_nothing_here(sweep, launcher, returned, error, texts):
    launcher.returned = returned
    with pytest.raises(error) as caught:
        sweep(*STUDY, *JOBS)
    assert all(text in str(caught.value) for text in texts)
    assert not texts or len(str(caught.value).splitlines()) == 2
    assert optuna.get_all_study_names(f"sqlite:///{sweep.folder}/optuna.db") == []


SLURM = ("hydra/launcher=submitit_slurm", *STUDY)
SERVER = "hydra.sweeper.storage=postgresql+psycopg://127.0.0.1:9/a"
REFUSED = [
    (("hydra.sweeper.workers=2", *STUDY), "hydra.sweeper.workers=2: needs a launcher"),
    (SLURM, "hydra.sweeper.storage=sqlite:"),
    ((*SLURM, SERVER), "tracking.uri: machines cannot share"),
    ((*SLURM, SERVER, "tracking=offline"), "127.0.0.1:9"),
]


@pytest.mark.parametrize(("arguments", "text"), REFUSED, ids=["basic", "storage", "store", "database"])
def test_a_request_that_no_launcher_can_run_is_refused(sweep, slurm, launcher, arguments, text):
    with pytest.raises(RequestError) as caught:
        sweep(*arguments)
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert launcher.jobs is None
    assert not (sweep.folder / "optuna.db").exists()


def test_slurm_without_its_programs_is_refused(sweep, launcher, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match="sbatch is not on this machine\nrun the command on a login node"):
        sweep(*SLURM, SERVER, "tracking=offline")


def test_a_signal_of_the_launcher_reaches_the_worker_first(tmp_path):
    """As submitit's handler: it ends the process."""
    order = []

    def requeue(signum, frame):
        order.append((tmp_path / "log.txt").read_text())
        raise SystemExit(144)

    program = "trap 'sleep 0.2; echo saved; exit 75' USR2; kill -USR2 $PPID; while true; do sleep 0.01; done"
    former = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit, match="144"):
            run_in(tmp_path, ["sh", "-c", program])
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, former)
    assert order == ["saved\n"]


@pytest.mark.parametrize(
    ("program", "reason"), [("exit 0", ""), ("echo a; echo b; exit 2", "exit code 2: a; b"), ("kill -9 $$", "SIGKILL")]
)
def test_a_worker_that_fails_has_a_reason(tmp_path, program, reason):
    result = run_in(tmp_path, ["sh", "-c", program])
    assert reason in result if reason else result == ""


def run_in(folder, command):
    """Run a worker as Hydra's launchers do, with its folder in Hydra's configuration."""
    instance, former = HydraConfig.instance(), HydraConfig.instance().cfg
    instance.cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
    try:
        return run_worker(command, OmegaConf.create())
    finally:
        instance.cfg = former
