"""Checks of the earlier runs that a task starts from."""

import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.train.build import build_network
from rp2k_lab.train.checkpoint import save_checkpoint
from rp2k_lab.train.trained_models import (
    check_classes,
    check_held_out,
    class_differences,
    load_members,
    load_network,
    parents,
    short_name,
)

SMALL = ("model.width_multiplier=0.125", "model.depth_multiplier=0.25")
CLASSES = ("others", "冰炫", "海盐")


@pytest.fixture
def run(tmp_path):
    record = {"dataset": {"name": "shelf", "val_fraction": 0.05, "val_seed": 0}}
    return EarlierRun(
        "earlier",
        "earlier",
        "0" * 32,
        "#/experiments/1/runs/0",
        record,
        tmp_path / "run" / "checkpoints" / "best.ckpt",
        CLASSES,
    )


def index_of(*classes):
    table = pd.DataFrame({"path": [], "split": []})
    return Index(Path("photos"), table, list(classes), "", "", table)


def test_equal_classes_are_accepted_and_differences_named(run):
    check_classes(index_of(*CLASSES), run, "rp2k")
    with pytest.raises(RequestError) as error:
        check_classes(index_of("others", "冰炫", "a", "b", "c", "d", "e"), run, "rp2k")
    first, _ = str(error.value).splitlines()
    assert first == (
        "runs=earlier: other classes than dataset=rp2k (the run lacks a, b, c and 2 more; dataset=rp2k lacks 海盐)"
    )


def test_another_order_is_a_difference(run):
    with pytest.raises(RequestError, match="the same in another order"):
        check_classes(index_of(*reversed(CLASSES)), run, "rp2k")


def test_differences_are_one_line():
    assert "\n" not in class_differences(["a\nb"], ["c"], "one", "other")
    twins = class_differences(["caf\u00e9", "é"], ["cafe\u0301", "é"], "one", "other")
    assert twins == "other lacks caf\\u00e9; one lacks cafe\\u0301"


@pytest.fixture
def loaded(monkeypatch, run):
    """Return loaded(*runs): `load_members` with these runs, without their networks."""

    def load(*runs):
        by_reference = {each.reference: each for each in runs}
        monkeypatch.setattr(
            "rp2k_lab.train.trained_models.find_run", lambda uri, reference, downloads: by_reference[reference]
        )
        monkeypatch.setattr(
            "rp2k_lab.train.trained_models.load_network", lambda config, run: f"network of {run.reference}"
        )
        return load_members

    return load


def test_members_have_separate_preprocessings_and_unique_names(compose, run, loaded):
    others = [replace(run, reference=name, checkpoint=Path(name)) for name in ("b", "c")]
    request = "runs=[earlier,b,c]"
    configs = [parse(compose("task=ensemble", request, f"size={side}", "crop_ratio=0.8")) for side in (32, 64, 96)]
    runs, members = loaded(run, *others)(configs)
    assert [member.name for member in members] == ["earlier", "earlier_2", "earlier_3"]
    assert [member.network for member in members] == [f"network of {r}" for r in ("earlier", "b", "c")]
    assert [member.preprocessing.size for member in members] == [(32, 32), (64, 64), (96, 96)]
    assert {member.preprocessing.crop_ratio for member in members} == {0.8}
    assert runs == [run, *others]


def test_a_run_named_twice_is_refused(compose, run, loaded):
    again = replace(run, reference="again")
    configs = [parse(compose("task=ensemble", "runs=[earlier,again]"))] * 2
    with pytest.raises(RequestError, match=r"^runs=earlier,again: the same run twice\n"):
        loaded(run, again)(configs)


def test_runs_of_other_classes_are_refused(compose, run, loaded):
    other = replace(run, reference="b", checkpoint=Path("b"), classes=("others", "冰炫"))
    configs = [parse(compose("task=ensemble", "runs=[earlier,b]"))] * 2
    with pytest.raises(RequestError, match=r"^runs=earlier,b: trained on other classes\nb lacks 海盐: leave one out$"):
        loaded(run, other)(configs)


def test_weights_of_another_network_are_refused(compose, run):
    config = parse(compose("task=evaluate", "runs=earlier", *SMALL))
    wider = parse(compose("task=evaluate", "runs=earlier", "model.width_multiplier=0.25", SMALL[1]))
    save_checkpoint(build_network(config, 3), run.checkpoint, step=7)
    load_network(config, run)
    with pytest.raises(RequestError, match=r"^runs=earlier: not the weights of this resnet18\n.*has shape"):
        load_network(wider, run)


def test_a_size_that_the_network_cannot_take_is_refused(compose, run):
    config = parse(compose("task=evaluate", "runs=earlier", "model=inception_resnet_v2", "size=64", *SMALL))
    with pytest.raises(RequestError, match=r"^size=\[64,64\]: inception_resnet_v2 needs sides of at least 75 pixels"):
        load_network(config, run)


@pytest.mark.parametrize(("override", "warned"), [("seed=1", False), ("dataset.val_seed=1", True)])
def test_another_val_split_is_warned_about(compose, run, caplog, override, warned):
    caplog.set_level(logging.WARNING)
    config = parse(compose("task=evaluate", "runs=earlier", override))
    run.config["dataset"]["val_fraction"] = config.dataset.val_fraction
    check_held_out(config, [run])
    assert ("earlier has dataset.val_seed=0, now it is 1" in caplog.text) == warned


def test_parents_are_ids_or_files(run):
    file = replace(run, run_id=None, page=None)
    assert parents([run, file]) == {
        "parent": f"{'0' * 32},{run.checkpoint}",
        "mlflow.note.content": f"Started from [earlier](#/experiments/1/runs/0), `{run.checkpoint}`.",
    }
    assert (short_name(run), short_name(file)) == ("earlier", "run-best")
