"""What reaches a terminal: two lines, without control characters, credentials and endless values."""

import errno
import logging

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from rp2k_lab.cli.app import _PublicLines, explain_composition_error, report_error
from rp2k_lab.config import choices
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import shorten_middle, text_table

NAME = "a\x1b[2J\nforged: line\u202e"


@pytest.mark.parametrize(("kind", "code"), [(RequestError, 2), (DataError, 3)])
def test_names_are_escaped_and_stay_in_their_line(capsys, kind, code):
    assert report_error(kind(f"runs={NAME}: there is no such run\nuse runs=last")) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines == [r"runs=a\x1b[2J\nforged: line\u202e: there is no such run", "use runs=last"]


def test_unexpected_errors_are_escaped_too(capsys):
    assert report_error(ValueError("a\x1b]0;title\x07")) == 1
    assert capsys.readouterr().err.splitlines()[0] == r"ValueError: a\x1b]0;title\x07"


def test_traceback_of_debug_is_escaped(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", "debug=true"])
    assert report_error(RequestError(f"{NAME}\nuse b").with_traceback(None)) == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) > 2
    assert "\x1b" not in text


def test_a_value_of_a_megabyte_does_not_fill_the_terminal(capsys):
    report_error(RequestError(f"seed={'9' * 10**6}: input should be a valid integer\nuse another value"))
    first, way_out = capsys.readouterr().err.splitlines()
    assert len(first) < 3000
    assert first.startswith("seed=999")
    assert first.endswith("9: input should be a valid integer")
    assert way_out == "use another value"
    assert shorten_middle("abcdefg", 7) == "abcdefg"
    assert shorten_middle("abcdefgh", 7) == "abc…fgh"


def test_a_path_that_the_system_refuses_is_a_wrong_request(capsys):
    assert report_error(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300)) == 2
    assert capsys.readouterr().err == f"{'x' * 300}: File name too long\nuse another path\n"


def test_log_lines_are_escaped_and_redacted():
    record = logging.LogRecord("x", logging.INFO, "", 0, "run %s at http://u:pw@h", (NAME,), None)
    assert _PublicLines("%(message)s").format(record) == "run a\\x1b[2J\nforged: line\\u202e at http://h"


def test_tables_are_escaped():
    assert text_table([["run"], ["a\x1b[2J\nb"]], rule=False) == "run\na\\x1b[2J\\nb"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [a\nb: c\n", "no valid configuration in line 2 ("),
        ("- a\n", "no valid configuration (list: not a mapping)"),
        (b"name: \xff\n", "no valid configuration ("),
    ],
)
def test_a_broken_file_of_a_choice_is_named(tmp_path, text, reason):
    file = tmp_path / "broken.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError) as error:
        choices._parsed(file)
    first, way_out = str(error.value).split("\n")
    assert first.startswith(f"{file}: {reason}")
    assert way_out == choices.CORRECT_FILE


def test_hydra_names_a_broken_file_the_same_way(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("name: [a\nb: c\n")
    with pytest.raises(Exception, match="while parsing") as error:
        OmegaConf.load(file)
    assert explain_composition_error(error.value).startswith(f"{file}: no valid configuration in line 2")


@pytest.mark.parametrize(
    ("argument", "way_out"),
    [
        ("seed=1,2", "add -m for one run each, or use seed=[1,2] for a list"),
        ("model=resnet18,resnet50", "add -m for one run each"),
        ("dataset.root=/a,b/c", "quote a path: \"dataset.root='/a,b/c'\""),
    ],
)
def test_several_values_without_m_have_a_way_out(argument, way_out):
    error = HydraException(f"Ambiguous value for argument '{argument}'\n1. …")
    assert explain_composition_error(error) == f"{argument}: has several values\n{way_out}"


def test_a_group_that_does_not_exist_has_a_way_out():
    text = explain_composition_error(HydraException("In 'config': Could not find 'augment/cutout'"))
    assert text.startswith("augment=cutout: there is no such group\nuse one of ablation, aug")
