"""The synthetic shelf: reproducible bytes, exact counts, published distributions, planted faults."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from rp2k_lab.dataset.shelf.catalog import OTHERS, build_catalog
from rp2k_lab.dataset.shelf.distributions import RATIO_BINS, RATIO_COUNTS, image_counts
from rp2k_lab.dataset.shelf.generate import make_shelf
from rp2k_lab.dataset.shelf.options import VERSION, ShelfOptions
from rp2k_lab.dataset.shelf.plan import NUISANCES, TRUTH_COLUMNS, plan
from rp2k_lab.dataset.shelf.scene import draw_image, redraw

SEEDS = range(5)
SMALL = {
    "classes": 8, "train_images": 80, "val_images": 16, "test_images": 40, "min_train_images": 3, "min_test_images": 2,
}  # fmt: skip
FAULTS = {
    "label_noise": 0.15, "exact_duplicates": 0.05, "near_duplicates": 0.05, "exact_leaks": 0.1, "near_leaks": 0.1,
}  # fmt: skip
ANY_SHAPE = {"ratio_spread": 1.0, "min_val_images": 1, "min_test_images": 4}
CLEAN = {f"{nuisance}_fraction": 0.0 for nuisance in NUISANCES} | {"multipack_class_fraction": 0.0}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Return (options, folder, truth) of a small set on disk with every fault."""
    options = ShelfOptions(**SMALL, **FAULTS, png_fraction=0.2, seed=4)
    folder = make_shelf(options, tmp_path_factory.mktemp("shelf"))
    return options, folder, pd.read_parquet(folder / "truth.parquet")


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def decode(file: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def square(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(float)


def digest_of(folder: Path) -> str:
    """Return a digest of the names and sizes of a set's images."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".jpg", ".png"))
    sizes = "".join(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n" for file in files)
    return hashlib.sha256(sizes.encode()).hexdigest()[:16]


def quantile_of(ratios: np.ndarray) -> np.ndarray:
    """Return the quantiles of the published histogram at which height/width ratios lie."""
    return np.interp(ratios, np.r_[0.3, RATIO_BINS[1:]], np.r_[0.0, np.cumsum(RATIO_COUNTS)] / RATIO_COUNTS.sum())


def variation_distance(ratios: np.ndarray) -> float:
    """Return the total variation distance of height/width ratios from the published histogram."""
    counts = np.histogram(ratios, RATIO_BINS)[0]
    return 0.5 * np.abs(counts / len(ratios) - RATIO_COUNTS / RATIO_COUNTS.sum()).sum()


# Files


@pytest.mark.slow
def test_same_options_give_the_same_bytes_with_any_number_of_processes(tmp_path):
    options = ShelfOptions(**SMALL | {"train_images": 250})
    one = make_shelf(options, tmp_path / "a", num_processes=1)
    two = make_shelf(options, tmp_path / "b", num_processes=2)
    assert one.name == two.name
    assert checksums(one) == checksums(two)
    other_seed = ShelfOptions(**SMALL, seed=1)
    three = make_shelf(other_seed, tmp_path / "a")
    assert not set(checksums(one).values()) & set(checksums(three).values())


def test_layout_and_truth_agree(faulty):
    options, folder, truth = faulty
    assert tuple(truth.columns) == TRUTH_COLUMNS
    images = {path for path in checksums(folder) if path.count("/") == 2}
    assert images == set(truth["path"])
    assert len(images) == len(truth)
    assert (folder / "options.json").read_text("utf-8") == options.model_dump_json(indent=2) + "\n"
    assert {file.name for file in folder.iterdir()} == {"train", "val", "test", "truth.parquet", "options.json"}
    parts = truth["path"].str.split("/", expand=True)
    assert (parts[0] == truth["split"]).all()
    assert (parts[1] == truth["given_class"]).all()
    for row in truth.itertuples():
        head = (folder / row.path).read_bytes()[:4]
        assert head.startswith(b"\x89PNG" if row.jpeg_quality == 0 else b"\xff\xd8")
        assert decode(folder / row.path).shape == (row.height, row.width, 3)
        assert row.ratio == row.height / row.width
    channels = {cv2.imdecode(np.fromfile(folder / path, np.uint8), cv2.IMREAD_UNCHANGED).shape[2]
                for path in truth.loc[truth["jpeg_quality"] == 0, "path"]}  # fmt: skip
    assert channels == {3, 4}


def test_names_resemble_rp2ks():
    truth = plan(ShelfOptions(classes=200, train_images=8000, png_fraction=0.5))
    names = truth["true_class"].unique()
    for mark in "（）_ .+":
        assert any(mark in name for name in names), mark
    assert not any(set(name) & set('/\\:*?"<>|') or name != name.strip() for name in names)
    stems = truth["path"].str.split("/").str[-1]
    assert stems.is_unique
    screenshots = stems[truth["jpeg_quality"] == 0]
    assert screenshots.str.match(r"截屏2019-\d\d-\d\d[上下]午\d{1,2}\.\d\d\.\d\d\.(png|PNG)$").all()
    assert set(stems.str.rsplit(".").str[-1]) == {"jpg", "JPG", "png", "PNG"}


def test_no_val_folder_without_val_images(tmp_path):
    folder = make_shelf(ShelfOptions(**SMALL | {"val_images": 0}), tmp_path)
    assert not (folder / "val").exists()
    assert (folder / "train").is_dir()


def test_an_existing_set_is_reused(faulty):
    options, folder, _ = faulty
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    start = time.process_time()
    assert make_shelf(options, folder.parent) == folder
    assert time.process_time() - start < 0.5
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


@pytest.mark.slow
def test_a_set_of_a_killed_process_is_not_complete(tmp_path):
    options = ShelfOptions(**SMALL | {"train_images": 8000, "seed": 9})
    script = tmp_path / "make.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from rp2k_lab.dataset.shelf.generate import make_shelf\n"
        "from rp2k_lab.dataset.shelf.options import ShelfOptions\n"
        "if __name__ == '__main__':\n"
        "    make_shelf(ShelfOptions.model_validate_json(sys.argv[1]), Path(sys.argv[2]), 2)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    out = tmp_path / "out"
    # Child processes inherit the write end of this pipe, so that reading ends when the last of them has ended.
    alive, inherited = os.pipe()
    arguments = [sys.executable, str(script), options.model_dump_json(), str(out)]
    process = subprocess.Popen(arguments, env=environment, pass_fds=[inherited], stderr=inherited)
    os.close(inherited)
    deadline = time.monotonic() + 120
    while not (images := len(list(out.rglob("*.jpg")))) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert images
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    while os.read(alive, 65536):
        pass
    os.close(alive)
    assert not list(out.glob("shelf-*"))
    assert len(list(out.glob(".shelf-*.part-*"))) == 1
    # Finishing does not depend on the number of images: draw a small set in its place.
    small = ShelfOptions(**SMALL)
    (leftover,) = out.glob(".shelf-*.part-*")
    leftover.rename(out / f".shelf-{small.fingerprint()}.part-killed")
    folder = make_shelf(small, out)
    assert (folder / "truth.parquet").is_file()
    assert not list(out.glob(".shelf-*.part-*"))


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rp2k_lab.dataset.shelf.generate.encode", fail)
    with pytest.raises(KeyboardInterrupt):
        make_shelf(ShelfOptions(**SMALL), tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".lock"]


# Counts and ratios


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("others_fraction", [0.0, 0.03])
def test_counts_are_exact_and_descending(seed, others_fraction):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(10, 300))
    options = ShelfOptions(
        seed=seed, classes=classes, min_train_images=10, others_fraction=others_fraction,
        train_images=classes * int(rng.integers(10, 80)),
        val_images=classes + int(rng.integers(500)), test_images=classes * 4 + int(rng.integers(3000)),
    )  # fmt: skip
    truth = plan(options)
    for split, counts in image_counts(options).items():
        total = getattr(options, f"{split}_images")
        assert counts.sum() == total
        assert counts.min() >= options.least_images(split)
        products = counts[: classes - (others_fraction > 0)]
        assert (np.diff(products) <= 0).all()
        names = [product_class.name for product_class in build_catalog(options).classes]
        assert len(set(names)) == classes
        planned = truth.loc[truth["split"] == split, "true_class"].value_counts()
        assert planned.reindex(names).tolist() == counts.tolist()
        if others_fraction:
            minimum = options.least_images(split)
            assert (names[-1], counts[-1]) == (OTHERS, max(minimum, round(others_fraction * total)))


def test_full_size_can_be_planned_and_has_the_published_tail():
    options = ShelfOptions(
        classes=2388, train_images=342_000, val_images=0, test_images=39_457, min_train_images=1, min_test_images=1
    )
    start = time.process_time()
    truth = plan(options)
    assert time.process_time() - start < 15
    test = truth.loc[truth["split"] == "test", "true_class"].value_counts()
    assert test.index[0] == OTHERS
    assert len(test) == 2388
    # Published: 1 % of the classes have at least 170 images, 5 % 69, 10 % 41, 25 % 15, 50 % 5.
    published = {0.01: 170, 0.05: 69, 0.10: 41, 0.25: 15, 0.50: 5}
    for quantile, images in published.items():
        assert test.iloc[round(quantile * 2388)] == pytest.approx(images, rel=0.25)
    assert variation_distance(truth["ratio"].to_numpy()) < 0.07


@pytest.mark.parametrize("size_cue", [0, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_pooled_ratios_follow_the_published_histogram(seed, size_cue):
    options = ShelfOptions(seed=seed, size_cue=size_cue, **ANY_SHAPE)
    assert variation_distance(plan(options)["ratio"].to_numpy()) < 0.08
    # The largest products are a sixth of the images of 400 classes, each with one shape.
    options = ShelfOptions(seed=seed, size_cue=size_cue, classes=400, train_images=20_000)
    assert variation_distance(plan(options)["ratio"].to_numpy()) < 0.15


@pytest.mark.parametrize("seed", SEEDS)
def test_a_product_has_one_shape(seed):
    def quantiles(options: ShelfOptions) -> pd.Series:
        truth = plan(options)
        truth = truth[truth["true_class"] != OTHERS].assign(quantile=lambda t: quantile_of(t["ratio"].to_numpy()))
        return truth.groupby(["true_class", "brand", "size"])["quantile"].agg(["min", "max"])

    for spread in (0.0, 0.08, 0.3):
        bands = quantiles(ShelfOptions(seed=seed, ratio_spread=spread))
        # Rounding to whole pixels moves a ratio by up to 1 / 64 of it.
        assert (bands["max"] - bands["min"]).max() < spread + 0.05
        assert bands["min"].min() < 0.2
        assert bands["max"].max() > 0.8
    assert (bands["max"] - bands["min"]).max() > 0.2
    one_shape = quantiles(ShelfOptions(seed=seed, shape_of="brand"))
    by_product = quantiles(ShelfOptions(seed=seed))
    for bands, least, most in ((one_shape, 0.0, 0.13), (by_product, 0.3, 1.0)):
        flavors = bands[bands.index.get_level_values("size") == 0].groupby("brand").agg({"min": "min", "max": "max"})
        assert least < (flavors["max"] - flavors["min"]).max() < most


def test_the_tail_has_few_training_images_and_enough_test_images():
    counts = image_counts(ShelfOptions())
    assert 1 <= counts["train"].min() <= 5
    assert (counts["train"] < 20).sum() >= 10
    assert counts["test"].min() == 20
    assert counts["val"].min() == 5
    small = ShelfOptions(classes=200)
    assert image_counts(small)["test"].min() == small.least_images("test") == 5
    assert ShelfOptions(min_test_images=7).least_images("test") == 7


def test_the_whole_spread_is_the_first_version(tmp_path, monkeypatch):
    """Sets drawn before the option existed keep their names and bytes."""
    options = ShelfOptions(ratio_spread=1, min_val_images=1, **SMALL, **FAULTS, png_fraction=0.2, seed=4)
    monkeypatch.setattr(cv2, "__version__", "4.11.0")
    assert options.fingerprint() == "8db847b7502c"
    monkeypatch.undo()
    assert digest_of(make_shelf(options, tmp_path)) == "910d98a603f25212"


def test_without_size_cue_any_shape_is_independent_of_the_class():
    truth = plan(ShelfOptions(size_cue=0, train_images=20_000, **ANY_SHAPE))
    assert (truth["size"] == 0).all()
    ranks = truth["ratio"].rank(pct=True)
    means = ranks.groupby(truth["true_class"]).agg(["mean", "size"])
    # Mean of n uniform ranks: standard deviation 1 / sqrt(12 n). About 40 classes: 4 of them is improbable.
    deviations = (means["mean"] - 0.5).abs() * np.sqrt(12 * means["size"])
    assert deviations.max() < 4
    with_cue = plan(ShelfOptions(size_cue=1, train_images=20_000, **ANY_SHAPE))
    means = with_cue["ratio"].rank(pct=True).groupby(with_cue["true_class"]).agg(["mean", "size"])
    assert ((means["mean"] - 0.5).abs() * np.sqrt(12 * means["size"])).max() > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_sizes_of_a_product_have_disjoint_ratios(seed):
    truth = plan(ShelfOptions(seed=seed))
    sized = truth[truth["size"] > 0]
    assert sized["true_class"].nunique() == 16  # 0.4 of 39 classes
    assert plan(ShelfOptions(seed=seed, size_cue=0))["true_class"].nunique() == truth["true_class"].nunique() == 40
    for _, product in sized.groupby(["brand", "flavor"]):
        bounds = product.groupby("size")["ratio"].agg(["min", "max"]).sort_index()
        assert len(bounds) in (2, 3)
        assert (bounds["max"].to_numpy()[:-1] < bounds["min"].to_numpy()[1:]).all()


def test_stretched_to_a_square_two_sizes_look_the_same():
    options = ShelfOptions(**CLEAN)
    catalog = build_catalog(options)
    truth = plan(options)
    compared = 0
    for _, low in truth[truth["size"] == 1].groupby("true_class").head(1).iterrows():
        same_product = (truth["brand"] == low["brand"]) & (truth["flavor"] == low["flavor"])
        high = truth[same_product & (truth["size"] == 2)].iloc[0]
        assert high["ratio"] > 1.02 * low["ratio"]
        siblings = {c.flavor.name for c in catalog.classes if c.brand and c.brand.name == low["brand"]}
        as_high = pd.concat([low.drop(["width", "height"]), high[["width", "height"]]])
        this, other_size = (square(draw_image(row, catalog)) for row in (low, as_high))
        for flavor in siblings - {low["flavor"]}:
            other_flavor = square(draw_image(low.to_dict() | {"flavor": flavor}, catalog))
            assert np.abs(this - other_size).mean() < 0.5 * np.abs(this - other_flavor).mean()
            compared += 1
    assert compared >= 5


def test_stretched_to_a_square_no_size_is_sharper():
    """Ratio and vertical sharpness of one product's images have a small rank correlation."""
    options = ShelfOptions(**CLEAN)
    truth = plan(options)
    catalog = build_catalog(options)
    row = truth.iloc[0].to_dict()
    shapes = truth[["height", "width", "ratio", "draw_key"]].head(200)
    sharpness = []
    for height, width, draw_key in shapes[["height", "width", "draw_key"]].to_numpy():
        image = draw_image(row | {"height": height, "width": width, "draw_key": draw_key}, catalog)
        sharpness.append(np.abs(np.diff(square(image), 2, axis=0)).mean())
    # Crops with a fixed shorter side gave over 0.5 here; random values stay within 3 / sqrt(200) = 0.21.
    assert abs(shapes["ratio"].reset_index(drop=True).corr(pd.Series(sharpness), method="spearman")) < 0.25


def test_size_affects_only_the_ratio():
    truth = plan(ShelfOptions(train_images=20_000, classes=10, others_fraction=0.0, multipack_class_fraction=1.0))
    sized = truth[truth["size"] > 0]
    for column in [*NUISANCES, "pack"]:
        present = sized[column] > (1 if column == "pack" else 0)
        by_size = present.groupby(sized["size"]).agg(["mean", "size"])
        spread = np.sqrt(present.mean() * (1 - present.mean()) / by_size["size"])
        assert ((by_size["mean"] - present.mean()).abs() < 4 * spread).all(), column


# Nuisances


@pytest.mark.parametrize("nuisance", NUISANCES)
def test_nuisance_fraction_and_effect(nuisance):
    options = ShelfOptions(train_images=3000)
    truth = plan(options)
    fraction = getattr(options, f"{nuisance}_fraction")
    # Four standard deviations of a binomial fraction.
    assert abs((truth[nuisance] > 0).mean() - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / len(truth))
    assert truth[nuisance].max() <= 1
    for row in truth[truth[nuisance] > 0].head(8).to_dict("records"):
        difference = np.abs(redraw(options, row).astype(float) - redraw(options, row, [nuisance]))
        assert difference.mean() > 0.4, row["path"]
    row = truth[truth[nuisance] == 0].iloc[0]
    assert (redraw(options, row) == redraw(options, row, [nuisance])).all()


def test_a_product_is_visible_under_its_nuisances():
    options = ShelfOptions(**SMALL)
    for row in plan(options).head(20).to_dict("records"):
        with_all = square(redraw(options, row)).ravel()
        assert with_all.std() > 8, row["path"]


def test_redraw_equals_the_file(faulty):
    options, folder, truth = faulty
    for row in truth.to_dict("records"):
        assert (redraw(options, row) == decode(folder / row["path"])).all()
    jpeg = truth[truth["jpeg_quality"] > 0].iloc[0]
    png = truth[truth["jpeg_quality"] == 0].iloc[0]
    assert (redraw(options, jpeg) != redraw(options, jpeg, ["jpeg"])).any()
    assert (redraw(options, png) == redraw(options, png, ["jpeg"])).all()
    with pytest.raises(ValueError, match="fog"):
        redraw(options, jpeg, ["fog"])


def test_jpeg_quality_and_png_fraction():
    truth = plan(ShelfOptions(train_images=5000, jpeg_quality=(70, 72), png_fraction=0.2))
    assert set(truth["jpeg_quality"]) == {0, 70, 71, 72}
    assert abs((truth["jpeg_quality"] == 0).mean() - 0.2) < 4 * np.sqrt(0.16 / len(truth))


def test_flavors_differ_in_a_small_visible_part():
    """At 64 × 64 two flavors differ clearly, but in less than a quarter of the image."""
    options = ShelfOptions(classes=30, **CLEAN)
    catalog = build_catalog(options)
    row = plan(options).iloc[0]
    products = {c.product: c for c in catalog.classes if c.brand and c.brand.name == row["brand"]}
    images = []
    for product in products.values():
        row = row.copy()
        row["flavor"] = product.flavor.name
        images.append(square(draw_image(row, catalog)))
    assert len(images) >= 2
    for image in images[1:]:
        changed = np.abs(image - images[0]).max(axis=2) > 30
        assert 0.01 < changed.mean() < 0.25


# Faults


@pytest.mark.parametrize("seed", SEEDS)
def test_label_noise_has_its_rate_and_uses_look_alikes(seed):
    options = ShelfOptions(seed=seed, label_noise=0.1)
    truth = plan(options)
    assert ((truth["given_class"] != truth["true_class"]) == truth["label_error"]).all()
    assert truth.groupby("split")["label_error"].sum().to_dict() == {"train": 400, "val": 0, "test": 0}
    catalog = build_catalog(options)
    brand = {product_class.name: product_class.brand for product_class in catalog.classes}
    wrong = truth[truth["label_error"]]
    similar = wrong["given_class"].map(brand) == wrong["true_class"].map(brand)
    assert 0.8 <= similar.mean() < 0.9
    assert wrong.loc[~similar, "given_class"].nunique() > 10
    assert truth[truth["split"] == "train"].query("not label_error")["given_class"].nunique() == 40


def test_label_noise_is_only_in_noisy_splits():
    truth = plan(ShelfOptions(label_noise=0.1, noisy_splits=("val", "test")))
    assert truth.groupby("split")["label_error"].sum().to_dict() == {"train": 0, "val": 50, "test": 200}
    assert not plan(ShelfOptions())["label_error"].any()


def test_copies_are_planted_and_recorded(faulty):
    _, folder, truth = faulty
    kinds = truth[truth["duplicate_of"].notna()].groupby(["split", "duplicate_kind"]).size().to_dict()
    assert kinds == {("train", "exact"): 4, ("train", "near"): 4, ("test", "exact"): 4, ("test", "near"): 4}
    by_path = truth.set_index("path")
    sums = checksums(folder)
    for row in truth[truth["duplicate_of"].notna()].itertuples():
        source = by_path.loc[row.duplicate_of]
        assert source["split"] == "train"
        assert pd.isna(source["duplicate_of"])
        assert source["true_class"] == row.true_class
        assert (sums[row.path] == sums[row.duplicate_of]) == (row.duplicate_kind == "exact")
        difference = np.abs(square(decode(folder / row.path)) - square(decode(folder / row.duplicate_of))).mean()
        unrelated = by_path[(by_path["brand"] != row.brand) & (by_path["split"] == "train")].index[0]
        apart = np.abs(square(decode(folder / row.path)) - square(decode(folder / unrelated))).mean()
        assert difference < 0.6 * apart
    copies = truth["duplicate_of"].notna()
    assert len({sums[path] for path in truth.loc[~copies, "path"]}) == (~copies).sum()


def test_no_copies_by_default():
    truth = plan(ShelfOptions())
    assert truth["duplicate_of"].isna().all()
    assert truth["duplicate_kind"].isna().all()
    assert truth["draw_key"].is_unique


def test_copies_may_be_half_of_a_split():
    truth = plan(ShelfOptions(exact_duplicates=0.3, near_duplicates=0.2, exact_leaks=0.5, near_leaks=0.5))
    assert truth["duplicate_of"].notna().groupby(truth["split"]).mean().to_dict() == {"train": 0.5, "val": 0, "test": 1}


# Options


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": 1}, {"classes": "40"}, {"seed": -1}, {"seed": True}, {"size_cue": 2}, {"size_cue": True},
        {"label_noise": 0.6}, {"blur_fraction": 1.5}, {"jpeg_quality": (95, 60)}, {"jpeg_quality": (0, 60)},
        {"side_px": (8, 20)}, {"noisy_splits": ("training",)}, {"images": 3}, {"train_images": 10.5},
    ],
)  # fmt: skip
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ShelfOptions(**wrong)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_impossible_counts_are_refused_before_anything_is_written(split, tmp_path):
    options = ShelfOptions(**{f"{split}_images": 100, f"min_{split}_images": 5})
    with pytest.raises(ValueError, match=rf"{split}_images=100 .*classes=40 .*min_{split}_images=5"):
        make_shelf(options, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_impossible_faults_are_refused():
    tight = {"classes": 5, "train_images": 10, "min_train_images": 2}
    with pytest.raises(ValueError, match="exact_duplicates"):
        plan(ShelfOptions(**tight, exact_duplicates=0.5, near_duplicates=0.5))
    with pytest.raises(ValueError, match="label_noise"):
        plan(ShelfOptions(classes=5, val_images=5, label_noise=0.5, noisy_splits=("val",)))


def test_fingerprint_depends_on_options_version_and_opencv(monkeypatch):
    options = ShelfOptions()
    assert options.fingerprint() == ShelfOptions(jpeg_quality=[60, 95]).fingerprint()
    assert options.fingerprint() != ShelfOptions(blur_fraction=0.26).fingerprint()
    before = options.fingerprint()
    monkeypatch.setattr(cv2, "__version__", "0")
    assert options.fingerprint() != before
    monkeypatch.undo()
    monkeypatch.setattr("rp2k_lab.dataset.shelf.options.VERSION", 0)
    assert options.fingerprint() != before


def test_other_bytes_need_another_version(faulty):
    """If the change is on purpose, raise `VERSION` in options.py and put the new digest here."""
    assert (VERSION, digest_of(faulty[1])) == (2, "3a4f4a04a194e067")


def test_size_does_not_change_the_art():
    """Two sizes differ only in class name and size, so nothing else can be drawn differently."""
    catalog = build_catalog(ShelfOptions())
    groups: dict[int, set] = {}
    for product_class in catalog.classes:
        if product_class.size:
            groups.setdefault(product_class.product, set()).add(replace(product_class, name="", size=0))
    assert groups
    assert all(len(group) == 1 for group in groups.values())
