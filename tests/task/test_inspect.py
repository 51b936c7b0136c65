"""task=inspect: the real command, and refusals."""

import shutil

import pandas as pd
import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.task import inspect
from tests.helpers.tiny_runs import FEW_PHOTOS

GROCERY_STORE = PROJECT.parent / "shared" / "data" / "grocery_store"
PLANTED = ("dataset.exact_leaks=0.1", "dataset.near_leaks=0.15", "dataset.exact_duplicates=0.02", "dataset.seed=3")
SECTIONS = [
    "summary",
    "classes",
    "shapes",
    "sizes",
    "unreadable",
    "copies",
    "missing",
    "not-photos",
    "augmentation",
]


@pytest.fixture(scope="module")
def inspected(start):
    """A finished inspection of a tiny shelf with planted copies."""
    command = start("task=inspect", *FEW_PHOTOS, *PLANTED, "aug=cutout")
    command.result = command.wait()
    return command


@pytest.fixture(scope="module")
def groceries(start, tmp_path_factory):
    """A finished inspection of some Grocery Store images, one of them truncated."""
    if not GROCERY_STORE.is_dir():
        pytest.skip("the Grocery Store photos (../shared/data/grocery_store) are not on this machine")
    root = tmp_path_factory.mktemp("groceries")
    shutil.copy(GROCERY_STORE / "classes.csv", root)
    for split, step in (("train", 40), ("val", 20)):
        lines = (GROCERY_STORE / f"{split}.txt").read_text().splitlines()[::step]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            file = root / line.split(",")[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(GROCERY_STORE / line.split(",")[0], file)
    file.write_bytes(file.read_bytes()[:200])
    command = start("task=inspect", "dataset=grocery_store", f"dataset.root={root}", "size=64")
    command.result = command.wait()
    return command


@pytest.fixture(scope="module")
def index(inspected, compose):
    """The index that a training with the inspected data set builds."""
    from rp2k_lab.dataset.photo_index import build_index

    return build_index(parse(compose(*FEW_PHOTOS, *PLANTED)).dataset)


def test_inspection_records_page_tables_and_counts(inspected, index):
    code, out, err = inspected.result
    assert code == 0, err
    (run,) = inspected.store.runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "inspect_shelf"
    assert run.data.tags["task"] == "inspect"
    assert len(run.data.tags["dataset_fingerprint"]) == 16
    folder = inspected.store.artifacts(run)
    names = {"inspection.html", "classes.parquet", "duplicates.parquet", "unreadable.parquet"}
    names |= {"config.yaml", "environment.txt", "classes.txt"}
    assert {file.name for file in folder.iterdir()} == names
    assert yaml.safe_load((folder / "config.yaml").read_text())["task"]["what"] == "data"
    duplicates = pd.read_parquet(folder / "duplicates.parquet")
    assert list(duplicates.columns) == ["group", "content", "difference", "path", "class", "split"]
    truth = pd.read_parquet(index.root / "truth.parquet")
    leaked = truth[(truth["split"] == "test") & truth["duplicate_of"].notna()]
    assert len(leaked) == 20
    assert set(leaked["path"]) <= set(duplicates["path"])
    metrics = run.data.metrics
    assert (metrics["photos"], metrics["classes"], metrics["unreadable"]) == (440, 8, 0)
    assert metrics["copies/train_and_test"] == 20
    assert metrics["copies/train_and_test_exact"] == 8
    classes = pd.read_parquet(folder / "classes.parquet")
    assert classes[["train", "val", "test"]].sum().tolist() == [300, 60, 80]
    assert "train and test      20 (8 exact, 12 near)" in out
    page = inspected.folder / "out" / "inspection.html"
    assert f"page        {page}" in out
    assert page.read_bytes() == (folder / "inspection.html").read_bytes()
    assert "aug=cutout (crop=(0.5, 1.0), flip=0.5, color=0.4, erase=cutout, erase.length=14)" in page.read_text("utf-8")


def test_fingerprint_equals_that_of_a_training(inspected, index):
    (run,) = inspected.store.runs()
    assert run.data.tags["dataset_fingerprint"] == index.fingerprint


def test_bad_images_are_reported(groceries):
    code, out, err = groceries.result
    assert code == 0, err
    (run,) = groceries.store.runs()
    assert run.data.metrics["unreadable"] == 1
    assert len(pd.read_parquet(groceries.store.artifacts(run) / "unreadable.parquet")) == 1
    assert "unreadable  1" in out


@pytest.mark.parametrize("which", ["inspected", "groceries"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_the_whole_page(browser, request, which, width, scheme):
    command = request.getfixturevalue(which)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, messages, requests = context.new_page(), [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    address = (command.folder / "out" / "inspection.html").as_uri()
    page.goto(address)
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [address]
    for section in SECTIONS:
        assert page.locator(f"section#{section}").is_visible(), section
    images = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(images) > 50
    assert all(images)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    charts = page.locator("svg.chart").all()
    assert len(charts) == 4
    assert all(chart.bounding_box()["width"] > 250 for chart in charts)
    # Text must contrast with its background.
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('#classes')).backgroundColor]"
        ".map(c => c.match(/\\d+/g).slice(0, 3).reduce((sum, v) => sum + +v, 0) / 3)"
    )
    assert abs(ink - paper) > 150
    assert (paper > 128) == (scheme == "light")
    context.close()


@pytest.mark.parametrize("name", ["rp2k", "grocery_store"])
def test_root_with_another_layout_is_refused(start, tmp_path, name):
    command = start("task=inspect", f"dataset={name}", f"dataset.root={tmp_path}")
    code, _, err = command.wait()
    assert code == 2
    assert str(tmp_path) in err
    assert len(err.strip().splitlines()) <= 2
    assert command.store.runs() == []


def test_only_the_data_page_needs_a_data_set(compose):
    with pytest.raises(RequestError, match=r"dataset\.root"):
        parse(compose("task=inspect", "dataset=rp2k"))
    assert parse(compose("task=inspect", "task.what=models", "dataset=rp2k")).dataset.root is None


def test_models_are_printed_and_nothing_is_recorded(start):
    command = start("task=inspect", "task.what=models", "task.models=[resnet18]", "task.size=64", "task.seconds=0.1")
    code, out, err = command.wait()
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("resnet18"))
    parameters, multiply_adds, unit, width, smallest, speed, *source = line.split()[1:]
    assert (parameters, multiply_adds, unit, width, smallest) == ("11,689,512", "0.15", "G", "512", "32")
    assert float(speed) > 0
    assert source[-2:] == ["timm", "resnet18"]
    assert "next        python run.py model=resnet18" in out
    assert command.store.runs() == []
    assert list((command.folder / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("models", "size", "word"), [("resnet19", 224, "resnet19"), ("inception_resnet_v2", 64, "75")])
def test_impossible_models_are_refused(compose, tmp_path, models, size, word):
    config = parse(compose("task=inspect", "task.what=models", f"task.models=[{models}]", f"task.size={size}"))
    with pytest.raises(RequestError, match=word):
        inspect.run(config, tmp_path)


class TestCache:
    """task.what=cache, in this process."""

    @pytest.fixture
    def request_cache(self, compose, tmp_path, write_photo, monkeypatch, data_folder):
        import rp2k_lab.dataset.image_cache

        monkeypatch.setattr(rp2k_lab.dataset.image_cache, "DATA_FOLDER", data_folder)
        for i in range(20):
            write_photo(tmp_path / "set" / "train" / "ab"[i % 2] / f"{i}.png", 30, 50, seed=i)
        request = ["task=inspect", "task.what=cache", "dataset=rp2k", f"dataset.root={tmp_path / 'set'}", "size=32"]
        return lambda *more: inspect.run(parse(compose(*request, *more)), tmp_path)

    def test_is_filled_once_and_reused(self, request_cache, capsys, caplog):
        caplog.set_level("INFO")
        request_cache("dataset.cache_gb=1")
        assert "20 photos of 20" in capsys.readouterr().out
        assert "0 cached already" in caplog.text
        request_cache("dataset.cache_gb=1")
        assert "20 cached already" in caplog.text

    def test_another_size_gets_another_cache(self, request_cache, data_folder):
        for size in (32, 48):
            request_cache("dataset.cache_gb=1", f"size={size}")
        assert len(list((data_folder / "cache").iterdir())) == 2

    def test_zero_size_is_refused_with_the_required_size(self, request_cache):
        with pytest.raises(RequestError, match=r"dataset\.cache_gb=0.*\nuse dataset\.cache_gb=0\.1: 20 photos take "):
            request_cache()
