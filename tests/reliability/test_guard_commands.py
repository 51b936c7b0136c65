"""Wrong command lines: exit code, at most two lines that start with the mistake, and no run.

Each line of wrong_commands.txt has the exit code, the command, and after ` => ` the start of its message.
"""

import os
import pickle
import shlex
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.tracking.journal import Journal
from rp2k_lab.tracking.provenance import FINGERPRINT
from tests.helpers.run_commands import run_all

LIST = Path(__file__).with_name("wrong_commands.txt")
# Must not appear in any output.
SECRET = "Sesame0pen"


@dataclass(frozen=True)
class WrongCommand:
    exit_code: int
    command: str
    message: str

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command)


def read_list() -> list[WrongCommand]:
    lines = [line for line in LIST.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    parts = [(*line.partition(" ")[::2],) for line in lines]
    return [WrongCommand(int(code), *rest.split(" => ")) for code, rest in parts]


class Executed:
    """A pickle that creates a folder when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, compose, write_photo):
    """The working folder of all commands: images, broken files, and a store of runs without artifacts."""
    folder = tmp_path_factory.mktemp("commands")
    for split in ("train", "test"):
        for name in ("甲", "乙"):
            for i in range(4):
                write_photo(folder / "photos" / split / name / f"{i}.png", seed=i)
    (folder / "nothing").mkdir()
    (folder / "note.txt").write_text("a note\n")
    (folder / "list.csv").write_text("file\na.png\n")
    (folder / "broken.pth").write_bytes(b"PK\x03\x04 broken")
    (folder / "hostile.pth").write_bytes(pickle.dumps(Executed()))
    record = yaml.safe_dump(compose("dataset=rp2k", f"dataset.root={folder}/photos"), allow_unicode=True)
    records = {
        "run": record,
        "hostile": record,
        "tagged": "!!python/object/apply:os.mkdir [executed]\n",
        "listed": "[]",
    }
    records["outside"] = record.replace("name: resnet18", "name: ../../photos")
    for name, text in records.items():
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "config.yaml").write_text(text, "utf-8")
        (folder / name / "classes.txt").write_text("乙\n甲\n")
        (folder / name / "checkpoints" / "best.ckpt").write_bytes(pickle.dumps(Executed()))
    (folder / "bare" / "checkpoints").mkdir(parents=True)
    (folder / "bare" / "checkpoints" / "best.ckpt").write_bytes(b"x")
    header = {"local_id": "0" * 32, "name": "trained", "store": None, "experiment": "rp2k-lab"}
    Journal(folder / "trained" / "0.journal").append("run", **header, tags={FINGERPRINT: "0" * 16})
    (folder / "damaged").mkdir()
    (folder / "damaged" / "0.journal").write_text("00000000 {}\n")
    (folder / "store").mkdir()
    client = mlflow.MlflowClient(f"sqlite:///{folder}/store/mlflow.db")
    experiment = client.create_experiment("rp2k-lab", (folder / "store" / "artifacts").as_uri())
    for name in ("earlier", "twin", "twin"):
        client.set_terminated(client.create_run(experiment, run_name=name).info.run_id)
    return folder


def complete(number: int, wrong: WrongCommand) -> list[str]:
    """Return the arguments with the store and the output folder of the test."""
    arguments = wrong.arguments
    if not any("tracking.uri" in a or a.startswith(("tracking=", "~")) for a in arguments):
        arguments.append("tracking.uri=sqlite:///store/mlflow.db")
    if not any("hydra.run.dir" in a for a in arguments):
        arguments.append(f"hydra.run.dir=out/{number}")
    return arguments + ([f"hydra.sweep.dir=out/{number}"] if "-m" in arguments else [])


def check(wrong: WrongCommand, code: int, message: str) -> str | None:
    """Return the problem of a result, or None."""
    lines = message.strip().splitlines()
    if code != wrong.exit_code:
        return f"exit code {code}"
    if not 1 <= len(lines) <= 2 or "Traceback" in message:
        return "not one or two lines"
    if not message.startswith(wrong.message):
        return "another message"
    return "a secret is printed" if SECRET in message else None


def count_runs(folder: Path) -> int:
    with sqlite3.connect(folder / "store" / "mlflow.db") as store:
        return store.execute("select count(*) from runs").fetchone()[0]


def check_nothing_left(folder: Path) -> None:
    assert count_runs(folder) == 3
    assert not (folder / "executed").exists()
    assert not [file for file in folder.glob("**/*.db") if file != folder / "store" / "mlflow.db"]
    assert not [file for file in (folder / "out").glob("**/*") if file.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.soak)], ids=["every-fifth", "all"])
def test_wrong_commands_in_forks_of_one_process(folder, step):
    wrong = read_list()[::step]
    commands = [complete(i, w) for i, w in enumerate(wrong)]
    failed = []
    for each, (code, message) in zip(wrong, run_all(commands, folder), strict=True):
        if problem := check(each, code, message):
            failed.append(f"{problem}: {each.command}\n    {code} {message}")
    assert not failed, "\n".join(failed)
    check_nothing_left(folder)


def test_list_covers_every_task_and_every_group():
    wrong = read_list()
    names = {argument.lstrip("+~").split("=")[0].split(".")[0] for w in wrong for argument in w.arguments}
    names |= {argument for w in wrong for argument in w.arguments}
    conf = PROJECT / "conf"
    groups = {path.name for path in conf.iterdir() if path.is_dir() and path.name != "hydra"}
    tasks = {f"task={path.stem}" for path in (conf / "task").glob("[!_]*.yaml")} - {"task=train"}
    assert groups | tasks <= names
    assert len(wrong) >= 200
    assert len({w.command for w in wrong}) == len(wrong)


def run_process(folder: Path, number: int, wrong: WrongCommand) -> None:
    command = [sys.executable, str(PROJECT / "run.py"), *complete(number, wrong)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    problem = check(wrong, done.returncode, done.stderr)
    assert not problem, f"{problem}: {wrong.command}\n{done.returncode} {done.stderr}"


@pytest.mark.slow
def test_four_wrong_commands_as_processes(folder):
    wrong = read_list()
    for number in range(0, len(wrong), len(wrong) // 4):
        run_process(folder, number, wrong[number])
    check_nothing_left(folder)


@pytest.mark.slow
@pytest.mark.soak
def test_all_wrong_commands_as_processes(folder):
    for number, wrong in enumerate(read_list()):
        run_process(folder, number, wrong)
    check_nothing_left(folder)
    shutil.rmtree(folder / "out", ignore_errors=True)
