"""extension.html: each new product beside its nearest listed ones, what to expect, the photos-needed curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from rp2k_lab.core.text import counted, escape_controls, percent
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.enrollment.gate import Finding, Rival
from rp2k_lab.enrollment.new_images import NewImages
from rp2k_lab.enrollment.outlook import CurvePoint, Forgetting, Unlisted
from rp2k_lab.evaluation.metric_registry import Score
from rp2k_lab.extension.extension_file import Extension
from rp2k_lab.pages.charts import share_chart
from rp2k_lab.pages.images import ImageEmbedder, render

_IMAGES = 6  # of a product


@dataclass(frozen=True)
class ProductReport:
    """A product that received images.

    Attributes:
        name: class name.
        is_new: whether this extension adds it.
        photos: number of its enrolled photos, all extensions together.
        expected: from `outlook.expected_accuracy`.
        rivals: from `gate.rivals`.
        findings: what speaks against it or its photos.
    """

    name: str
    is_new: bool
    photos: int
    expected: Score | None
    rivals: Sequence[Rival]
    findings: Sequence[Finding]


@dataclass(frozen=True)
class Outlook:
    """What to expect of the extended network; None: not measured."""

    forgetting: Forgetting | None
    unlisted: Unlisted | None
    curve: Sequence[CurvePoint]


def expectations(products: Sequence[ProductReport], outlook: Outlook, reject: float) -> list[tuple[str, str, str]]:
    """Return (what, value with its interval, note) for page and terminal."""
    rows = []
    estimates = [product.expected for product in products if product.is_new and product.expected]
    if estimates:
        right, count = sum(round(each.value * each.count) for each in estimates), sum(each.count for each in estimates)
        note = f"{right} of {count} photos recognized by the other photos of their product, among all products"
        rows.append(("new products", percent(right / count), note))
    if outlook.forgetting:
        change = outlook.forgetting
        note = f"val, {_interval(change.after)}; before {percent(change.before.value)}"
        rows.append(("old products", percent(change.after.value), note))
        note = f"val photos that a new product took; {change.lost} were right"
        rows.append(("answers stolen", str(change.stolen), note))
    if outlook.unlisted:
        refused, accepted, auroc = outlook.unlisted.refused, outlook.unlisted.accepted, outlook.unlisted.auroc
        note = f"val photos called unknown, {_interval(refused)}; asked: {percent(reject)}"
        rows.append(("refused", percent(refused.value), note))
        note = f"val photos whose product is hidden, {_interval(accepted)}"
        rows.append(("unlisted accepted", percent(accepted.value), note))
        rows.append(("AUROC unknown", f"{auroc.value:.3f}", f"[{auroc.low:.3f}, {auroc.high:.3f}]"))
    return rows


def _interval(score: Score) -> str:
    return f"[{100 * score.low:.1f}, {100 * score.high:.1f}] of {score.count}"


def write_page(
    file: Path,
    index: Index,
    extension: Extension,
    images: NewImages | None,
    products: Sequence[ProductReport],
    values: dict[str, object],
) -> None:
    """Write the page as one HTML file below 20 MB.

    Args:
        index: the base's data set.
        images: what was enrolled; None: products were removed or renamed.
        values: title, facts, footer, expectations and curve (a list of `CurvePoint`).
    """
    embedder, old = ImageEmbedder(index.root), index.split("train").groupby("label")["path"].first()
    new = None if images is None else ImageEmbedder(images.root, budget=8_000_000)
    paths = {} if images is None else images.table.groupby("class")["path"].apply(list).to_dict()
    shown = []
    for product in products:
        shown.append({
            "name": product.name,
            "note": _note(product),
            "findings": [f"{finding.path} {finding.text}".strip() for finding in product.findings],
            "images": [new.thumbnail(path) for path in paths.get(product.name, [])[:_IMAGES]] if new else [],
            "rivals": [_rival(rival, extension, old, embedder, new, paths) for rival in product.rivals],
        })  # fmt: skip
    curve: Sequence[CurvePoint] = values["curve"]  # pyright: ignore[reportAssignmentType]
    curve_products = max((point.accuracy.count for point in curve), default=0)
    more = {"products": shown, "curve": _curve_chart(curve), "curve_products": curve_products}
    file.write_text(render(values | more, Path(__file__).with_name("extension_page.html.jinja")), encoding="utf-8")


def _note(product: ProductReport) -> str:
    photos = counted(product.photos, "photo")
    if not product.is_new:
        return f"{photos} added to its training photos"
    if product.expected is None:
        return f"{photos}, accuracy unknown"
    return f"{photos}, expected accuracy {percent(product.expected.value)} {_interval(product.expected)}"


def _rival(
    rival: Rival,
    extension: Extension,
    old: pd.Series,
    embedder: ImageEmbedder,
    new: ImageEmbedder | None,
    paths: dict[str, list[str]],
) -> dict[str, object]:
    """Return a rival's name, cosine and one photo: of the base's training, or of this enrollment."""
    label, name = extension.head_labels[rival.label], extension.classes[rival.label]
    if label >= 0 and label in old.index:
        image = embedder.thumbnail(old[label])
    elif new and name in paths:
        image = new.thumbnail(paths[name][0])
    else:
        image = embedder.missing("enrolled earlier")
    return {"name": name, "cosine": f"{rival.cosine:.2f}", "image": image}


def _curve_chart(curve: Sequence[CurvePoint]) -> Markup | None:
    if not curve:
        return None
    points = [(str(each.photos), each.accuracy.value, each.accuracy.low, each.accuracy.high) for each in curve]
    return share_chart("Accuracy by number of photos", points, "photos of a product", "accuracy")


def enrolled_table(images: NewImages, findings: Sequence[Finding]) -> pd.DataFrame:
    """Return enrolled.csv: path, sha256, label (class name) and verdict of each image that was given."""
    texts: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        texts.setdefault((finding.product, finding.path), []).append(finding.text)

    def verdict(name: str, path: str, word: str) -> str:
        return "; ".join([word, *texts.get((name, path), [])])

    rows = [
        (path, sha, name, verdict(name, path, "enrolled"))
        for path, name, sha in images.table[["path", "class", "sha256"]].itertuples(index=False)
    ]
    left_out = pd.concat([images.unreadable, images.repeated])[["path", "class"]]
    rows += [(path, "", name, verdict(name, path, "left out")) for path, name in left_out.itertuples(index=False)]
    return pd.DataFrame(sorted(rows, key=lambda row: (row[2], row[0])), columns=["path", "sha256", "label", "verdict"])


def findings_text(findings: Sequence[Finding], limit: int = 10) -> list[str]:
    """Return the first findings as lines for the terminal."""
    lines = [f"{escape_controls(each.path or each.product)} {each.text}" for each in findings[:limit]]
    if len(findings) > limit:
        lines.append(f"and {len(findings) - limit} more, in enrolled.csv and extension.html")
    return lines


def present_labels(extension: Extension, base_labels: np.ndarray) -> np.ndarray:
    """Return labels of the base as labels of an extension, int (images,); -1: a class that it no longer has."""
    table = np.full(len(extension.base_classes), -1)
    for label, head_label in enumerate(extension.head_labels):
        if head_label >= 0:
            table[head_label] = label
    return table[base_labels]
