"""task=evaluate: end to end, and refusals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.options import Source
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.evaluation.predictor import Predictor
from rp2k_lab.task import evaluate

RUN = "resnet18_shelf_none_seed0"


@pytest.fixture(scope="module")
def evaluated(later_store, start):
    """The first run on test with its recorded settings: the scores must equal those of its training."""
    command = start("task=evaluate", f"runs={RUN}", "task.split=test", uri=later_store.uri)
    command.result = command.wait()
    return command


def test_evaluation_is_a_separate_run_with_parent(first_run, later_store, evaluated):
    code, _, err = evaluated.result
    assert (code, err) == (0, "")
    run, (parent,) = later_store.run_of(evaluated.result[1]), first_run.store.runs()
    assert run.data.tags["parent"] == parent.info.run_id
    page = f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    assert run.data.tags["mlflow.note.content"] == f"Started from [{RUN}]({page})."
    assert run.info.run_name == f"evaluate_{RUN}"
    assert run.info.status == "FINISHED"
    files = {path.name for path in later_store.artifacts(run).iterdir()}
    assert files == {"config.yaml", "environment.txt", "classes.txt", "test", "figures"}


def test_unchanged_run_reproduces_the_training_scores(first_run, later_store, evaluated):
    _, out, _ = evaluated.result
    run, (parent,) = later_store.run_of(evaluated.result[1]), first_run.store.runs()
    tests = {name: value for name, value in parent.data.metrics.items() if name.startswith("test/")}
    assert {name: run.data.metrics[name] for name in tests} == tests
    for table in ("predictions", "per_class", "confusion_pairs"):
        actual, expected = (
            pd.read_parquet(f.folder / "out" / "test" / f"{table}.parquet") for f in (evaluated, first_run)
        )
        pd.testing.assert_frame_equal(actual, expected)
    line = next(line for line in first_run.result[1].splitlines() if line.startswith("top-1 "))
    actual = next(line for line in out.splitlines() if line.startswith("top-1 "))
    assert line.endswith(actual.removeprefix("top-1").strip())


def test_data_set_with_other_classes_is_refused(request_of, tmp_path, write_photo, data_folder):
    for name in ("菀舟_海盐", "新"):
        for i in range(20):
            write_photo(tmp_path / "photos" / "train" / name / f"{i}.jpg", seed=i)
    dataset = request_of("task=evaluate").dataset.model_dump(mode="json")
    source = {key: dataset[key] for key in Source.model_fields} | {"root": str(tmp_path / "photos"), "name": "rp2k"}
    config = request_of("task=evaluate", dataset=source)
    with pytest.raises(RequestError, match=r"^runs=.*: other classes than dataset=rp2k \(the run lacks 新; ") as error:
        evaluate.run(config, tmp_path)
    assert len(str(error.value).splitlines()) == 2


def test_weights_of_another_network_are_refused(request_of, tmp_path):
    model = request_of("task=evaluate").model.model_dump() | {"width_multiplier": 0.5}
    with pytest.raises(RequestError, match=r"^runs=.*: not the weights of this resnet18\n"):
        evaluate.run(request_of("task=evaluate", model=model), tmp_path)


def test_missing_split_is_refused(request_of):
    config = request_of("task=evaluate", "task.split=test")
    index = build_index(config.dataset)
    index = replace(index, table=index.table[index.table["split"] != "test"])
    with pytest.raises(
        RequestError,
        match=r"^task=evaluate: dataset=shelf has no test\nuse another data set or split \(it has train, val\)$",
    ):
        evaluate.required_evaluators(config, index, Predictor([], 1), ["test"])


def test_train_can_be_evaluated(request_of):
    config = request_of("task=evaluate")
    index = build_index(config.dataset)
    evaluator = evaluate.required_evaluators(config, index, Predictor([], 1), ["train"])["train"]
    assert len(evaluator.rows) == 300
    assert np.array_equal(np.bincount(evaluator.rows["label"]), index.train_counts())
