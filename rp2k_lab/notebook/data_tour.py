"""Cells of `notebooks/data_tour.py`: the data set of a run."""

import numpy as np
import pandas as pd

from rp2k_lab.analysis.redraw_check import read_truth
from rp2k_lab.core.text import percent
from rp2k_lab.dataset.class_groups import GROUPS, class_groups
from rp2k_lab.dataset.image import fit, letterbox, pad_to_center, read_image, stretch
from rp2k_lab.dataset.shelf.catalog import build_catalog, look_alikes
from rp2k_lab.dataset.shelf.distributions import RATIO_COUNTS
from rp2k_lab.dataset.shelf.plan import NUISANCES
from rp2k_lab.dataset.shelf.scene import redraw
from rp2k_lab.dataset.summary import SPLITS, ratio_counts
from rp2k_lab.notebook import cells
from rp2k_lab.notebook.cells import CellOutput, Thumbnail, note
from rp2k_lab.notebook.run_context import RunContext, with_augmentations
from rp2k_lab.pages import charts
from rp2k_lab.train.build import build_batches, build_images, training_views

_FAMILY = 8  # classes shown of a family
_SIDE = 120  # pixels of images that are drawn here
_PARTNERS = 3  # further images for mixup and CutMix
_MIN_FRACTION = 0.001  # of a named class in a mixed label
_NO_TRUTH = "This data set has no recorded truth; only a shelf set has one."


def summary(data: RunContext) -> CellOutput:
    """Return the run, its data set, and the numbers of photos and classes by split."""
    photos = data.index.table
    splits = [split for split in SPLITS if (photos["split"] == split).any()]
    counts = pd.DataFrame(
        {
            "split": splits,
            "photos": [int((photos["split"] == split).sum()) for split in splits],
            "classes": [photos.loc[photos["split"] == split, "class"].nunique() for split in splits],
        }
    )
    run = f"{data.run.name} ({data.run.run_id[:8]}, {data.run.started:%Y-%m-%d %H:%M})"
    text = f"The run {run} used the data set {data.config.dataset.title} with the fingerprint {data.fingerprint}."
    if data.fingerprint != data.index.fingerprint:
        text += f" Its photos have changed since ({data.index.fingerprint}); this page shows the current photos."
    return cells.stack(note(text), cells.table(counts))


def long_tail(data: RunContext) -> CellOutput:
    """Return training photos by class rank, and the groups head, medium and tail."""
    counts, groups = _ranked(data)
    rows = [(group, counts[groups == group]) for group in GROUPS]
    table = pd.DataFrame(
        {
            "group": [group for group, _ in rows],
            "classes": [len(sizes) for _, sizes in rows],
            "photos of a class": [f"{sizes.min():,} to {sizes.max():,}" if len(sizes) else "–" for _, sizes in rows],
            "photos": [int(sizes.sum()) for _, sizes in rows],
            "fraction of train": [percent(sizes.sum() / counts.sum()) for _, sizes in rows],
        }
    )
    chart = charts.rank_chart(counts, groups.tolist())
    return cells.stack(cells.charts({"training photos per class": chart}), cells.table(table))


def classes_of_each_group(data: RunContext, count: int = 7) -> CellOutput:
    """Return a typical training photo of some classes of each group, largest class first."""
    counts, groups = _ranked(data)
    names = [data.index.classes[i] for i in np.argsort(-data.index.train_counts(), kind="stable")]
    rows = []
    for group in GROUPS:
        ranks = np.flatnonzero(groups == group)
        if not len(ranks):
            continue
        ranks = ranks[np.unique(np.linspace(0, len(ranks) - 1, min(count, len(ranks))).astype(int))]
        examples = [Thumbnail(data.thumbnails.example(names[i]), f"{names[i]}: {counts[i]:,}") for i in ranks]
        rows.append((group, examples))
    return cells.thumbnail_rows([""] * max(len(images) for _, images in rows), rows)


def sizes_and_shapes(data: RunContext) -> CellOutput:
    """Return charts of height / width, RP2K's beside the published histogram, and of width and height [pixels]."""
    images = data.index.table
    compared = data.config.dataset.compared_with_rp2k
    shapes = (images["height"] / images["width"]).to_numpy(float)
    ratio = charts.ratio_chart(ratio_counts(images), RATIO_COUNTS) if compared else charts.shape_chart(shapes)
    return cells.charts(
        {
            "height / width" + (", RP2K as published in yellow" if compared else ""): ratio,
            "sizes": charts.size_chart(images["width"].to_numpy(float), images["height"].to_numpy(float)),
        }
    )


def letterbox_and_stretch(data: RunContext) -> CellOutput:
    """Return the widest, the squarest and the tallest photo of train, original and as network input."""
    size, rows = data.config.size, []
    for shape, row in _extremes(data.index.split("train")).items():
        image = read_image(data.index.root / row["path"])
        views = Thumbnail(letterbox(image, size)), Thumbnail(stretch(image, size))
        title = f"{shape}: {row['width']} × {row['height']} pixels, height / width {row['ratio']:.2f}"
        rows.append((title, [Thumbnail(_small(image), row["class"]), *views]))
    columns = [f"{name} (this run)" if name == data.config.resize else name for name in ("letterbox", "stretch")]
    return cells.thumbnail_rows(["photo", *columns], rows)


def augmentations(data: RunContext, draws: int = 6) -> CellOutput:
    """Return one photo as it enters the first epochs of training, for each augmentation."""
    resized, rows = build_images(data.config, data.index), _image_with_partners(data)
    image = pad_to_center(resized(rows["row"].iloc[0]), resized.size, data.config.size)
    evaluated = cells.thumbnails([Thumbnail(image, f"as evaluation sees it: {rows['class'].iloc[0]}")])
    lines = []
    for name, config in with_augmentations(data.config).items():
        views = training_views(config, data.index, resized, rows, draws)
        title = f"aug={name}" + (" (this run)" if name == data.config.aug.label else "")
        lines.append((title, [Thumbnail(images[0], _mixture(data, labels[0])) for images, labels in views]))
    return cells.stack(evaluated, cells.thumbnail_rows([f"epoch {epoch + 1}" for epoch in range(draws)], lines))


def first_batch(data: RunContext, count: int = 32) -> CellOutput:
    """Return the first photos of the run's first training batch, with their labels."""
    train, resized = data.index.split("train"), build_images(data.config, data.index)
    batches = build_batches(data.config, data.index, resized, train)
    images, labels = batches.batch(0, batches.order(0), 0)
    text = f"{len(images)} photos of {' × '.join(map(str, images.shape[1:3]))} pixels, {images.nbytes:,} bytes of "
    text += f"{images.dtype}, one of {batches.steps_per_epoch:,} batches an epoch."
    names = [_mixture(data, label) or data.index.classes[label] for label in labels[:count]]
    return cells.stack(note(text), cells.thumbnails(map(Thumbnail, images[:count], names)))


def nuisances(data: RunContext) -> CellOutput:
    """Return each nuisance's frequency in a shelf set, and its strongest case with and without it."""
    shelf = _truth(data)
    if shelf is None:
        return note(_NO_TRUTH)
    options, truth = shelf
    bars = [(name, (truth[name] > 0).mean(), percent((truth[name] > 0).mean())) for name in NUISANCES]
    rows = []
    for name in NUISANCES:
        if truth[name].max() > 0:
            worst = truth.sort_values(name, ascending=False, kind="stable").iloc[0].to_dict()
            images = [Thumbnail(_small(redraw(options, worst, left_out))) for left_out in ((), (name,), NUISANCES)]
            rows.append((f"{name}: strength {worst[name]:.2f}", images))
    chart = cells.charts({"photos with the nuisance": charts.bar_chart("photos with the nuisance", bars)})
    return cells.stack(chart, cells.thumbnail_rows(["photo", "without this nuisance", "without any"], rows))


def families(data: RunContext, count: int = 3) -> CellOutput:
    """Return the largest families of look-alikes (classes of one brand) in a shelf set."""
    shelf = _truth(data)
    if shelf is None:
        return note(_NO_TRUTH)
    catalog = build_catalog(shelf[0])
    groups = {tuple(sorted((i, *alike.tolist()))) for i, alike in enumerate(look_alikes(catalog)) if len(alike)}
    present, rows = set(data.index.classes), []
    for group in sorted(groups, key=lambda group: (-len(group), group))[:count]:
        names = [catalog.classes[i].name for i in group if catalog.classes[i].name in present]
        brand = catalog.classes[group[0]].brand
        assert brand is not None  # of every class with look-alikes
        examples = [Thumbnail(data.thumbnails.example(name), name) for name in names[:_FAMILY]]
        rows.append((f"{brand.name}: {len(group)} classes", examples))
    if not rows:
        return note("No two classes of this set share a brand.")
    return cells.thumbnail_rows([""] * max(len(images) for _, images in rows), rows)


def planted(data: RunContext) -> CellOutput:
    """Return the numbers of planted wrong labels and copies in a shelf set, by split."""
    shelf = _truth(data)
    if shelf is None:
        return note(_NO_TRUTH)
    truth = shelf[1].assign(split=data.index.table.set_index("path")["split"])  # val may be a part of train
    counts = pd.DataFrame(
        {"photos": truth.groupby("split").size(), "wrong labels": truth.groupby("split")["label_error"].sum()}
    )
    kinds = pd.crosstab(truth["split"], truth["duplicate_kind"].fillna("")).drop(columns="", errors="ignore")
    counts = counts.join(kinds.add_suffix(" copies")).reindex([split for split in SPLITS if split in counts.index])
    return cells.table(counts.rename_axis("split").reset_index())


def _ranked(data: RunContext) -> tuple[np.ndarray, np.ndarray]:
    """Return (training images of each class, largest first; its group)."""
    counts = np.sort(data.index.train_counts())[::-1]
    return counts, class_groups(counts, data.index.long_tail_limits)[0]


def _extremes(images: pd.DataFrame) -> dict[str, pd.Series]:
    images = images.assign(ratio=images["height"] / images["width"])
    ratio = images["ratio"]
    labels = {"widest": ratio.idxmin(), "squarest": np.log(ratio).abs().idxmin(), "tallest": ratio.idxmax()}
    return {shape: images.loc[label] for shape, label in labels.items()}


def _image_with_partners(data: RunContext) -> pd.DataFrame:
    """Return the squarest image of train's largest class, then images of other classes."""
    train = data.index.split("train")
    counts = train["class"].value_counts()
    largest = train[train["class"] == counts.index[0]]
    squarest = np.log(largest["height"] / largest["width"]).abs().idxmin()
    partners = train[train["class"] != counts.index[0]].drop_duplicates("class")
    spread = np.unique(np.linspace(0, len(partners) - 1, min(_PARTNERS, len(partners))).astype(int))
    return pd.concat([largest.loc[[squarest]], partners.iloc[spread]])


def _small(image: np.ndarray) -> np.ndarray:
    return fit(image, (_SIDE, _SIDE)) if max(image.shape[:2]) > _SIDE else image


def _mixture(data: RunContext, label) -> str:
    """Return the classes of a mixed label with their fractions; "" for a single class."""
    if np.ndim(label) == 0:
        return ""
    order = [i for i in np.argsort(-label, kind="stable")[:2] if label[i] >= _MIN_FRACTION]
    return " + ".join(f"{percent(label[i])} {data.index.classes[i]}" for i in order)


def _truth(data: RunContext):
    """Return (options, truth by path) of a shelf set's indexed images; None for other data sets."""
    shelf = read_truth(data.index.root)
    return shelf and (shelf[0], shelf[1].loc[shelf[1].index.isin(data.index.table["path"])])
