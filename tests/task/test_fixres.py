"""task=fixres: end to end, and refusals."""

from dataclasses import replace

import mindspore
import numpy as np
import pandas as pd
import pytest
import yaml

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.options import Source
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.task import evaluate, fixres
from rp2k_lab.tracking.mlflow_runs import CLOSING
from rp2k_lab.tracking.run_restore import restore

RUN = "resnet18_shelf_none_seed0"


@pytest.fixture(scope="module")
def tuned(later_store, start):
    """The first run at another size and crop."""
    keys = ("size=40", "crop_ratio=0.8", "epochs=2", "optimizer.lr=0.02")
    command = start("task=fixres", f"runs={RUN}", *keys, uri=later_store.uri)
    command.result = command.wait()
    return command


@pytest.fixture
def record(first_run, later_store, tuned):
    """(the run, its parent run)."""
    assert tuned.result[0] == 0, tuned.result[2]
    (parent,) = first_run.store.runs()
    return later_store.run_of(tuned.result[1]), parent


def test_fixres_is_a_training_with_parent(later_store, tuned, record):
    run, parent = record
    assert tuned.result[2] == ""
    assert (run.info.status, run.data.tags["task"]) == ("FINISHED", "fixres")
    assert run.data.tags["parent"] == parent.info.run_id
    assert run.info.run_name == f"fixres40_{RUN}"
    history = later_store.history(run)
    assert [step for step, _ in history["train/loss"]] == list(range(1, 19))
    assert [step for step, _ in history["val/top1"]] == [9, 18]
    artifacts = later_store.artifacts(run)
    names = {str(file.relative_to(artifacts)) for file in artifacts.rglob("*") if file.is_file()}
    assert names >= {"config.yaml", "classes.txt", "checkpoints/best.ckpt", "fixres.csv", "test/predictions.parquet"}
    recorded = yaml.safe_load((artifacts / "config.yaml").read_text("utf-8"))
    assert recorded["aug"] == defaults_of("aug", "none") | {"crop": None, "flip": 0.0, "color": 0.0}
    assert (recorded["size"], recorded["crop_ratio"], recorded["epochs"]) == ([40, 40], 0.8, 2)


def test_only_the_classifier_differs_from_the_parent(first_run, later_store, record):
    folders = (later_store.artifacts(record[0]), first_run.folder / "out")
    tuned, parent = (mindspore.load_checkpoint(str(folder / "checkpoints" / "best.ckpt")) for folder in folders)
    tuned.pop("step"), parent.pop("step")
    assert tuned.keys() == parent.keys()
    moved = {name for name in tuned if not np.array_equal(tuned[name].asnumpy(), parent[name].asnumpy())}
    assert moved == {"fc.weight", "fc.bias"}


def test_table_equals_the_recorded_metrics(later_store, tuned, record):
    run, parent = record
    table, metrics = pd.read_csv(later_store.artifacts(run) / "fixres.csv"), run.data.metrics
    assert table["network"].tolist() == ["untuned", "untuned", "tuned"]
    assert table["height"].tolist() == [32, 40, 40]
    assert table["crop_ratio"].tolist() == [1.0, 0.8, 0.8]
    for split, photos in (("val", 60), ("test", 80)):
        top1 = table[f"{split}_top1"]
        assert top1[0] == metrics[f"{split}/top1_untuned_old"] == parent.data.metrics[f"{CLOSING[split]}/top1"]
        assert top1[1] == metrics[f"{split}/top1_untuned_new"]
        assert top1[2] == metrics[f"{CLOSING[split]}/top1"]
        assert table[f"{split}_images"].tolist() == [photos] * 3
        intervals = table[[f"{split}_top1_low", f"{split}_top1_high"]].to_numpy()
        np.testing.assert_allclose(intervals, [wilson_interval(round(accuracy * photos), photos) for accuracy in top1])
    for row, name in enumerate(("old", "new")):
        gain, low, high = (metrics[f"test/gain_over_{name}{part}"] for part in ("", "_low", "_high"))
        assert gain == pytest.approx(table["test_top1"][2] - table["test_top1"][row], abs=1e-12)
        assert low <= gain <= high
        found = [table[f"test_gain{part}"][row] for part in ("", "_low", "_high")]
        assert found == pytest.approx([gain, low, high], abs=1e-12)
    out = tuned.result[1]
    assert sum(line.endswith(" of 80") for line in out.splitlines()) == 3
    assert "untuned at 32×32, letterbox " in out
    assert "over untuned at 40×40, letterbox, crop 0.8" in out


def test_tuned_run_can_be_evaluated(compose, later_store, record, tmp_path, monkeypatch):
    from hydra import initialize_config_dir

    from rp2k_lab import PROJECT
    from rp2k_lab.device import target

    monkeypatch.setattr(target, "set_up", lambda device: None)  # MindSpore refuses it once a kernel has run
    run, _ = record
    overrides = ["task=evaluate", f"runs={run.info.run_id}", f"tracking.uri={later_store.uri}"]
    composed = compose(*overrides)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        (config,) = restore(parse(composed), composed, overrides)
    assert config.size == (40, 40)
    assert evaluate.run(config, tmp_path) == run.data.metrics["val_best/top1"]


@pytest.mark.parametrize("runs", [[], ["runs=[a,b]"]])
def test_needs_exactly_one_run(compose, runs):
    with pytest.raises(RequestError, match=r"task=fixres takes 1 earlier run\nuse runs="):
        parse(compose("task=fixres", *runs))


@pytest.mark.parametrize("override", ["aug=cutout", "aug/erase=cutout", "aug.flip=0.5", "++aug.flip=0.5"])
def test_augmentation_on_the_command_line_is_refused(compose, override):
    composed = compose("task=fixres", "runs=a", override)
    refusal = r"aug.*: task=fixres trains without augmentation\nleave out aug(\.flip|/erase)?$"
    with pytest.raises(RequestError, match=refusal):
        restore(parse(composed), composed, ["task=fixres", "runs=a", override])


def test_averaged_weights_are_refused(request_of, tmp_path):
    optimizer = request_of("task=fixres").optimizer.model_dump() | {"ema_decay": 0.99}
    with pytest.raises(RequestError, match=r"^optimizer\.ema_decay=0\.99: .*\nadd optimizer\.ema_decay=null$"):
        fixres.run(request_of("task=fixres", optimizer=optimizer), tmp_path)


def test_data_set_with_other_classes_is_refused(request_of, tmp_path, write_photo, data_folder):
    for split in ("train", "test"):
        for i in range(10):
            write_photo(tmp_path / "photos" / split / "新" / f"{i}.jpg", seed=i)
    dataset = request_of("task=fixres").dataset.model_dump(mode="json")
    source = {key: dataset[key] for key in Source.model_fields} | {"root": str(tmp_path / "photos"), "name": "rp2k"}
    with pytest.raises(RequestError, match=r"^runs=.*: other classes than dataset=rp2k \(.* lacks 新"):
        fixres.run(request_of("task=fixres", dataset=source), tmp_path)


@pytest.mark.parametrize(
    ("split", "way_out"),
    [("val", r"use another data set or split \(it has train, test\)$"), ("test", r"add task\.test=false$")],
)
def test_data_set_without_val_or_test_is_refused(request_of, tmp_path, monkeypatch, split, way_out):
    build = fixres.build_index

    def without(dataset):
        index = build(dataset)
        return replace(index, table=index.table[index.table["split"] != split])

    monkeypatch.setattr(fixres, "build_index", without)
    with pytest.raises(
        RequestError,
        match=rf"^task=fixres: dataset=shelf has no {split}\n{way_out}",
    ):
        fixres.run(request_of("task=fixres"), tmp_path)


def test_size_that_the_network_refuses_is_refused(request_of, compose, tmp_path):
    config = request_of("task=fixres", model=compose("model=swin_tiny")["model"], size=34)
    with pytest.raises(
        RequestError, match=r"^size=\[34,34\]: swin_tiny needs sides of at least 32 pixels, multiples of 4"
    ):
        fixres.run(config, tmp_path)
