"""Flags and overrides of a command line."""

import pytest

from rp2k_lab.cli.command_line import split_arguments
from rp2k_lab.core.errors import RequestError


@pytest.mark.parametrize(
    ("arguments", "flags", "overrides"),
    [
        ([], [], []),
        (["epochs=2", "-m", "seed=1,2"], ["-m"], ["epochs=2", "seed=1,2"]),
        (["--multirun", "seed=1,2"], ["-m"], ["seed=1,2"]),
        (["epochs=2", "--cfg", "job", "aug=cutout"], ["--cfg=job"], ["epochs=2", "aug=cutout"]),
        (["-c", "all", "-p", "optimizer", "--resolve"], ["--cfg=all", "--package=optimizer", "--resolve"], []),
        (["--info"], ["--info=all"], []),
        (["-i", "searchpath"], ["--info=searchpath"], []),
        (["--help", "model=resnet18"], ["-h"], ["model=resnet18"]),
        (["-sc", "install=bash"], ["-sc"], ["install=bash"]),
        (["--hydra-help", "--version"], ["--hydra-help", "--version"], []),
        (["--hydra-help", "-m", "epochs=1"], ["--hydra-help"], []),
        (["-h", "-m", "--resolve", "seed=1"], ["-h"], ["seed=1"]),
    ],
)
def test_flags_may_stand_anywhere(arguments, flags, overrides):
    assert split_arguments(arguments) == (flags, overrides)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--no-such-flag"], "--no-such-flag: there is no such flag"),
        (["seed=1", "--config-dir=/x"], "--config-dir=/x: there is no such flag"),
        (["--config-dir", "/x"], "--config-dir: there is no such flag"),
        (["--", "--config-dir=/x"], "--config-dir=/x: there is no such flag"),
        (["-cd", "/x"], "argument -c/--cfg: invalid choice: 'd'"),
        (["--mult", "seed=1,2"], "--mult: there is no such flag"),
        (["--cfg"], "argument -c/--cfg: expected one argument"),
        (["--cfg", "nothing"], "argument -c/--cfg: invalid choice: 'nothing'"),
        (["--multirun=1"], "argument -m/--multirun: ignored explicit argument '1'"),
        (["-m", "--cfg", "job"], "-m --cfg: each asks for something else"),
        (["-i", "-m"], "-m --info: each asks for something else"),
        (["-p", "aug"], "--package: has no effect without --cfg"),
        (["--resolve"], "--resolve: has no effect without --cfg"),
        (["-sc"], "-sc: needs install=, uninstall= or query="),
        (["-sc", "seed=1"], "-sc seed=1: needs install="),
        (["-sc", "query=csh"], "-sc query=csh: needs install="),
        (["-sc", "query=bash"], "-sc query=bash: is for the shell, which sets COMP_LINE"),
        (["--package"], "argument -p/--package: expected one argument"),
        (["--experimental-rerun=x"], "--experimental-rerun=x: there is no such flag"),
        (["~aug"], "~aug: keys cannot be removed"),
        (["hydra/sweeper=basic"], "hydra/sweeper=basic: there is no such choice"),
        (["scale=overnight"], "scale=overnight: there is no such choice"),
    ],
)
def test_wrong_arguments_are_refused_in_two_lines(arguments, reason, monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    with pytest.raises(RequestError) as error:
        split_arguments(arguments)
    assert str(error.value).startswith(reason)
    assert len(str(error.value).splitlines()) == 2
