"""The scripts and the Kubernetes Job of docs/cluster.md: read, checked, and run with stand-ins for Slurm's programs."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.cli.command_line import split_arguments
from tests.helpers.tiny_runs import TINY, Store

PAGE = (PROJECT / "docs" / "cluster.md").read_text("utf-8")
JOB, PARALLEL = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("script", [JOB, PARALLEL], ids=["job", "parallel"])
def test_scripts_are_correct_bash(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --signal=B:USR1@180\n#SBATCH --requeue\n#SBATCH --open-mode=append\n" in script


def test_submitted_commands_are_accepted():
    blocks = re.findall(r"^    sbatch .*$", PAGE.replace("\\\n", " "), re.MULTILINE)
    commands = [shlex.split(block) for block in blocks]
    last = [command[-1].partition("=")[0] for command in commands]
    assert last == ["task.resume", "tracking.uri", "optimizer.lr_batch_size"]
    for command in commands:
        script = next(part for part in command if part.endswith(".sh"))
        arguments = command[command.index(script) + 1 :]
        split_arguments(arguments[2:] if script == "job.sh" else arguments)


def test_the_job_of_kubernetes_runs_a_worker_that_may_be_evicted():
    job = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore", "Ignore"]
    assert spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [75]
    assert pod["restartPolicy"] == "Never"  # a policy of failures needs it
    assert pod["terminationGracePeriodSeconds"] > 60  # a worker gives its trial 60 s
    assert {mount["name"] for mount in worker["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    flags, overrides = split_arguments([*worker["command"][2:], *worker["args"]])
    assert flags == ["-m"]
    assert f"dataset.root={worker['volumeMounts'][0]['mountPath']}/rp2k" in overrides


@pytest.fixture
def start(tmp_path):
    """start(script, *arguments): start a script of the page as a job; its folder has the names of requeued jobs."""
    stand_ins = {
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/requeued',
        "activate": f"PATH={Path(sys.executable).parent}:$PATH",
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def start(script: str, *arguments: str) -> subprocess.Popen:
        script = script.replace("source .venv/bin/activate", f"source {tmp_path}/activate")
        script = script.replace("outputs/msrun", f"{tmp_path}/msrun")
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
        environment |= {"SLURM_SUBMIT_DIR": str(PROJECT), "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2"}
        command = ["bash", "-c", script, "job.sh", *arguments]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(command, env={**environment, "SLURM_GPUS": "2"}, stdout=log, stderr=log)

    return start


@pytest.mark.soak
@pytest.mark.parametrize("script", [JOB, PARALLEL], ids=["job", "parallel"])
def test_a_job_whose_time_is_up_saves_and_continues_when_it_is_queued_again(start, script, tmp_path, wait_for):
    store, log = Store(tmp_path), tmp_path / "log"
    options = [*TINY, "epochs=30", "task.checkpoint_epochs=1000", f"tracking.uri={store.uri}"]
    options += [f"hydra.run.dir={tmp_path}/out"]
    arguments = options if script == PARALLEL else ["python", "run.py", "task.resume=auto", *options]
    job = start(script, *arguments)
    wait_for(lambda: "epoch 2/30" in log.read_text() or job.poll() is not None)
    job.send_signal(signal.SIGUSR1)  # to the shell alone
    code = job.wait(120)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n", log.read_text()
    assert code == (75 if script == JOB else 1)
    assert [run.info.status for run in store.runs()] == ["KILLED"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if f"tracking.uri={store.uri}" in (p.info["cmdline"] or [])]
    assert start(script, *arguments).wait(300) == 0, log.read_text()
    assert "resumes from step" in log.read_text()
    (run,) = store.runs()
    assert run.info.status == "FINISHED"
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
