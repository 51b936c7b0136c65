"""Records that commit ab2c967 wrote: the code of today opens, resumes and judges them.

Each test names the record that it opens; tests/fixtures/ab2c967/README.md has the commands that wrote them.
"""

import json
import lzma
import re
import shutil
import sqlite3
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.config.choices import choices
from rp2k_lab.config.migrations import parse_record
from rp2k_lab.config.schema import parse
from rp2k_lab.dataset.shelf.generate import make_shelf
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.tracking.provenance import fingerprint
from rp2k_lab.train.verify import with_closing
from tests.helpers.forked_run import start_run

pytestmark = pytest.mark.slow

FIXTURES = PROJECT / "tests" / "fixtures" / "ab2c967"
HELPERS = PROJECT / "tests" / "helpers"
# Of make.py, with today's names of the keys.
OPTIONS = (
    "dataset.classes=8",
    "dataset.train_images=192",
    "dataset.val_images=0",
    "dataset.val_fraction=0.2",
    "dataset.test_images=64",
    "dataset.min_train_images=5",
    "dataset.catch_all_class=others",
    "batch_size=16",
    "size=32",
    "model.width_multiplier=0.03125",
    "model.depth_multiplier=0.5",
    "task.chance_guard.epochs=7",
    "task.chance_guard.action=warn",
    "device.num_threads=1",
)
# The defaults of that commit that are others today.
FORMER = ("dataset.ratio_spread=1", "dataset.min_val_images=1", "dataset.min_test_images=4")
TABLE = ("-m", "ablation=tail", "scale=smoke", "epochs=6", "task.checkpoints_kept=1", *OPTIONS)
SEARCH = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.pruner=none", "tracking=offline", "epochs=1", "task.test=false")


@pytest.fixture
def records(tmp_path) -> Path:
    """A copy of the recorded clone, of which a test may change everything."""
    return copy_records(tmp_path / "clone")


def copy_records(clone: Path) -> Path:
    """Copy the recorded clone, unpack its databases, and replace /clone by the copy's folder in them.

    Files of runs stay as they are: a run's folder may be moved, and is then named by runs=FOLDER.
    """
    shutil.copytree(FIXTURES / "clone", clone, symlinks=True)
    for packed in (clone / "mlruns").glob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        with sqlite3.connect(packed.with_suffix("")) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for _, column, kind, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                    if kind.startswith(("VARCHAR", "TEXT")):
                        replaced = f"""SET "{column}" = replace("{column}", '/clone/', ?)"""
                        where = f"""WHERE instr("{column}", '/clone/')"""
                        database.execute(f'UPDATE "{table}" {replaced} {where}', [f"{clone}/"])
        database.close()
    return clone


def run(folder: Path, *arguments: str, script: Path = PROJECT / "run.py") -> str:
    """Run a command to its end, with outputs in `folder`; return its stdout."""
    folder.mkdir()
    overrides = [f"hydra.run.dir={folder}/out", f"hydra.sweep.dir={folder}/out"]
    process = start_run([*arguments[:1], *overrides, *arguments[1:]], folder, script)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def journal_of(folder: Path) -> list[dict]:
    """The records of the only journal in a folder."""
    (journal,) = folder.glob("*.journal")
    return [json.loads(line.partition(" ")[2]) for line in journal.read_text("utf-8").splitlines()]


def history_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Metric name to (step, value) in order, but for speeds and loads, which no two runs share."""
    history: dict[str, list[tuple[int, float]]] = {}
    for record in journal_of(folder):
        for name, value in record.get("metrics", {}).items():
            if not re.search("per_second|^system/", name):
                history.setdefault(name, []).append((record["step"], value))
    return history


def tag_of(folder: Path, tag: str) -> str:
    """The last value of a tag in a run's journal."""
    return [record["tags"][tag] for record in journal_of(folder) if tag in record.get("tags", {})][-1]


def test_an_interrupted_run_resumes_and_ends_with_the_history_of_an_uninterrupted_one(records, tmp_path):
    """Killed in step 14 of 27, in mid-epoch, with a checkpoint after each step; its folder was moved."""
    folder = records / "outputs" / "interrupted"
    expected = json.loads((FIXTURES / "expected" / "history.json").read_text("utf-8"))
    assert len(history_of(folder)["train/loss"]) == 13
    out = run(tmp_path / "new", f"runs={folder}", "task.resume=continue", "tracking=offline")
    assert "from step 13" in out
    resumed = history_of(folder)
    expected = with_closing(expected)
    assert resumed.keys() == expected.keys()
    for name, values in expected.items():
        assert [step for step, _ in resumed[name]] == [step for step, _ in values], name
        # On the machine of the records the bits are equal; with another number of cores or another instruction set of
        # oneDNN the losses were 1.5e-7 apart.
        numbers = [float.fromhex(value) for _, value in values]
        assert [value for _, value in resumed[name]] == pytest.approx(numbers, rel=1e-5), name
    assert (tag_of(folder, "status"), tag_of(folder, "resumed_from")) == ("FINISHED", "13")


def test_an_interrupted_run_is_found_by_its_configuration(records, tmp_path):
    """The same run under outputs/, without a store: task.resume=auto, and the command that began it."""
    tmp_path.joinpath("new").mkdir()
    own = ["epochs=3", "aug=cutout", "model.drop_rate=0.1", "optimizer.ema_decay=0.9"]
    command = [str(records / "outputs"), *OPTIONS, *FORMER, *own, "task.resume=auto", "tracking=offline"]
    script, place = HELPERS / "run_with_outputs.py", f"hydra.run.dir={tmp_path}/new/out"
    process = start_run([*command, place, f"tracking.uri=sqlite:///{tmp_path}/no.db"], tmp_path, script)
    line = next((line for line in process.stdout if "step 13" in line), None)
    process.kill()
    _, err = process.communicate(timeout=300)
    assert line, err
    (journal,) = (records / "outputs" / "interrupted").glob("*.journal")
    assert journal.stem in line  # its id


def test_a_finished_run_in_an_mlflow_store_is_found_by_its_configuration(records, tmp_path):
    """The run of a table's first cell, whose folder is gone."""
    own = ["epochs=6", "task.resume=auto", f"tracking.uri=sqlite:///{records}/mlruns/mlflow.db"]
    out = run(tmp_path / "new", *OPTIONS, *FORMER, *own)
    cell = pd.read_csv(FIXTURES / "expected" / "report_tail" / "results.csv").iloc[0]
    assert f"run plain, seed 0, id {cell['run_id']}, is FINISHED" in out


@pytest.mark.soak
def test_runs_of_other_choices_are_not_found(compose, tmp_path):
    """task.resume=auto compares fingerprints: each choice of a group has another one."""
    files = {"table": ["dataset.table=t.csv"], "coco": ["dataset.annotations=a.json"]}
    for group in ("dataset", "model", "aug", "aug/erase", "loss", "optimizer", "schedule", "callback", "device"):
        named = [(f"{group}={choice}", *files.get(choice, [])) for choice in choices(group)]
        composed = (compose(*each, f"dataset.root={tmp_path}", "task=convert", "task.input=w.pth") for each in named)
        fingerprints = [fingerprint(parse(settings)) for settings in composed]
        assert len(set(fingerprints)) == len(fingerprints) > 1, group


def test_a_finished_run_is_evaluated_as_it_was(records, tmp_path):
    """A finished run of loss=logit_adjusted without the catch-all class: its best checkpoint, on test."""
    folder = records / "outputs" / "finished"
    run(tmp_path / "new", "task=evaluate", f"runs={folder}", "task.split=test", "tracking=offline")
    for name in ("predictions", "per_class", "confusion_pairs"):
        former, found = (
            pd.read_parquet(place / "test" / f"{name}.parquet") for place in (folder, tmp_path / "new/out")
        )
        pd.testing.assert_frame_equal(found[former.columns], former, rtol=1e-4)
    assert tag_of(tmp_path / "new" / "out", "dataset_fingerprint") == tag_of(folder, "dataset_fingerprint")


@pytest.mark.soak
def test_a_finished_run_predicts_what_it_did(records, tmp_path):
    """The same run, on the files of test."""
    folder, output = records / "outputs" / "finished", tmp_path / "found.csv"
    shelf = shelf_of(folder)
    run(tmp_path / "new", "task=predict", f"runs={folder}", f"task.input={shelf}/test", f"task.output={output}",
        "tracking=offline")  # fmt: skip
    former = pd.read_parquet(folder / "test" / "predictions.parquet")
    found = pd.read_csv(output).set_index("path")
    assert len(found) == 64  # with the catch-all class, which that run left out
    found = found.loc[former["path"].str.removeprefix("test/")].reset_index()
    columns = [f"{kind}{rank}" for rank in range(1, 6) for kind in ("top", "p")]
    pd.testing.assert_frame_equal(found[columns], former[columns], rtol=1e-4, check_dtype=False)


@pytest.mark.soak
def test_the_errors_of_a_finished_run_are_analysed(records, tmp_path):
    """The same run: what it got wrong on test is in the page's table."""
    folder = records / "outputs" / "finished"
    out = run(tmp_path / "new", "task=errors", f"runs={folder}", "task.split=test", "tracking=offline")
    former = pd.read_parquet(folder / "test" / "predictions.parquet")
    assert f"{(~former['correct']).sum()} of {len(former)} photos" in out


def test_a_study_of_a_table_continues_and_is_judged(records, tmp_path):
    """An Optuna database and an MLflow store.

    Two cells are complete, the second by a trial that resumed another's run; the third was stopped twice in training.
    """
    storage, store = f"sqlite:///{records}/mlruns/optuna.db", f"sqlite:///{records}/mlruns/mlflow.db"
    before = trials_of(storage, "tail_smoke")
    assert [trial.state.name for trial in before] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "FAIL"]
    run(tmp_path / "new", *TABLE, "seed=0", f"hydra.sweeper.storage={storage}", f"tracking.uri={store}")
    *former, trial = trials_of(storage, "tail_smoke")
    assert [(t.state, t.values, t.params) for t in former] == [(t.state, t.values, t.params) for t in before]
    assert (trial.state.name, trial.params) == ("COMPLETE", {"level": "logit-adjusted loss", "seed": 0})
    assert trial.user_attrs["run_id"] == before[4].user_attrs["run_id"]  # the same run, from its checkpoint
    assert trial.user_attrs["folder"] == str(records / "outputs" / "tail" / "2")
    steps = [step for step, _ in history_of(records / "outputs" / "tail" / "2")["train/loss"]]
    assert steps == list(range(1, 55))

    report = ["task=report", "ablation=tail", "scale=smoke", f"task.storage={storage}", f"tracking.uri={store}"]
    run(tmp_path / "report", *report, f"task.output={tmp_path}/report")
    expected = FIXTURES / "expected" / "report_tail"
    as_text = {"dtype": str, "keep_default_na": False}
    results, former = (pd.read_csv(place / "results.csv", **as_text) for place in (tmp_path / "report", expected))
    assert results["state"].tolist() == ["complete"] * 3
    assert results["native"].tolist()[:2] == ["", ""]  # older than the native kernels
    results = results.drop(columns="native")
    # The commands have today's names of the keys.
    pd.testing.assert_frame_equal(results[:2].drop(columns="command"), former[:2].drop(columns="command"))
    assert float(results["seconds"][2]) > float(former["seconds"][2])  # of all three trials
    verdict, former = (pd.read_csv(place / "verdict.csv") for place in (tmp_path / "report", expected))
    pd.testing.assert_frame_equal(measured(verdict[:2]), measured(former[:2]), check_dtype=False)  # empty: floats


def measured(verdict: pd.DataFrame) -> pd.DataFrame:
    """What does not depend on the method of the verdict."""
    judged = [
        *("word", "margin", "low", "high", "p", "p_holm", "bound", "standard_error", "degrees_of_freedom", "units"),
        *("seeds_paired", "seeds_level", "seeds_baseline", "seed_variance", "cell_variance", "image_variance"),
        *("residual_variance", "rest_variance", "seeds_to_settle", "images_to_settle"),
    ]
    return verdict.drop(columns=judged, errors="ignore")


@pytest.mark.soak
def test_a_study_of_a_table_gets_more_seeds(records, tmp_path):
    """The same study: cells that nobody has run."""
    storage, store = f"sqlite:///{records}/mlruns/optuna.db", f"sqlite:///{records}/mlruns/mlflow.db"
    run(tmp_path / "new", *TABLE, "seed=0,1", f"hydra.sweeper.storage={storage}", f"tracking.uri={store}")
    cells = [trial.params for trial in trials_of(storage, "tail_smoke") if trial.state.name == "COMPLETE"]
    assert sorted((cell["seed"], cell["level"]) for cell in cells) == [
        (seed, level) for seed in (0, 1) for level in ("class-balanced sampling", "logit-adjusted loss", "plain")
    ]


@pytest.mark.parametrize(
    ("study", "dimension", "former", "missing"),
    [
        ("rates", "optimizer.lr=0.05,0.1", {"optimizer.lr": 0.1}, {"optimizer.lr": 0.05}),
        # A dimension that has another name today.
        ("catch_all", "dataset.drop_catch_all=false,true", "True", "False"),
    ],
)
def test_a_search_continues_with_its_missing_point(records, tmp_path, monkeypatch, study, dimension, former, missing):
    """Two studies of two points each in the same database, one of them complete; the other's run is a stand-in."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # the stand-in, unlike run.py, is in another folder
    storage = f"sqlite:///{records}/mlruns/optuna.db"
    own = [f"hydra.sweeper.study={study}", "hydra.sweeper.n_trials=2", dimension, f"hydra.sweeper.storage={storage}"]
    run(tmp_path / "new", *SEARCH, *OPTIONS, *FORMER, *own, script=HELPERS / "study_of_fake_runs.py")
    trials = trials_of(storage, study)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    found = [trial.params if isinstance(former, dict) else next(iter(trial.params.values())) for trial in trials]
    assert found == [former, missing]


def trials_of(storage: str, study: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study, in order."""
    return optuna.load_study(study_name=study, storage=storage).get_trials()


def test_committed_results_are_judged(records, tmp_path):
    """results.csv and images.csv of a table of 12 runs, without a study."""
    folder = records / "committed"
    out = run(tmp_path / "new", "task=report", "ablation=resize", "scale=laptop", f"task.output={folder}",
              f"task.storage=sqlite:///{tmp_path}/no.db")  # fmt: skip
    verdict, former = (pd.read_csv(place / "verdict.csv") for place in (folder, FIXTURES / "expected" / "committed"))
    pd.testing.assert_frame_equal(measured(verdict), measured(former))  # to 1e-5: the last digit of sums may differ
    assert verdict["word"].tolist()[1::2] == ["worse", "worse"]
    assert "letterbox against stretch: worse: −9.7 points [−16.1, −3.2]" in out
    assert "letterbox without size cue against stretch without size cue: worse: −17.3 points [−21.8, −12.8]" in out
    assert "worse: letterbox, letterbox without size cue" in out
    for name in ("results.csv", "images.csv"):
        assert (folder / name).read_bytes() == (FIXTURES / "clone" / "committed" / name).read_bytes()


def shelf_of(folder: Path) -> Path:
    """The photos of a run on the embedded data set, which are drawn where they are not there yet."""
    dataset = parse_record(yaml.safe_load((folder / "config.yaml").read_text("utf-8"))).dataset
    return make_shelf(
        ShelfOptions(**{key: getattr(dataset, key) for key in ShelfOptions.model_fields}), PROJECT / "data"
    )
