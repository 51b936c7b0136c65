"""A password or token in a URI is neither printed nor stored."""

import json
import os

import psutil
import pytest

from rp2k_lab.core import redaction
from tests.helpers.tiny_runs import TINY

SECRET = "Sesame0pen"


def files_with_secret(folder) -> list[str]:
    """Return the files in a folder that contain the secret, databases included."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return [str(file) for file in files if SECRET.encode() in file.read_bytes() or SECRET in file.name]


@pytest.mark.soak
def test_study_and_its_runs_never_write_it(start, server, tmp_path, wait_for):
    address = server.address.replace("http://", f"http://user:{SECRET}@")
    arguments = ["-m", "hydra/sweeper=optuna", "seed=0,1", "hydra.sweeper.n_trials=1", "hydra.sweeper.study=hidden"]
    command = start(*arguments, f"hydra.sweeper.storage=sqlite:///{tmp_path}/optuna.db", *TINY, "epochs=1", uri=address)
    for line in command.process.stdout:
        if line.startswith("trial 0 starts"):
            break
    study = psutil.Process(command.process.pid)
    (trial,) = wait_for(lambda: [p for p in study.children() if any("tracking.uri=" in word for word in p.cmdline())])
    assert SECRET not in " ".join(trial.cmdline())
    code, out, err = command.wait()
    assert code == 0, err
    assert SECRET not in out + err
    assert files_with_secret(command.folder) + files_with_secret(tmp_path) == []


class TestRedact:
    @pytest.fixture(autouse=True)
    def _no_known_secrets(self, monkeypatch):
        monkeypatch.setitem(os.environ, redaction._VARIABLE, "{}")

    @pytest.mark.parametrize(
        ("argument", "shown", "address"),
        [
            ("tracking.uri=http://u:s3cret@h:1/x", "tracking.uri=http://h:1/x", "http://u:s3cret@h:1/x"),
            ("tracking.uri='http://u:p@ss@h'", "tracking.uri='http://h'", "http://u:p@ss@h"),
            ("tracking.uri=http://u:p/ss@h", "tracking.uri=http://h", "http://u:p/ss@h"),
            ("tracking.uri='http://h?token=s&a=1'", "tracking.uri='http://h?token=***&a=1'", "http://h?token=s&a=1"),
            (r"task.storage=pg://h?password\=s", r"task.storage=pg://h?password\=***", "pg://h?password=s"),
        ],
    )
    def test_secret_is_removed_from_the_command_line_and_restored_for_the_store(self, argument, shown, address):
        assert redaction.redact_args([argument, "seed=1"]) == [shown, "seed=1"]
        public = shown.partition("=")[2].strip("'").replace("\\=", "=")
        assert redaction.restore_uri(public) == address
        assert redaction.redact(f"cannot open {address} today") == f"cannot open {public} today"

    @pytest.mark.parametrize("argument", ["tracking.uri=sqlite:////a@b/c.db", "tracking.uri=http://h:1", "-m", "a=b@c"])
    def test_other_arguments_stay_unchanged(self, argument):
        assert redaction.redact_args([argument]) == [argument]
        assert json.loads(os.environ[redaction._VARIABLE]) == {}

    def test_nested_settings_are_redacted(self):
        settings = {"tracking": {"uri": "http://u:p@h"}, "runs": ["a", None], "seed": 1}
        assert redaction.redact_tree(settings) == {"tracking": {"uri": "http://h"}, "runs": ["a", None], "seed": 1}
