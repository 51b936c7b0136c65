"""Random command lines: each ends with a known exit code and at most two lines that a terminal shows as they are."""

import pytest

from tests.helpers.command_grammar import random_commands
from tests.helpers.run_commands import run_all


def problem(code: int, message: str) -> str | None:
    """Return what is wrong with the end of a command, or None."""
    lines = message.removesuffix("\n").split("\n") if message else []
    if code not in (0, 2, 3):
        return f"exit code {code}"
    if len(lines) > 2 or (code and not lines):
        return f"{len(lines)} lines"
    if not all(line.isprintable() for line in lines):
        return "control characters"
    return "a traceback" if "Traceback" in message else None


def check(commands: list[list[str]], folder) -> None:
    store = f"tracking.uri=sqlite:///{folder}/none/mlflow.db"
    options = [store, f"hydra.run.dir={folder}/out", f"hydra.sweep.dir={folder}/out"]
    given = [[*options, *command] if "-sc" not in command else command for command in commands]
    failed = [
        f"{wrong}: {command}\n    {message[:300]!r}"
        for command, (code, message) in zip(commands, run_all(given, folder), strict=True)
        if (wrong := problem(code, message))
    ]
    assert not failed, "\n".join(failed)
    assert not [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.slow
def test_25_random_commands(tmp_path):
    check(random_commands(17, 25), tmp_path)


@pytest.mark.slow
@pytest.mark.soak
def test_500_random_commands(tmp_path):
    check(random_commands(18, 500), tmp_path)


def test_the_grammar_has_all_kinds():
    arguments = [argument for command in random_commands(18, 3000) for argument in command]
    for text in ("\x1b", "\n", "\udcff", "${", "-m", "--cfg", "hydra.", "choice(", "runs=", "tracking.uri=", "++", "~"):
        assert any(text in argument for argument in arguments), text
    assert max(map(len, arguments)) > 10_000
    assert random_commands(18, 5) == random_commands(18, 5)
