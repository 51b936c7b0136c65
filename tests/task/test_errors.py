"""task=errors end to end, and refused requests."""

import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from rp2k_lab.analysis import cross_validation
from rp2k_lab.analysis.causes import CAUSES
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.task.errors import measure, review_of
from rp2k_lab.tracking.run_lookup import find_run
from rp2k_lab.train.build import batches_for, build_network, build_views, preprocessing
from rp2k_lab.train.checkpoint import load_checkpoint
from tests.helpers.tiny_runs import TINY

RUN = "resnet18_shelf_none_seed0"
TABLES = {
    "cases.parquet", "classes.parquet", "clusters.parquet", "causes.csv", "curves.csv", "label_errors.csv",
    "confident_joint.csv", "errors.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def comparison(later_store, second_run, start):
    """The first run beside its last weights at another size and crop."""
    command = start("task=errors", f"runs=[{RUN},{second_run}]", uri=later_store.uri)
    command.result = command.wait()
    return command


def test_analysis_is_recorded_with_parent_tables_and_counts(first_run, analyzed_run):
    code, out, err = analyzed_run.result
    assert (code, err) == (0, "")
    store, (parent,) = analyzed_run.store, first_run.store.runs()
    run = store.run_of(out)
    assert (run.data.tags["parent"], run.info.status) == (parent.info.run_id, "FINISHED")
    folder = store.artifacts(run)
    assert f"runs=last: {parent.info.run_name}, id {parent.info.run_id[:8]}\n" in out
    assert yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["runs"] == [parent.info.run_id]
    files = {path.name for path in folder.iterdir()}
    assert files >= TABLES | {"photo_score.csv", "config.yaml", "classes.txt"}
    assert {f.name for f in (analyzed_run.folder / "out").iterdir()} >= TABLES
    causes = pd.read_csv(folder / "causes.csv").set_index("cause")
    assert list(causes.index) == list(CAUSES)
    assert run.data.metrics["test/errors"] == causes["main"].sum()
    assert {c: run.data.metrics[f"test/errors_{c}"] for c in CAUSES} == causes["main"].to_dict()


@pytest.fixture
def cases(analyzed_run) -> pd.DataFrame:
    run = analyzed_run.store.run_of(analyzed_run.result[1])
    return pd.read_parquet(analyzed_run.store.artifacts(run) / "cases.parquet")


def test_cases_equal_the_recorded_predictions(first_run, cases):
    recorded = pd.read_parquet(first_run.folder / "out" / "test" / "predictions.parquet")
    same = ["path", "true", "correct", *(f"top{i + 1}" for i in range(5))]
    pd.testing.assert_frame_equal(cases[same], recorded[same])
    for i in range(5):
        np.testing.assert_allclose(cases[f"p{i + 1}"], recorded[f"p{i + 1}"], atol=1e-5)
        chosen = recorded[f"top{i + 1}"] == recorded["true"]
        np.testing.assert_allclose(cases.loc[chosen, "p_true"], recorded.loc[chosen, f"p{i + 1}"], atol=1e-5)
    assert cases["p_true"].between(0, 1).all()


def test_only_errors_have_nearest_training_images(cases):
    wrong = ~cases["correct"]
    assert 0 < wrong.sum() < len(cases)
    assert cases["nearest"].map(len).tolist() == (3 * wrong).tolist()
    assert (cases["nearest_distance"].notna() == wrong).all()
    rows = np.concatenate(cases.loc[wrong, "nearest"].tolist())
    assert not set(rows) & set(cases["row"])  # rows of train, not of the split
    assert ((cases["cause"] != "") == wrong).all()


def test_terminal_shows_all_causes_and_the_score_against_the_truth(analyzed_run):
    out = analyzed_run.result[1]
    assert all(any(line.startswith(cause) for line in out.splitlines()) for cause in CAUSES)
    assert "of 80 photos" in out
    labels = r"^labels +\d+ of 80 of test are suspected: .*label_errors.csv\n +to rank .* of train .*task.folds=3"
    assert re.search(labels, out, re.M)
    assert f"page        {analyzed_run.folder}/out/errors.html\nrun         errors_resnet18" in out
    assert "redrawn without the measured nuisances, " in out
    assert "redrawn without any nuisance, " in out


def test_features_are_computed_once(analyzed_run, comparison):
    """By `analyzed_run` or by an earlier run of these tests."""
    assert analyzed_run.result[0] == 0
    out = comparison.result[1]
    assert out.count("features of 300 photos read from ") >= 1


def test_comparison_gives_fixed_new_and_kept_errors(later_store, comparison):
    code, out, err = comparison.result
    assert (code, err) == (0, "")
    folder = later_store.artifacts(later_store.run_of(out))
    assert {path.name for path in folder.iterdir()} >= TABLES | {"pairs.parquet", "pair_classes.csv"}
    pairs, cases = pd.read_parquet(folder / "pairs.parquet"), pd.read_parquet(folder / "cases.parquet")
    assert len(cases) == 60  # val, the default split
    counts = pairs["state"].value_counts()
    assert counts.reindex(["new", "kept"], fill_value=0).sum() == (~cases["correct"]).sum()
    for state in ("fixed", "new", "kept"):
        assert f"{counts.get(state, 0)} errors {state}" in out
    second = cases.set_index("row").loc[pairs["row"]]
    assert second["top1"].tolist() == pairs["top1_second"].tolist()
    assert second["cause"].tolist() == pairs["cause_second"].tolist()


@pytest.fixture(scope="module")
def folds_run(later_store, start):
    command = start("task=errors", f"runs={RUN}", "task.folds=2", uri=later_store.uri)
    command.result = command.wait()
    return command


def test_training_images_are_predicted_by_the_fold_without_them(first_run, later_store, request_of, folds_run):
    code, out, err = folds_run.result
    assert (code, err) == (0, "")
    run, parent = later_store.run_of(out), first_run.store.runs()[0].info.run_id
    config = request_of("task=errors", "task.folds=2")
    index = build_index(config.dataset)
    train, probabilities = index.split("train"), np.load(folds_run.folder / "out" / "held_out.npy")
    assert (probabilities.dtype, probabilities.shape) == (np.float32, (300, 8))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    network = build_network(config, 8)
    predictor = Predictor([Member("again", network, preprocessing(config))], config.batch_size)
    for i, run_id in enumerate(run.data.tags["folds"].split(","), 1):
        (fold,) = (other for other in later_store.runs() if other.info.run_id == run_id)
        tags = fold.data.tags
        assert fold.info.status == "FINISHED"
        assert (tags["parent"], tags["fold"], tags["mlflow.parentRunId"]) == (parent, f"{i}/2", parent)
        assert fold.data.params["dataset.fold"] == f"{i}/2"
        assert not [name for name in fold.data.metrics if name.startswith("test/")]
        seen = build_index(config.dataset.model_copy(update={"fold": f"{i}/2"})).split("train")["path"]
        unseen = ~train["path"].isin(seen).to_numpy()
        assert 140 < unseen.sum() < 160
        load_checkpoint(network, later_store.artifacts(fold) / "checkpoints" / "best.ckpt")
        batches = batches_for(predictor, build_views(predictor, index, 0), train["row"].tolist(), config)
        expected = np.concatenate([average for _, average in predictor(batches)])
        np.testing.assert_allclose(probabilities[unseen], expected[unseen], atol=1e-5)
        assert np.abs(probabilities[~unseen] - expected[~unseen]).max() > 1e-3


def test_folds_analyze_train_and_rank_its_labels(later_store, folds_run):
    out = folds_run.result[1]
    run = later_store.run_of(out)
    folder, held_out = later_store.artifacts(run), np.load(folds_run.folder / "out" / "held_out.npy")
    cases = pd.read_parquet(folder / "cases.parquet")
    assert len(cases) == 300
    np.testing.assert_allclose(cases["p1"], held_out.max(axis=1))
    wrong = ~cases["correct"]
    assert run.data.metrics["train/errors"] == wrong.sum()
    assert not any(row in near for row, near in zip(cases["row"], cases["nearest"], strict=True))  # itself
    listed = pd.read_csv(folder / "label_errors.csv")
    assert list(listed) == ["path", "given", "suggested", "score"]
    assert listed["score"].is_monotonic_decreasing
    assert run.data.metrics["train/suspected_labels"] == len(listed) > 0
    suspected = cases[cases["suggested"] != ""].set_index("path").loc[listed["path"]]
    assert suspected["true"].tolist() == listed["given"].tolist()
    assert suspected["suggested"].tolist() == listed["suggested"].tolist()
    assert f"labels      {len(listed)} of 300 of train are suspected" in out
    assert "redrawn without" not in out


def test_closing_lines_have_the_command_for_the_reviewed_list(folds_run, analyzed_run):
    command = re.search(r"^review .*\n +python run.py (.*)\nrun  ", folds_run.result[1], re.M)[1]
    options = shlex.split(command)
    assert options[-1] == "dataset.relabel=~/Downloads/reviewed_labels.csv"
    assert sorted(options[:-1]) == sorted(set(TINY) - {"size=32"})  # the default
    assert "reviewed_labels.csv" not in analyzed_run.result[1]  # of test


def test_review_of_a_relabeled_run_has_its_list(later_store, request_of, tmp_path):
    file = tmp_path / "first.csv"
    file.write_text("path,given,suggested,decision\ntrain/a.jpg,a,b,yes\ntrain/c.jpg,a,b,no\n", "utf-8")
    config = request_of("task=errors", "task.folds=2")
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update={"relabel": file})})
    run = find_run(later_store.uri, RUN, tmp_path)
    review = review_of(config, run, "train")
    assert list(review.earlier) == [("train/a.jpg", "a", "b")]
    assert review.command.count("dataset.relabel=") == 1
    assert (review.key, review_of(config, run, "val").command) == (f"{run.run_id}/train", "")


@pytest.mark.soak
def test_labels_decided_on_the_page_are_trained_on(browser, folds_run, start, tmp_path):
    """Open the page, decide ten labels by keyboard, download the list, and run the command that the page shows."""
    page, file = browser.new_page(), tmp_path / "reviewed_labels.csv"
    page.goto((folds_run.folder / "out" / "errors.html").as_uri())
    page.click("#review-start")
    for key in "wrwwrwrww":
        page.keyboard.press(key)
    page.keyboard.press("c")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#progress").inner_text().startswith("10 of ")
    with page.expect_download() as download:
        page.click("#review-download")
    download.value.save_as(file)
    command = shlex.split(page.locator("#review pre").inner_text())
    page.close()
    assert command[:2] == ["python", "run.py"]
    code, out, err = start(*command[2:-1], f"{command[-1].partition('=')[0]}={file}").wait()
    assert (code, err) == (0, "")
    assert re.search(r"reviewed_labels.csv: 7 of \d+ lines are applied \(7 yes, 3 no, \d+ without a decision\)", out)
    assert f"7 of 300 training photos relabeled by {file}" in out


def test_matching_folds_are_reused_and_others_are_not(later_store, request_of, folds_run, monkeypatch, tmp_path):
    def train(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(cross_validation, "run_trial", train)
    monkeypatch.setattr(
        cross_validation, "Predictor", lambda *arguments, **options: lambda batches: iter(())
    )  # compiles nothing
    monkeypatch.setattr(cross_validation, "build_views", lambda *arguments: None)
    monkeypatch.setattr(cross_validation, "batches_for", lambda *arguments: None)
    config, no_signal = request_of("task=errors", "task.folds=2"), SimpleNamespace(signum=None, check=lambda: None)
    index, parent = build_index(config.dataset), find_run(later_store.uri, RUN, tmp_path)
    again = cross_validation.held_out_probabilities(config, index, 2, parent, tmp_path, no_signal)
    assert ",".join(again.run_ids) == later_store.run_of(folds_run.result[1]).data.tags["folds"]
    longer = config.model_copy(update={"epochs": 3})
    with pytest.raises(AssertionError, match="trained again"):
        cross_validation.held_out_probabilities(longer, index, 2, parent, tmp_path, no_signal)
    relabeled = lambda dataset: replace(build_index(dataset), fingerprint="another")  # noqa: E731
    monkeypatch.setattr(cross_validation, "build_index", relabeled)
    with pytest.raises(AssertionError, match="trained again"):
        cross_validation.held_out_probabilities(config, index, 2, parent, tmp_path, no_signal)


def test_folds_need_train_and_a_single_run(compose):
    with pytest.raises(RequestError, match=r"^task\.folds=3: folds predict photos of train, but task\.split is test\n"):
        parse(compose("task=errors", "runs=a", "task.folds=3", "task.split=test"))
    with pytest.raises(RequestError, match=r"^task\.folds=3: folds repeat the training of one run\n"):
        parse(compose("task=errors", "runs=[a,b]", "task.folds=3"))


@pytest.mark.parametrize("runs", ["null", "[a,b,c]"])
def test_wrong_number_of_runs_is_refused(compose, runs):
    with pytest.raises(RequestError, match=r"^runs=.*: task=errors takes 1 or 2 earlier runs\nuse runs=.*, or two"):
        parse(compose("task=errors", f"runs={runs}"))


@pytest.mark.parametrize(
    ("groups", "what"),
    [(None, "each is alone in its class"), (["shelf 1"] * 3, "their group is alone in its class")],
)
def test_photos_that_no_fold_held_out_are_left_out_with_the_reason(
    groups, what, request_of, write_photo, tmp_path, caplog
):
    paths = [write_photo(tmp_path / f"{i}.png", seed=i).name for i in range(3)]
    table = pd.DataFrame({"path": paths, "class": "tea", "label": 0, "split": "train", "width": 8, "height": 12})
    index = Index(tmp_path, table if groups is None else table.assign(group=groups), ["tea"], "", "", pd.DataFrame())
    probabilities = np.array([[np.nan], [1], [np.nan]], np.float32)
    config = request_of("task=errors", "task.folds=2")
    measures = measure(config, index, probabilities, SimpleNamespace(check=lambda: None))
    assert measures.rows["path"].tolist() == ["1.png"]
    assert f"2 photos are left out: {what}, and every fold" in caplog.text
