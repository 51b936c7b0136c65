"""Studies whose workers are jobs of submitit, on PostgreSQL: on this machine, and by stand-ins for Slurm's programs."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
import pytest

from rp2k_lab.sweep.storage import open_storage

pytestmark = pytest.mark.soak

# They run the tasks of an array on this machine; the batch script and its tasks are submitit's.
SLURM = {
    "sbatch": """
cp "$1" {folder}/script
for task in $(seq 0 $(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")); do {folder}/start $task; done
echo Submitted batch job 7""",
    "start": """
export SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$1 SLURM_JOB_ID=$((8 + $1)) SLURM_PROCID=0
setsid bash {folder}/script > /dev/null 2>> {folder}/errors &""",
    "srun": """
while [ "$1" = --unbuffered ]; do shift; done
[ "$1 $3" = "--output --error" ] && shift 4
exec "$@" 2>> {folder}/tasks""",
    "scontrol": '[ "$1" = requeue ] && echo "$2" >> {folder}/requeued && sleep 1 && {folder}/start ${{2#7_}}',
    "sacct": "printf 'JobID|State|NodeList\\n7_0|RUNNING|a\\n7_1|RUNNING|a\\n'",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Put stand-ins for Slurm's programs on the PATH; return their folder."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in SLURM.items():
        (folder / name).write_text(f"#!/bin/bash\n{text.format(folder=folder)}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def study(script, behave, postgresql, tmp_path):
    """study(*arguments): start a study of fake runs with two workers; its attribute `url` is the database."""
    url = postgresql.new_database().replace("postgres@", "postgres:sesame@")

    def start(launcher: str, *arguments: str):
        options = [f"hydra/launcher={launcher}", "hydra.sweeper.workers=2", f"hydra.sweeper.storage='{url}'"]
        options += ["hydra/sweeper=optuna", "hydra.sweeper.study=a", "hydra.sweeper.heartbeat_seconds=1"]
        options += ["tracking=offline", f"hydra.sweep.dir={tmp_path}/out"]
        return script("study_of_fake_runs.py", "-m", *options, *arguments)

    start.url = url
    return start


def trials(url, name):
    with open_storage(url, None) as storage:
        return optuna.load_study(study_name=name, storage=storage).get_trials()


def test_a_killed_worker_is_replaced_by_the_other_and_the_search_is_confirmed_once(study, behave, fifo, tmp_path):
    behave(("aug=mixup", fifo.behavior), ("aug=cutout", "top1:0.75"))
    process = study("submitit_local", "aug=none,cutout,mixup", "hydra.sweeper.confirm=1")
    _, worker = map(int, fifo.read().split())
    os.kill(worker, signal.SIGKILL)
    assert fifo.read() == "SIGTERM\n"  # the trial has lost its study
    fifo.close()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "ended early: killed by SIGKILL" in out
    assert "best        val top-1 75.0 ± 0.0 % on fresh seeds" in out
    searched = [(t.params["aug"], t.state.name) for t in trials(study.url, "a")]
    assert sorted(searched) == [
        ("cutout", "COMPLETE"),
        ("mixup", "COMPLETE"),
        ("mixup", "FAIL"),
        ("none", "COMPLETE"),
    ]
    files = [file for file in tmp_path.joinpath("out").rglob("*") if file.is_file()]
    assert [file.name for file in files if b"sesame" in file.read_bytes()] == []  # the password is in no job's pickle
    assert len([file for file in files if file.name.endswith("_submitted.pkl")]) == 2
    fresh = trials(study.url, "a.confirm")
    assert [t.state.name for t in fresh] == ["COMPLETE"] * 3
    assert {t.params["seed"] for t in fresh} == {1, 2, 3}


@pytest.mark.parametrize("timeouts", [1, 0])
def test_a_job_of_slurm_whose_time_is_up_stops_its_trial_and_is_queued_again(study, behave, fifo, slurm, timeouts):
    """Of a limit of nine minutes, submitit takes every signal for its end; without timeouts it ends for good."""
    behave(("seed=1", fifo.behavior))
    options = ["hydra.launcher.signal_delay_s=30", "hydra.launcher.gpus_per_node=1", "hydra.launcher.partition=short"]
    options += ["hydra.launcher.timeout_min=9", f"hydra.launcher.max_num_timeout={timeouts}"]
    process = study("submitit_slurm", "seed=0,1", *options)
    _, worker = map(int, fifo.read().split())
    job = psutil.Process(worker).parent()
    assert job is not None
    assert "submitit.core._submit" in job.cmdline()
    for signaled in (job.pid, worker):  # Slurm signals every process of a step
        with suppress(ProcessLookupError):
            os.kill(signaled, signal.SIGUSR2)
    assert fifo.read() == "SIGUSR2\n"
    fifo.close()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err + (slurm / "tasks").read_text()
    assert "study       a: 2 finished" in out
    assert ("ended early: Job not requeued because: timed-out too many times." in out) == (not timeouts)
    assert (slurm / "requeued").exists() == bool(timeouts)
    states = [(t.params["seed"], t.state.name, t.user_attrs.get("stopped")) for t in trials(study.url, "a")]
    assert sorted(states, key=str) == [(0, "COMPLETE", None), (1, "COMPLETE", None), (1, "FAIL", True)]
    text = (slurm / "script").read_text()
    for option in ("--array=0-1%2", "--signal=USR2@30", "--gpus-per-node=1", "--partition=short", "--time=9"):
        assert f"#SBATCH {option}\n" in text


def test_what_sbatch_refuses_is_a_wrong_request(study, slurm):
    (slurm / "sbatch").write_text("#!/bin/bash\necho sbatch: error: invalid partition specified: short >&2\nexit 1\n")
    process = study("submitit_slurm", "seed=0,1", "hydra.launcher.partition=short")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "hydra/launcher=submitit_slurm: sbatch: error: invalid partition specified: short\ncorrect" in err
    assert len(err.splitlines()) == 3  # the first is sbatch's
