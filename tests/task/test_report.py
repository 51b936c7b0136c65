"""task=report: documents from a study, committed results or two runs, and refusals."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.ablation.claims import read_claims
from rp2k_lab.ablation.results import EXPERIMENTS, RESULTS, read_results, write_results
from rp2k_lab.config.ablation import Ablation, names
from rp2k_lab.config.choices import defaults_of
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.sweep import collect as collect_module
from rp2k_lab.task import report
from rp2k_lab.tracking.tracker import MlflowTracker
from tests.helpers import synthetic_results

TRUTH = {"stretch": 0.6, "letterbox": 0.7, "stretch without size cue": 0.6, "letterbox without size cue": 0.61}
DOCUMENTS = {"README.md", "report.html", "verdict.csv", "figure.svg"}


@pytest.fixture(autouse=True)
def studies(monkeypatch):
    """(ablation name to the results of its study, filled by the test; the arguments of each call)."""
    results, calls = {}, []

    def collect(ablation, scale, study, storage, tracking):
        calls.append((ablation.name, scale, study, storage))
        return results.get(ablation.name)

    monkeypatch.setattr(collect_module, "collect", collect)
    results_and_calls = results, calls
    return results_and_calls


@pytest.fixture
def request_of(compose, tmp_path):
    return lambda *overrides: parse(compose("task=report", "scale=laptop", f"task.output={tmp_path}", *overrides))


@pytest.fixture
def every_table(monkeypatch):
    """Replace `conf/ablation/`, which needs Hydra."""
    monkeypatch.setattr(report, "defaults_of", lambda _, name: synthetic_results.ablation(name).model_dump())


def test_study_gives_results_and_documents(request_of, studies, tmp_path, capsys):
    results, calls = studies
    cells, images = synthetic_results.results(TRUTH, images=500)
    results["resize"] = cells.iloc[::-1], images
    report.run(request_of("ablation=resize", "task.study=mine"), tmp_path)
    assert calls == [("resize", "laptop", "mine", None)]
    assert {file.name for file in tmp_path.iterdir()} == DOCUMENTS | {"results.csv", "images.csv"}
    assert list(dict.fromkeys(read_results(tmp_path).table["level"])) == list(TRUTH)  # the table's order
    out = capsys.readouterr().out
    assert "Does keeping a product's shape" in out
    assert "letterbox against stretch: better: +" in out
    assert "verdict     better: letterbox; inconclusive: 1 of 2" in out
    assert "next        open report.html" in out
    assert str(tmp_path) in out


def test_committed_results_are_used_without_a_study_and_replaced_by_one(request_of, studies, tmp_path, capsys):
    write_results(tmp_path, *synthetic_results.results(TRUTH, images=500))
    before = (tmp_path / RESULTS).read_bytes()
    config = request_of("ablation=resize")
    report.run(config, tmp_path)
    first = (tmp_path / "README.md").read_bytes()
    report.run(config, tmp_path)
    assert (tmp_path / "README.md").read_bytes() == first
    assert (tmp_path / RESULTS).read_bytes() == before
    studies[0]["resize"] = synthetic_results.results({"stretch": 0.5}, [0, 3], images=300)
    capsys.readouterr()
    report.run(config, tmp_path)
    assert read_results(tmp_path).table["level"].tolist() == ["stretch", "stretch"]
    out = capsys.readouterr().out
    assert "next        python run.py -m ablation=resize scale=laptop seed=0,1,2,3 runs the 14 that lack" in out


def test_a_report_at_scale_smoke_stays_in_the_runs_folder(compose, studies, every_table, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "EXPERIMENTS", tmp_path / "experiments")
    studies[0]["resize"] = synthetic_results.results(TRUTH, [0], images=50)
    report.run(parse(compose("task=report", "scale=smoke", "ablation=resize")), tmp_path / "run")
    assert {file.name for file in (tmp_path / "run").iterdir()} == DOCUMENTS | {"results.csv", "images.csv"}
    report.run(parse(compose("task=report", "scale=smoke", "ablation=all")), tmp_path / "all")
    assert (tmp_path / "all" / "resize" / "smoke" / "README.md").is_file()
    assert not (tmp_path / "experiments").exists()
    report.run(parse(compose("task=report", "scale=laptop", "ablation=resize")), tmp_path / "unused")
    assert (tmp_path / "experiments" / "resize" / "laptop" / "README.md").is_file()


def test_without_results_the_message_names_the_command(request_of, tmp_path):
    with pytest.raises(RequestError, match=r"^ablation=resize scale=paper: no results") as error:
        report.run(request_of("ablation=resize", "scale=paper"), tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert lines[1] == "make them: python run.py -m ablation=resize scale=paper dataset.root=FOLDER"
    assert not any(tmp_path.iterdir())


def test_damaged_results_are_unusable_data(request_of, tmp_path):
    write_results(tmp_path, *synthetic_results.results(TRUTH, images=50))
    (tmp_path / RESULTS).write_text("level\n", "utf-8")
    with pytest.raises(DataError, match="no column"):
        report.run(request_of("ablation=resize"), tmp_path)


def test_all_writes_every_table_and_an_overview(request_of, studies, every_table, tmp_path, capsys):
    studies[0]["resize"] = synthetic_results.results(TRUTH, images=500)
    write_results(tmp_path / "attention" / "laptop", *synthetic_results.results({"none": 0.5, "SE": 0.5}, [0], 100))
    write_results(tmp_path / "tail" / "paper", *synthetic_results.results({"plain": 0.5}, [0], 100))
    report.run(request_of("ablation=all"), tmp_path)
    for folder in ("resize/laptop", "attention/laptop"):
        assert {file.name for file in (tmp_path / folder).iterdir()} == DOCUMENTS | {"results.csv", "images.csv"}
    assert not (tmp_path / "tail" / "paper" / "README.md").exists()  # another scale is not touched
    text = (tmp_path / "README.md").read_text("utf-8")
    paper, laptop, without = (part.split("\n\n")[1] for part in text.split("\n## ")[1:4])
    assert paper.startswith("- [**tail**](<tail/paper/README.md>): Do class-balanced")
    assert [line[:14] for line in laptop.strip().split("\n")] == ["- [**attention", "- [**resize**]"]
    assert "better: letterbox" in laptop
    assert "- **tail**: python run.py -m ablation=tail scale=laptop" in without
    asked = [name for name in names() if len(synthetic_results.ablation(name).level_names("laptop")) > 1]
    assert "grocery_recipe" not in asked
    assert without.strip().count("\n") == len(asked) - 3  # the others, a line each
    out = capsys.readouterr().out
    assert "Without results at scale laptop" in out
    assert f"overview    {tmp_path / 'README.md'}" in out


def test_all_without_any_results_is_refused(request_of, every_table, tmp_path):
    with pytest.raises(RequestError, match=r"^ablation=all: no table has results\nmake the first: "):
        report.run(request_of("ablation=all"), tmp_path)


def test_all_puts_published_claims_beside_the_tables(request_of, every_table, tmp_path, capsys):
    write_results(tmp_path / "resize" / "laptop", *synthetic_results.results(TRUTH, images=500))
    write_results(tmp_path / "tail" / "paper", *synthetic_results.results({"plain": 0.5}, [0], 100))
    claims = [
        {"claim": "Letterbox <b>wins</b>", "table": "resize", "levels": ["letterbox"], "conclusion": "It does."},
        {"claim": "The tail gains", "table": "tail", "conclusion": "Not compared."},
        {"claim": "C++ is fast", "conclusion": "No table."},
    ]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(claims), "utf-8")
    report.run(request_of("ablation=all"), tmp_path)
    assert f"claims      {tmp_path / 'tables.md'}" in capsys.readouterr().out
    text = (tmp_path / "tables.md").read_text("utf-8")
    assert "Letterbox <b>" not in text
    assert "| C++ is fast | No table. |" in text
    row = next(line for line in text.splitlines() if line.startswith("| letterbox against stretch "))
    assert re.match(r"\| letterbox against stretch \| \+3\.17 \| yes \| laptop \| ▲ better \| \+\d", row)
    assert "without size cue" not in text  # not a level of the claim
    assert "| class-balanced sampling against plain | – | – | paper | not compared | – | – | – |" in text
    picture = (tmp_path / "tables.svg").read_text("utf-8")
    assert picture.count('class="published"') == 2  # the row and the legend
    assert "resize: letterbox (laptop)" in picture
    (tmp_path / "claims.yaml").write_text("- claim: x\n", "utf-8")
    with pytest.raises(DataError, match=r"claims.yaml: not a list of claims .*conclusion.*\nrestore it from git"):
        report.run(request_of("ablation=all"), tmp_path)


def test_the_committed_claims_name_tables_and_levels():
    for claim in read_claims(EXPERIMENTS):
        if claim.table:
            levels = Ablation.model_validate(defaults_of("ablation", claim.table)).levels
            assert set(claim.levels) <= levels.keys(), claim.claim


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "^ablation=none: task=report takes either a table, a search or two runs\nuse "),
        (["ablation=resize", "runs=[a,b]"], "^ablation=resize and runs=a,b: .*\nuse "),
        (["runs=a"], r"^runs=a: task=report takes no or 2 earlier runs\nuse runs=\[a,b\]"),
        (["runs=[a,b,c]"], "takes no or 2 earlier runs"),
    ],
)
def test_needs_a_table_or_two_runs(request_of, overrides, message):
    with pytest.raises(RequestError, match=message):
        request_of(*overrides)


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """Folders of four runs: two on the same images, one on others, one without test."""
    rng, folders = np.random.default_rng(0), {}
    classes = pd.DataFrame({"class": ["冰炫", "others"], "group": ["head", "tail"]})
    for name, chance, first in (("plain", 0.5, 0), ("better", 0.7, 0), ("elsewhere", 0.5, 9), ("untested", 0, 0)):
        folders[name] = folder = tmp_path_factory.mktemp(name)
        config = {"seed": 0, "aug": {"name": name}, "tracking": {"uri": "secret"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
        for part in ("checkpoints", "test"):
            (folder / part).mkdir()
        (folder / "checkpoints" / "best.ckpt").touch()
        if name != "untested":
            paths, true = [f"test/{i + first}.jpg" for i in range(400)], ["冰炫", "others"] * 200
            table = pd.DataFrame({"path": paths, "true": true, "correct": rng.random(400) < chance})
            table.to_parquet(folder / "test" / "predictions.parquet")
            classes.to_parquet(folder / "test" / "per_class.parquet")
    return folders


def checkpoints(tested, *names):
    return ",".join(str(tested[name] / "checkpoints" / "best.ckpt") for name in names)


@pytest.mark.slow  # the first import of MLflow starts a process
def test_two_runs_of_a_store_are_compared(compose, request_of, tested, tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    for name in ("plain", "better"):
        with MlflowTracker(parse(compose(f"tracking.uri={uri}")).tracking, name, tmp_path / name) as tracker:
            tracker.log_artifact(tested[name] / "config.yaml")
            for file in (tested[name] / "test").iterdir():
                tracker.log_artifact(file, "test")
    report.run(request_of("runs=[plain,better]", f"tracking.uri={uri}", f"task.output={tmp_path}/out"), tmp_path)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"README.md", "report.html", "figure.svg"}
    out = capsys.readouterr().out
    assert f"second      better ({tracker.run_id[:8]})" in out
    assert "aug.name: plain → better" in out
    assert "the spread between seeds is not in it" in out
    lines = [line.split() for line in out.splitlines()]
    assert [line[1] for line in lines if line[:1] in (["top-1"], ["head"], ["tail"])] == ["400", "200", "200"]
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "The photos of the first run are not on this machine." in text
    assert "| aug.name | plain | better |" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (("plain", "elsewhere"), "tested on different photos"),
        (("plain", "untested"), "the run has no test/predictions.parquet"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(request_of, tested, tmp_path, runs, message):
    with pytest.raises(RequestError, match=message) as error:
        report.run(request_of(f"runs=[{checkpoints(tested, *runs)}]"), tmp_path)
    assert len(str(error.value).splitlines()) == 2
    assert not any(tmp_path.iterdir())


def test_damaged_file_of_a_run_is_unusable_data(request_of, tested, tmp_path):
    shutil.copytree(tested["plain"], tmp_path / "damaged")
    (tmp_path / "damaged" / "test" / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"is damaged .*\nrestore the file, or name another run"):
        report.run(request_of(f"runs=[{tmp_path}/damaged/checkpoints/best.ckpt,x]"), tmp_path)


def run_py(folder, *arguments):
    command = [sys.executable, *arguments, f"hydra.run.dir={folder}/out", f"tracking.uri=sqlite:///{folder}/no.db"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_command_reports_a_table_without_importing_mindspore(tmp_path):
    write_results(tmp_path / "here", *synthetic_results.results(TRUTH, images=300))
    done = run_py(tmp_path, "-X", "importtime", PROJECT / "run.py", "task=report", "ablation=resize", "scale=laptop",
                  "task.output=here", f"task.storage=sqlite:///{tmp_path}/no_studies.db")  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "verdict     " in done.stdout
    assert {file.name for file in (tmp_path / "here").iterdir()} >= DOCUMENTS
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "rp2k_lab.ablation.verdict" in imported
    assert not {"mindspore", "matplotlib"} & imported


@pytest.mark.slow
def test_command_compares_two_runs_without_restoring_them(tested, tmp_path):
    """Their configurations are incomplete and could not be restored."""
    runs = f"runs=[{checkpoints(tested, 'plain', 'better')}]"
    done = run_py(tmp_path, PROJECT / "run.py", "task=report", runs)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"README.md", "report.html", "figure.svg"}
