"""task=extend, end to end: runs with parents, chains, bytes, and what predict and evaluate make of them."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.extension.extension_file import read_extension
from tests.helpers.plain_photos import plain_photos

RUN = "resnet18_shelf_none_seed0"


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> Path:
    """Three new products of six photos each: brand 0, brand 1, brand 2."""
    return plain_photos(tmp_path_factory.mktemp("new"), count=6)


@pytest.fixture(scope="module")
def extend(later_store, start):
    """extend(run, option): the finished command, with its folder and extension."""

    def run(reference, *options: str):
        command = start("task=extend", f"runs={reference}", *options, uri=later_store.uri)
        command.result = command.wait()
        command.out = command.folder / "out"
        return command

    return run


@pytest.fixture(scope="module")
def two(extend, products, tmp_path_factory):
    """The first run with brand 0 and brand 1."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("brand 0", "brand 1"):
        shutil.copytree(products / name, folder / name)
    command = extend(RUN, f"task.input='{folder}'", "task.old=head")
    command.input = folder
    return command


@pytest.fixture(scope="module")
def three(extend, products, two, tmp_path_factory):
    """The extension of the extension, with brand 2 of one photo."""
    folder = tmp_path_factory.mktemp("three")
    (folder / "brand 2").mkdir()
    shutil.copy(products / "brand 2" / "0.png", folder / "brand 2")
    return extend(two.out, f"task.input='{folder}'")


def test_an_extension_is_a_run_with_parent_and_base(two, first_run, later_store):
    code, out, err = two.result
    assert (code, err) == (0, "")
    run, (parent,) = later_store.run_of(out), first_run.store.runs()
    assert run.info.run_name == f"{RUN}_plus2"
    assert (run.data.tags["parent"], run.data.tags["base"]) == (parent.info.run_id,) * 2
    assert run.data.tags["change"] == "enrolled 12 photos of 2 new products"
    files = {path.name for path in later_store.artifacts(run).iterdir()}
    assert files == {
        "config.yaml", "environment.txt", "classes.txt", "extension.safetensors", "enrolled.csv", "extension.html",
    }  # fmt: skip
    base_classes = (first_run.folder / "out" / "classes.txt").read_text("utf-8").splitlines()
    assert (two.out / "classes.txt").read_text("utf-8").splitlines() == [*base_classes, "brand 0", "brand 1"]
    enrolled = pd.read_csv(two.out / "enrolled.csv")
    assert enrolled["label"].value_counts().to_dict() == {"brand 0": 6, "brand 1": 6}
    assert enrolled["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert {"val/top1", "val/top1_before", "val/stolen", "unlisted/auroc", "new/expected_top1"} <= set(run.data.metrics)
    assert "old products" in out
    assert "unlisted accepted" in out


def test_the_same_command_gives_the_same_bytes(two, extend):
    again = extend(RUN, f"task.input='{two.input}'", "task.old=head")
    for name in ("extension.safetensors", "enrolled.csv", "classes.txt"):
        assert (again.out / name).read_bytes() == (two.out / name).read_bytes()


def test_extensions_chain_and_what_was_added_can_be_removed(two, three, extend, later_store, tmp_path):
    code, out, err = three.result
    assert (code, err) == (0, "")
    run, parent = later_store.run_of(out), later_store.run_of(two.result[1])
    assert run.data.tags["parent"] == parent.info.run_id
    assert run.data.tags["base"] == parent.data.tags["base"]
    assert run.info.run_name == f"{RUN}_plus3"
    assert "brand 2 has one photo" in out
    (tmp_path / "names.txt").write_text("brand 2\n")
    removed = extend(three.out, f"task.remove={tmp_path}/names.txt")
    assert removed.result[0] == 0
    former = (two.out / "extension.safetensors").read_bytes()
    assert (removed.out / "extension.safetensors").read_bytes() == former


def test_photos_are_added_and_products_renamed(two, extend, products, tmp_path):
    (tmp_path / "more" / "brand 1").mkdir(parents=True)
    shutil.copy(products / "brand 1" / "0.png", tmp_path / "more" / "brand 1")  # enrolled already
    (tmp_path / "more" / "brand 1" / "new.png").write_bytes((products / "brand 2" / "3.png").read_bytes())
    more = extend(two.out, f"task.add_images={tmp_path}/more")
    assert (more.result[0], more.result[2]) == (0, "")
    before, after = (read_extension(each.out / "extension.safetensors") for each in (two, more))
    assert (len(before.enrolled.sha256), len(after.enrolled.sha256)) == (12, 13)
    assert after.classes == before.classes
    assert "left out; is enrolled or a training image already" in (more.out / "enrolled.csv").read_text("utf-8")
    (tmp_path / "names.csv").write_text("old,new\nbrand 1,Marke 1\n")
    renamed = extend(two.out, f"task.rename={tmp_path}/names.csv")
    assert renamed.result[0] == 0
    assert "Marke 1" in (renamed.out / "classes.txt").read_text("utf-8").splitlines()


@pytest.fixture(scope="module")
def predicted(two, start, later_store, first_request, products):
    """Predictions of base and extension for the base's test photos and the new products' photos, by path."""
    index = first_request[1]
    paths = [str(index.root / path) for path in index.split("test")["path"]]
    paths += sorted(map(str, products.glob("brand */*.png")))
    listing = two.input / "paths.txt"
    listing.write_text("\n".join(paths), "utf-8")
    tables = []
    for reference in (RUN, two.out):
        command = start("task=predict", f"runs={reference}", f"task.input='{listing}'", uri=later_store.uri)
        assert command.wait()[0] == 0
        tables.append(pd.read_csv(command.folder / "out" / "predictions.csv", encoding="utf-8-sig"))
    return tables


def test_new_products_are_recognized_and_old_answers_kept(predicted):
    base, extended = predicted
    new = extended["path"].str.contains("/brand [01]/")
    assert (extended.loc[new, "top1"] == extended.loc[new, "path"].str.extract(r"(brand \d)")[0]).mean() > 0.9
    assert extended.loc[new, "known"].all()
    old = ~extended["path"].str.contains("/brand ")
    changed = old & (base["top1"] != extended["top1"])
    # An old photo's answer changes only where a new product is likelier.
    assert extended.loc[changed, "top1"].isin(["brand 0", "brand 1"]).all()
    assert changed.sum() < 0.1 * old.sum()


def test_unlisted_photos_are_evaluated_as_unknown(two, start, later_store, first_request, products, tmp_path):
    index = first_request[1]
    data = index.table[["path", "class", "split"]].to_numpy()
    rows = [(str(index.root / path), name, split) for path, name, split in data]
    rows += [(str(file), file.parent.name, "test") for file in sorted(products.glob("brand */*.png"))]
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(tmp_path / "all.csv", index=False)
    options = ["dataset=table", f"dataset.table={tmp_path}/all.csv", "task.split=test", "dataset.catch_all_class=null"]
    command = start("task=evaluate", f"runs={two.out}", *options, uri=later_store.uri)
    code, out, err = command.wait()
    assert (code, err) == (0, "")
    assert "6 photos count as unknown: the run lacks brand 2" in out
    table = pd.read_parquet(command.folder / "out" / "test" / "open_set.parquet")
    assert table["listed"].sum() == 80 + 12
    assert table.loc[~table["listed"], "true"].unique().tolist() == ["brand 2"]
    metrics = later_store.run_of(out).data.metrics
    accepted = table.loc[~table["listed"], "known"].mean()
    assert metrics["test/unknown_accepted"] == pytest.approx(accepted)
    right = np.where(table["listed"], table["correct"] & table["known"], ~table["known"])
    assert metrics["test/open_set_top1"] == pytest.approx(right.mean())
    assert "unlisted called known" in out


def test_wrong_requests_write_nothing(two, extend, products, tmp_path):
    for options, reason in [
        ((), "needs exactly one of task.input"),
        ((f"task.input='{two.input}'", f"task.add_images='{two.input}'"), "needs exactly one of"),
        (("task.input=nowhere",), "there is no such file or folder"),
        ((f"task.remove='{two.input}'",), "is no .txt file"),
        ((f"task.input='{two.input}'",), "brand 0 is already a product of this network"),
    ]:
        command = extend(two.out, *options)
        code, _, err = command.result
        assert code == 2
        assert reason in err
        assert len(err.splitlines()) <= 2
        assert not list(command.out.glob("*"))


def test_an_extension_without_its_base_says_so(two, start, tmp_path_factory, later_store):
    from tests.helpers.tiny_runs import Store

    store = Store(tmp_path_factory.mktemp("alone"))
    copied = shutil.copytree(two.out, tmp_path_factory.mktemp("moved") / "run")
    command = start("task=predict", f"runs={copied}", f"task.input='{two.input}'", uri=store.uri)
    code, _, err = command.wait()
    assert code == 2
    assert "extends" in err
    assert "restore the base run, or name another run" in err
