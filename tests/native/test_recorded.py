"""Whether the native kernels were on is recorded with each run and cell, and said when it differs."""

import json
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from rp2k_lab import native
from rp2k_lab.ablation.report import README, write_documents
from rp2k_lab.ablation.results import check_results, read_results, write_results
from rp2k_lab.ablation.verdict import judge_table
from rp2k_lab.config.schema import parse
from rp2k_lab.core.text import counted
from rp2k_lab.device import target
from rp2k_lab.sweep import collect
from rp2k_lab.tracking.mlflow_runs import RunInfo
from rp2k_lab.tracking.provenance import environment, environment_changes, environment_tag, native_tag
from rp2k_lab.train import resume
from tests.helpers import synthetic_results

ON, OFF = native.State(1), native.State(reason="no compiler")
FIRST = {"cores": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # of a run before the native kernels


@pytest.fixture
def kernels(monkeypatch):
    """kernels(state): pretend that this process has the native kernels or not, and the instructions that follow."""

    def choose(state: native.State) -> None:
        monkeypatch.setattr(native, "state", lambda: state)
        if state is ON:
            monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        else:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")

    return choose


def native_lines(tag: str) -> list[str]:
    changes = environment_changes(tag)
    return [line for line in changes if "native" in line or "ISA" in line]


def test_a_change_is_one_line(kernels):
    kernels(OFF)
    off = environment_tag()
    assert native_lines(off) == []
    kernels(ON)
    assert native_lines(off) == ["the run has native=off, now 1"]
    both, on = environment_tag(off), environment_tag()
    assert native_lines(on) == []
    assert native_lines(both) == ["the run has native=1 and off, now 1"]
    kernels(OFF)
    assert native_lines(on) == ["the run has native=1, now off"]
    kernels(native.State(2))
    assert native_lines(on)[-1] == "the run has native=1, now 2"


def test_a_run_before_the_kernels_had_none(kernels):
    kernels(OFF)
    assert native_lines(json.dumps([FIRST])) == []
    kernels(ON)
    assert native_lines(json.dumps([FIRST])) == ["the run has native=off, now 1"]


def test_instructions_of_the_user_are_another_change(kernels, monkeypatch):
    kernels(ON)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    assert native_lines(json.dumps([FIRST])) == [
        "the run has ONEDNN_MAX_CPU_ISA=AVX2, now AVX512_CORE",
        "the run has native=off, now 1",
    ]


def test_the_tag_of_a_run_has_every_part_of_its_training(kernels, defaults, monkeypatch):
    monkeypatch.setattr(resume, "git_state", dict)
    config = parse(defaults)
    info = RunInfo("0" * 32, "0", "a", "KILLED", datetime.now().astimezone(), "", "", {}, {})
    kernels(ON)
    assert native_tag() == "1"
    assert resume.Start(Path(), info).tags(config, None)["native"] == "1,off"
    for tag, tags in (("1", "1"), ("off", "1,off"), ("1,off", "1,off")):
        info.tags["native"] = tag
        assert resume.Start(Path(), info).tags(config, None)["native"] == tags
    kernels(OFF)
    assert native_tag() == "off"


@pytest.mark.slow  # Python asks uname for the platform
def test_the_log_and_the_record_name_the_reason(kernels, defaults, caplog):
    caplog.set_level("INFO")
    device = parse(defaults).device
    for state, text in ((ON, "native kernels: version 1"), (OFF, "native kernels: off (no compiler)")):
        kernels(state)
        target.set_up(device)
        assert caplog.messages[-1] == text
        assert f"# {text}" in environment().splitlines()


def test_cells_of_a_study_have_the_tag_of_their_runs(monkeypatch, tmp_path):
    """The second cell's run is older than the kernels."""
    noon = datetime(2026, 1, 1, 12).astimezone()
    runs = [
        RunInfo(f"{i:032x}", "0", "a", "KILLED", noon, "", "", tags, {}) for i, tags in enumerate(({"native": "1"}, {}))
    ]
    space = {
        "level": optuna.distributions.CategoricalDistribution(["a"]),
        "seed": optuna.distributions.IntDistribution(0, 9),
    }
    study = optuna.create_study()
    for seed, run in enumerate(runs):
        trial = {"params": {"level": "a", "seed": seed}, "distributions": space, "user_attrs": {"run_id": run.run_id}}
        study.add_trial(optuna.trial.create_trial(**trial, state=optuna.trial.TrialState.FAIL))
    opened = SimpleNamespace(user_attrs={"definition": {"a": "aug=none"}}, get_trials=study.get_trials)
    monkeypatch.setattr(collect, "read_study", lambda storage, name: nullcontext(opened))
    monkeypatch.setattr(collect, "RunStore", lambda uri: SimpleNamespace(get={run.run_id: run for run in runs}.get))
    table = collect.collect(synthetic_results.table_of("a"), "laptop", None, None, SimpleNamespace(uri=None))
    assert table is not None
    write_results(tmp_path, *table)
    assert read_results(tmp_path).table["native"].tolist() == ["1", ""]


def judged(changes: dict[str, list[str]] | None):
    """Judge a table of two levels and two seeds; `changes`: the column `native` of each level."""
    cells, images = synthetic_results.results({"plain": 0.6, "good": 0.7}, [0, 1], 200)
    if changes:
        cells["native"] = [tag for level in cells["level"].unique() for tag in changes[level]]
    table = synthetic_results.table_of("plain", "good")
    return judge_table(table, "laptop", check_results(cells, images, "synthetic"))


@pytest.mark.parametrize(
    ("changes", "counts", "note"),
    [
        (None, {}, None),
        ({"plain": ["1", "1"], "good": ["1", "1"]}, {"1": 4}, None),
        ({"plain": ["1", "1"], "good": ["1", ""]}, {"1": 3, "off": 1}, "its cells are of 2 native kernels: 1, off"),
        ({"plain": ["off", ""], "good": ["2", "2"]}, {"2": 2, "off": 2}, "other native kernels than plain's"),
    ],
)
def test_a_table_names_different_kernels(tmp_path, changes, counts, note):
    table = judged(changes)
    assert table.natives == counts
    good = next(row for row in table.rows if row.level == "good")
    assert [text for text in good.notes if "native" in text and text == note] == [note] * (note is not None)
    write_documents(table, tmp_path)
    text = (tmp_path / README).read_text("utf-8")
    assert ("native kernels: " in text.replace("**", "")) == bool(counts)
    for tag, cells in counts.items():
        assert f"{tag} ({counted(cells, 'run')})" in text
