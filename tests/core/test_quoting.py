"""Paths with every kind of character, written into Hydra's overrides, shell commands and SQLite addresses and back."""

import os
import shlex
from pathlib import Path

import pytest
import sqlalchemy

from rp2k_lab.core.quoting import expand_home, hydra_value, shell_override, sqlite_file, sqlite_query, sqlite_url

PATHS = [
    "/plain/path-1.0",
    "/o'brien/100%2F ünï [a],b=$c#?",
    "/a\\",
    "/a\\'b\\\\'",
    '/"x"\'',
    "/a{b}(c):d",
    "/${project:outputs}/\\${x}/$",
    "/line\nfeed\ttab",
    "/数据;a&b|c*d~",
]


@pytest.mark.parametrize("path", PATHS)
def test_hydra_reads_back_a_quoted_path(compose, path):
    assert compose(f"runs=[{hydra_value(path)},{hydra_value('b')}]")["runs"] == [path, "b"]
    assert compose("dataset=rp2k", f"dataset.root={hydra_value(path)}")["dataset"]["root"] == path


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "null", "1", "", ["a,b", ["c'"], 2]])
def test_hydra_reads_back_other_values(compose, value):
    assert compose(f"runs={hydra_value(value)}")["runs"] == value


@pytest.mark.parametrize("path", PATHS)
def test_a_shell_and_hydra_read_back_a_printed_override(compose, path):
    (argument,) = shlex.split(shell_override("runs", path))
    assert compose(argument)["runs"] == path


def test_a_plain_override_is_printed_as_it_is():
    assert shell_override("runs", "/a/b-c.d") == "runs=/a/b-c.d"
    assert shell_override("tracking.uri", "sqlite:////a/b.db") == "tracking.uri=sqlite:////a/b.db"


@pytest.mark.parametrize("path", PATHS)
def test_sqlalchemy_opens_the_file_of_an_address(path):
    address = sqlite_url(Path(path), "?timeout=30")
    assert sqlalchemy.make_url(address).database == path
    assert sqlite_file(address) == Path(path)
    assert sqlite_query(address) == "?timeout=30"


def test_addresses_of_relative_and_home_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert sqlite_file("sqlite:///a/../b.db") == tmp_path / "b.db"
    assert sqlite_file("sqlite:///~/b.db") == Path("/home/me/b.db")
    assert sqlite_file("sqlite+pysqlite:////a/b.db") == Path("/a/b.db")
    others = ("http://host:1", "sqlite://", "sqlite:///", "sqlite:///:memory:", "postgresql://host/a", "./mlruns")
    assert all(sqlite_file(other) is None for other in others)


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("dataset.root=~/data", "dataset.root=/home/me/data"),
        ("runs=[~/a,'~/b c']", "runs=[/home/me/a,'/home/me/b c']"),
        ("runs=~", "runs=/home/me"),
        ("tracking.uri=sqlite:///~/x.db", "tracking.uri=sqlite:////home/me/x.db"),
        ("a=b~c", "a=b~c"),
        ("~a=b", "~a=b"),
        ("-m", "-m"),
    ],
)
def test_home_is_expanded_at_the_start_of_a_value(monkeypatch, argument, expanded):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home(argument) == expanded


def test_home_with_a_space_is_quoted(monkeypatch, compose):
    monkeypatch.setenv("HOME", "/home/o'brien x")
    assert compose(expand_home("runs=~/a"))["runs"] == os.path.expanduser("~/a")
