"""What `notebooks/data_tour.py` shows of the data set that a run was trained on."""

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
from rp2k_lab.notebook.cells import Shot, Shown, note
from rp2k_lab.notebook.run_context import RunContext, with_augmentations
from rp2k_lab.pages import charts
from rp2k_lab.train.build import build_batches, build_photos, training_views

_FAMILY = 8  # classes shown of a family
_SIDE = 120  # pixels of the pictures that are drawn here
_PARTNERS = 3  # photos beside the one that is augmented, for mixup and CutMix
_LEAST_SHARE = 0.001  # of a mixed label, to be named
_NO_TRUTH = "Only a shelf set comes with its truth; of this data set nobody knows."


def summary(data: RunContext) -> Shown:
    """Which run and data set, and how many photos and classes each split has."""
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
    words = f"The run {run} used the data set {data.config.dataset.name} with the fingerprint {data.fingerprint}."
    if data.fingerprint != data.index.fingerprint:
        words += f" Its photos have changed since ({data.index.fingerprint}); this page shows them as they are now."
    return cells.together(note(words), cells.table(counts))


def long_tail(data: RunContext) -> Shown:
    """Training photos over the classes' ranks, and the three groups that results are reported for."""
    counts, groups = _ranked(data)
    rows = [(group, counts[groups == group]) for group in GROUPS]
    table = pd.DataFrame(
        {
            "group": [group for group, _ in rows],
            "classes": [len(of) for _, of in rows],
            "photos of a class": [f"{of.min():,} to {of.max():,}" if len(of) else "–" for _, of in rows],
            "photos": [int(of.sum()) for _, of in rows],
            "share of train": [percent(of.sum() / counts.sum()) for _, of in rows],
        }
    )
    chart = charts.rank_chart(counts, groups)
    return cells.together(cells.charts({"training photos per class": chart}), cells.table(table))


def classes_of_each_group(data: RunContext, count: int = 7) -> Shown:
    """A typical training photo of some classes of each group, from the largest to the smallest."""
    counts, groups = _ranked(data)
    names = np.array(data.index.classes, dtype=object)[np.argsort(-data.index.train_counts(), kind="stable")]
    rows = []
    for group in GROUPS:
        there = np.flatnonzero(groups == group)
        there = there[np.unique(np.linspace(0, len(there) - 1, min(count, len(there))).astype(int))]
        rows.append((group, [Shot(data.thumbnails.example(names[i]), f"{names[i]}: {counts[i]:,}") for i in there]))
    return cells.photo_rows([""] * max(len(shots) for _, shots in rows), rows)


def sizes_and_shapes(data: RunContext) -> Shown:
    """Height / width beside RP2K's published shares, and width and height in pixels."""
    photos = data.index.table
    drawn = {
        "height / width, beside RP2K's (yellow)": charts.ratio_chart(ratio_counts(photos), RATIO_COUNTS),
        "sizes": charts.size_chart(photos["width"].to_numpy(float), photos["height"].to_numpy(float)),
    }
    return cells.charts(drawn)


def letterbox_and_stretch(data: RunContext) -> Shown:
    """The widest, a square and the tallest photo of train, as they are and as a network is shown them."""
    size, rows = data.config.size, []
    for words, photo in _extremes(data.index.split("train")).items():
        image = read_image(data.index.root / photo["path"])
        views = Shot(letterbox(image, size)), Shot(stretch(image, size))
        words = f"{words}: {photo['width']} × {photo['height']} pixels, height / width {photo['ratio']:.2f}"
        rows.append((words, [Shot(_small(image), photo["class"]), *views]))
    marked = [f"{way} (this run)" if way == data.config.resize else way for way in ("letterbox", "stretch")]
    return cells.photo_rows(["the photo", *marked], rows)


def augmentations(data: RunContext, draws: int = 6) -> Shown:
    """What the first epochs of training make of one photo, with each augmentation in turn."""
    photos, rows = build_photos(data.config, data.index), _photo_with_partners(data)
    shown = pad_to_center(photos(rows["row"].iloc[0]), photos.size, data.config.size)
    as_it_is = cells.photos([Shot(shown, f"as evaluation sees it: {rows['class'].iloc[0]}")])
    lines = []
    for name, config in with_augmentations(data.config).items():
        views = training_views(config, data.index, photos, rows, draws)
        words = f"aug={name}" + (" (this run)" if name == data.config.aug.name else "")
        lines.append((words, [Shot(images[0], _mixture(data, labels[0])) for images, labels in views]))
    return cells.together(as_it_is, cells.photo_rows([f"epoch {epoch + 1}" for epoch in range(draws)], lines))


def first_batch(data: RunContext, most: int = 32) -> Shown:
    """The first photos of the first batch that the run was trained on, with their labels."""
    train, photos = data.index.split("train"), build_photos(data.config, data.index)
    batches = build_batches(data.config, data.index, photos, train)
    images, labels = batches.batch(0, batches.order(0), 0)
    words = f"{len(images)} photos of {' × '.join(map(str, images.shape[1:3]))} pixels, {images.nbytes:,} bytes of "
    words += f"{images.dtype}, one of {batches.steps_per_epoch:,} batches an epoch."
    names = [_mixture(data, label) or data.index.classes[label] for label in labels[:most]]
    return cells.together(note(words), cells.photos(map(Shot, images[:most], names)))


def nuisances(data: RunContext) -> Shown:
    """How often each nuisance is in a shelf set's photos, and its strongest case drawn with it and without."""
    known = _truth(data)
    if known is None:
        return note(_NO_TRUTH)
    options, truth = known
    bars = [(name, (truth[name] > 0).mean(), percent((truth[name] > 0).mean())) for name in NUISANCES]
    rows = []
    for name in NUISANCES:
        if truth[name].max() > 0:
            worst = truth.sort_values(name, ascending=False, kind="stable").iloc[0].to_dict()
            shots = [Shot(_small(redraw(options, worst, left_out))) for left_out in ((), (name,), NUISANCES)]
            rows.append((f"{name}: strength {worst[name]:.2f}", shots))
    drawn = cells.charts({"photos that have it": charts.bar_chart("photos that have it", bars)})
    return cells.together(drawn, cells.photo_rows(["the photo", "without this", "without any"], rows))


def families(data: RunContext, count: int = 3) -> Shown:
    """Look-alikes of a shelf set: the largest families of classes that share a brand."""
    known = _truth(data)
    if known is None:
        return note(_NO_TRUTH)
    catalog = build_catalog(known[0])
    groups = {tuple(sorted((i, *others.tolist()))) for i, others in enumerate(look_alikes(catalog)) if len(others)}
    there, rows = set(data.index.classes), []
    for group in sorted(groups, key=lambda group: (-len(group), group))[:count]:
        names = [catalog.classes[i].name for i in group if catalog.classes[i].name in there]
        brand = catalog.classes[group[0]].brand.name
        rows.append(
            (f"{brand}: {len(group)} classes", [Shot(data.thumbnails.example(name), name) for name in names[:8]])
        )
    if not rows:
        return note("No two classes of this set share a brand.")
    return cells.photo_rows([""] * max(len(shots) for _, shots in rows), rows)


def planted(data: RunContext) -> Shown:
    """Wrong labels and copies that were planted in a shelf set, by split."""
    known = _truth(data)
    if known is None:
        return note(_NO_TRUTH)
    truth = known[1].assign(split=data.index.table.set_index("path")["split"])  # val may have been held out of train
    found = pd.DataFrame(
        {"photos": truth.groupby("split").size(), "wrong labels": truth.groupby("split")["label_error"].sum()}
    )
    kinds = pd.crosstab(truth["split"], truth["duplicate_kind"].fillna("")).drop(columns="", errors="ignore")
    found = found.join(kinds.add_suffix(" copies")).reindex([split for split in SPLITS if split in found.index])
    return cells.table(found.rename_axis("split").reset_index())


def _ranked(data: RunContext) -> tuple[np.ndarray, np.ndarray]:
    """(training photos of each class, falling; its group)."""
    counts = np.sort(data.index.train_counts())[::-1]
    return counts, class_groups(counts)[0]


def _extremes(photos: pd.DataFrame) -> dict[str, pd.Series]:
    photos = photos.assign(ratio=photos["height"] / photos["width"])
    ends = {"the widest": photos["ratio"].idxmin(), "square": (np.log(photos["ratio"]).abs()).idxmin()}
    return {words: photos.loc[label] for words, label in (ends | {"the tallest": photos["ratio"].idxmax()}).items()}


def _photo_with_partners(data: RunContext) -> pd.DataFrame:
    """The photo of train's largest class that is nearest to a square, then photos of other classes."""
    train = data.index.split("train")
    counts = train["class"].value_counts()
    largest = train[train["class"] == counts.index[0]]
    squarest = np.log(largest["height"] / largest["width"]).abs().idxmin()
    others = train[train["class"] != counts.index[0]].drop_duplicates("class")
    spread = np.unique(np.linspace(0, len(others) - 1, min(_PARTNERS, len(others))).astype(int))
    return pd.concat([largest.loc[[squarest]], others.iloc[spread]])


def _small(image: np.ndarray) -> np.ndarray:
    return fit(image, (_SIDE, _SIDE)) if max(image.shape[:2]) > _SIDE else image


def _mixture(data: RunContext, label) -> str:
    """The classes of a mixed label with their shares; "" of a label that is one class."""
    if np.ndim(label) == 0:
        return ""
    order = [i for i in np.argsort(-label, kind="stable")[:2] if label[i] >= _LEAST_SHARE]
    return " + ".join(f"{percent(label[i])} {data.index.classes[i]}" for i in order)


def _truth(data: RunContext):
    """(options, truth) of the photos in use, by path, or None of another data set."""
    known = read_truth(data.index.root)
    return known and (known[0], known[1].loc[known[1].index.isin(data.index.table["path"])])
