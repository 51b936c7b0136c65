"""The notebooks on a small run: all cells, the pages in a browser, and refused requests."""

import shutil
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest

from rp2k_lab import PROJECT
from rp2k_lab.analysis.label_issue_score import precision_recall
from rp2k_lab.config.choices import choices, defaults_of
from rp2k_lab.config.migrations import parse_record
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.relabel import write_relabels
from rp2k_lab.notebook import data_tour
from rp2k_lab.notebook.__main__ import NOTEBOOKS, CellFailed, execute, main
from rp2k_lab.notebook.run_context import open_data, open_errors, with_augmentations
from tests.helpers.tiny_runs import Store


@pytest.fixture(scope="module")
def store(analyzed_run) -> Store:
    """The store with the first run and its analysis."""
    return analyzed_run.store


@pytest.fixture(scope="module")
def trained(first_run):
    (run,) = first_run.store.runs()
    return run


@pytest.fixture(scope="module")
def analyzed(store, analyzed_run):
    """The analysis, changed so that it suspects the label of every error and some labels are wrong."""
    run = store.run_of(analyzed_run.result[1])
    folder = store.artifacts(run)
    cases = pd.read_parquet(folder / "cases.parquet")
    wrong = cases[~cases["correct"]].sort_values("p1", ascending=False)
    names = {"true": "given", "top1": "suggested", "p1": "score"}
    write_relabels(wrong.rename(columns=names)[["path", *names.values()]], folder / "label_errors.csv")
    curve = precision_recall(np.linspace(1, 0, 80), np.arange(80) % 5 < 2)
    curve.to_csv(folder / "label_errors_curve.csv", index=False)
    return run


@pytest.fixture(scope="module")
def pages(store, trained, analyzed, tmp_path_factory):
    """Both notebooks of the training run, executed like `make notebooks`."""
    folder = tmp_path_factory.mktemp("pages")
    options = ["--uri", store.uri, "--run", trained.info.run_id[:8], "--folder", str(folder)]
    command = [sys.executable, "-m", "rp2k_lab.notebook", *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(NOTEBOOKS)
    return folder


# Number of charts, and minimum number of images.
@pytest.mark.parametrize(("name", "charts", "images"), [("error_cases", 6, 30), ("data_tour", 4, 100)])
def test_every_cell_has_output_and_the_browser_reports_no_error(pages, browser, name, charts, images):
    page, problems = browser.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    page.goto((pages / f"{name}.html").as_uri())
    assert problems == []
    assert page.locator("[data-mime-type*=stderr], [data-mime-type*=error]").count() == 0
    source = (PROJECT / "notebooks" / f"{name}.py").read_text("utf-8")
    without_output = 2  # imports and parameters
    assert page.locator(".jp-CodeCell").count() == source.count("\n# %%\n") + 1
    assert page.locator(".lab").count() == page.locator(".jp-CodeCell").count() - without_output
    assert page.locator(".lab svg").count() == charts
    broken = "all => all.map(i => i.complete && i.naturalWidth > 0)"
    loaded = page.locator("img").evaluate_all(broken)
    assert len(loaded) >= images
    assert all(loaded)
    boxes = page.locator(".lab svg").evaluate_all("all => all.map(s => s.getBoundingClientRect().height)")
    assert min(boxes) > 100
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    grounds = "[document.body, document.querySelector('.lab')].map(node => getComputedStyle(node).backgroundColor)"
    bright = "(colors => colors.map(color => +color.match(/\\d+/g)[0] > 128))"
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(f"{bright}({grounds})") == [scheme == "light"] * 2
    page.close()


def test_pages_show_the_numbers_of_the_run(pages, trained, analyzed):
    text = (pages / "error_cases.html").read_text("utf-8")
    assert f"({analyzed.info.run_id[:8]}, " in text  # by its parent's id
    assert trained.info.run_id in text
    errors = int(analyzed.data.metrics["test/errors"])
    assert f"<td>errors</td><td>{errors}</td>" in text
    assert f"{100 * (80 - errors) / 80:.1f} %" in text
    assert f"<p>{errors} labels are suspected; " in text
    tour = (pages / "data_tour.html").read_text("utf-8")
    assert '<td>train</td><td class="n">300</td><td class="n">8</td>' in tour
    assert "aug=none (this run)" in tour
    assert f"run = {trained.info.run_id[:8]!r}" not in tour  # Pygments puts markup into code
    assert trained.info.run_id[:8] in tour


def test_default_is_the_newest_suitable_run(store, trained, analyzed):
    assert open_errors(None, store.uri).run.run_id == analyzed.info.run_id
    assert open_errors(analyzed.info.run_id, store.uri).run.run_id == analyzed.info.run_id
    assert open_data(None, store.uri).run.run_id == trained.info.run_id
    assert open_data(analyzed.info.run_id, store.uri).config.dataset.classes == 8


def test_augmentations_keep_the_recorded_crop_and_flip(first_run):
    config = open_data(None, first_run.store.uri).config
    changed = config.model_copy(update={"aug": config.aug.model_copy(update={"crop": None, "flip": 0.0})})
    combinations = with_augmentations(changed)
    assert set(combinations) == set(choices("aug"))
    for name, combination in combinations.items():
        assert (combination.aug.name, combination.aug.crop, combination.aug.flip) == (name, None, 0.0)


def test_the_recorded_augmentation_is_among_them(first_run):
    config = open_data(None, first_run.store.uri).config
    mix = parse_record({"aug": defaults_of("aug", "mixup")}).aug.mix
    changed = config.model_copy(update={"aug": config.aug.model_copy(update={"mix": mix})})
    assert with_augmentations(changed)["mixup"] == changed
    both = defaults_of("aug", "cutout") | {"mix": defaults_of("aug/mix", "mixup")}
    changed = config.model_copy(update={"aug": parse_record({"aug": both}).aug})
    assert with_augmentations(changed)["cutout+mixup"] == changed


def test_missing_analysis_names_the_command(first_run, trained, capsys):
    uri, run = first_run.store.uri, trained.info.run_id
    with pytest.raises(
        RequestError, match=rf"no finished run of task=errors\nstart one: python run.py task=errors runs={run[:8]}"
    ):
        open_errors(run, uri)
    with pytest.raises(RequestError, match=r"no finished run of task=errors\nstart one: python run.py task=errors"):
        open_errors(None, uri)


@pytest.mark.parametrize("run", ["no_such_run", "0123456789"])
def test_unknown_run_gives_two_lines_and_exit_code_2(store, capsys, tmp_path, run):
    assert main(["--uri", store.uri, "--run", run, "--folder", str(tmp_path / "pages")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first == f"runs={run}: there is no such run"
    assert second.startswith("give an id (6 characters are enough), a name")
    assert not (tmp_path / "pages").exists()


def test_missing_store_names_the_first_command(capsys, tmp_path):
    assert main(["--uri", f"sqlite:///{tmp_path}/none.db", "--run", ""]) == 2
    assert capsys.readouterr().err.splitlines()[1] == "train a first run: python run.py"


def test_changed_images_are_reported(store, trained, analyzed, tmp_path):
    changed = Store(tmp_path)
    shutil.copy(store.folder / "mlflow.db", tmp_path)
    for run in (trained, analyzed):
        mlflow.MlflowClient(changed.uri).set_tag(run.info.run_id, "dataset_fingerprint", "0" * 16)
    with pytest.raises(DataError, match="the photos have changed since run "):
        open_errors(analyzed.info.run_id, changed.uri)
    text = "Its photos have changed since"
    assert text in data_tour.summary(open_data(trained.info.run_id, changed.uri)).html
    assert text not in data_tour.summary(open_data(trained.info.run_id, store.uri)).html


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "kind", "message"),
    [
        ("from rp2k_lab.core.errors import DataError; raise DataError(f'{run} is gone\\nbring it back')", DataError,
         "^here is gone\nbring it back$"),
        ("x = 1\nint('one')", CellFailed, r"^cells\.py: the cell ending in int\('one'\): ValueError: invalid"),
    ],
)  # fmt: skip
def test_failed_cell_is_reported_in_one_or_two_lines(tmp_path, cell, kind, message):
    source = tmp_path / "cells.py"
    source.write_text(f'# %% tags=["parameters"]\nrun = None\n\n# %%\n{cell}\n', "utf-8")
    with pytest.raises(kind, match=message):
        execute(source, {"run": "here"})
