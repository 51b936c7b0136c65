"""task=extend: teach a trained network new products, or change those that it has, without training."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.analysis.subject import Subject
from rp2k_lab.config.schema import Config
from rp2k_lab.core.csv_files import write_csv
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.files import write_text
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import counted, escape_controls, percent, text_table
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.device import target
from rp2k_lab.enrollment.base import Parent, load_parent
from rp2k_lab.enrollment.gate import Finding, base_near_copies, judge, rivals
from rp2k_lab.enrollment.new_images import (
    NewImages,
    check_images,
    check_listed,
    check_names,
    check_renames,
    measure_new,
    read_names,
    read_new_images,
    read_renames,
    vectors_finite,
)
from rp2k_lab.enrollment.outlook import expected_accuracies, forgetting, photos_curve, unlisted
from rp2k_lab.enrollment.page import (
    Outlook,
    ProductReport,
    enrolled_table,
    expectations,
    findings_text,
    present_labels,
    write_page,
)
from rp2k_lab.evaluation.artifacts import record_request
from rp2k_lab.evaluation.metric_registry import Score
from rp2k_lab.extension.extension_file import Enrolled, Extension, OldClasses, write_extension
from rp2k_lab.extension.gallery import Gallery, Whitening, answer_scores
from rp2k_lab.task.inputs import readable_views
from rp2k_lab.task.record import open_tracker, print_closing_lines
from rp2k_lab.tracking.mlflow_runs import BASE, EXTENSION
from rp2k_lab.tracking.run_files import CLASSES
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.build import batches_for
from rp2k_lab.train.features import compute_features
from rp2k_lab.train.trained_models import check_classes, load_members, parents

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """An extension before and after a change.

    Attributes:
        before, after: the extensions.
        images: what was enrolled; None: products were removed or renamed.
        findings: of the gate.
        text: what changed, for the terminal.
    """

    before: Extension
    after: Extension
    images: NewImages | None
    findings: Sequence[Finding]
    text: str


def run(config: Config, folder: Path) -> None:
    """Extend, and record the extension, what was enrolled, and the page.

    Args:
        config: the parent's restored configuration; its data set is the base's.
        folder: the run's folder.

    Raises:
        RequestError, DataError: the request or an image contradicts the network, see `enrollment.new_images`; nothing
            is written.
    """
    task = config.task
    target.set_up(config.device)
    index = build_index(config.dataset)
    with StopSignal() as signals:
        (run,), (member,) = load_members([config])
        check_classes(index, run, config.dataset.name)
        subject = Subject(config, index, run, member, signals.check)
        parent = load_parent(subject)
        change = make_change(subject, parent)
        old, reason = choose_old(parent, task.old, is_first=run.extension is None)
        change = replace(change, after=replace(change.after, old=old))
        outlook = look_ahead(config, parent, change, signals.check)
        products = report_products(change)
        with open_tracker(config, extended_name(run.name, change.after), folder) as tracker:
            record(tracker, config, index, change, run, folder)
            rows = expectations(products, outlook, task.reject)
            record_outlook(tracker, products, outlook)
            values = {
                "title": f"{tracker.run_name}: {len(change.after.classes)} products",
                "facts": f"{change.text}; extends {run.name}",
                "footer": f"run {tracker.run_id}; threshold: {task.reject:g} of known photos may be refused",
                "expectations": rows,
                "curve": outlook.curve,
            }
            write_page(folder / "extension.html", index, change.after, change.images, products, values)
            tracker.log_artifact(folder / "extension.html")
    print(f"\n{change.text}, now {len(change.after.classes)} products; {reason}")
    for line in findings_text(change.findings):
        print(f"  {line}")
    if rows:
        print(f"\n{text_table([('', 'share', ''), *rows])}")
    print(f"\npage        {folder / 'extension.html'}", end="")
    print_closing_lines(tracker, folder)


def choose_old(parent: Parent, asked: OldClasses | None, is_first: bool) -> tuple[OldClasses, str]:
    """Return how old products are told apart, and the reason as text.

    Args:
        asked: by the request; None: of a trained network (`is_first`) what is better on val, of an extension as before.
    """
    if asked or not is_first:
        old = asked or parent.extension.old
        return old, f"old ones by {'the trained head' if old == 'head' else 'centers'}"
    scores = parent.extension.gallery.scores(parent.val)
    right = {
        "head": (parent.val_logits.argmax(axis=1) == parent.val_labels).mean(),
        "centers": (scores.argmax(axis=1) == parent.val_labels).mean(),
    }
    shares = f"{percent(right['centers'])} of val by centers, {percent(right['head'])} by the trained head"
    return ("centers" if right["centers"] > right["head"] else "head"), f"old ones {shares}"


def make_change(subject: Subject, parent: Parent) -> Change:
    """Return the parent's extension with the change that the request asks for."""
    config, index, before = subject.config, subject.index, parent.extension
    key, path = config.task.change
    if key == "task.remove":
        names = list(dict.fromkeys(read_names(key, path)))
        check_listed(key, names, before.classes)
        after = before.remove(names)
        if not after.classes:
            raise RequestError(f"{key}={escape_controls(path)}: removes every product\nleave one or more")
        return Change(before, after, None, (), f"removed {counted(len(names), 'product')}")
    if key == "task.rename":
        renames = read_renames(key, path)
        check_renames(key, renames, before.classes)
        return Change(before, before.rename(renames), None, (), f"renamed {counted(len(renames), 'product')}")
    images = read_new_images(key, path)
    check_names(key, images, before.classes)
    images = check_images(key, images, index, before)
    log.info("%d photos of %d products, %s", len(images.table), len(images.classes), target.describe(config.device))
    quality = measure_new(images, config.device.num_threads, subject.check)
    vectors = image_vectors(subject, images, before.whitening)
    train = index.split("train")["path"].tolist()
    findings = judge(images, vectors, quality, before, float(np.median(before.val_scores)))
    findings += base_near_copies(images, vectors, before, (parent.train, parent.train_labels, train))
    new = [name for name in images.classes if name not in before.classes]
    labels = pd.Index([*before.classes, *new], dtype=object).get_indexer(images.table["class"])
    enrolled = Enrolled(vectors, labels.astype(np.int32), tuple(images.table["sha256"]))
    products = counted(len(images.classes), f"{'new ' if new else ''}product")
    text = f"enrolled {counted(len(images.table), 'photo')} of {products}"
    return Change(before, before.enroll(new, enrolled), images, findings, text)


def image_vectors(subject: Subject, images: NewImages, whitening: Whitening) -> np.ndarray:
    """Return the whitened features of the images, float32 (images, width), of length 1.

    Raises:
        DataError: an image cannot be read, or its features are NaN or infinite.
    """
    paths, problems = [str(images.root / path) for path in images.table["path"]], {}
    config, predictor = subject.config, subject.predictor()
    views = readable_views(paths, [(each.resized, each.resize) for each in predictor.preprocessings], problems)
    features = np.empty((len(paths), len(whitening.mean)), np.float32)
    batches = batches_for(predictor, views, range(len(paths)), config, "embedding new photos")
    compute_features(subject.member.front, batches, config.batch_size, features, subject.check)
    vectors = whitening(features)
    vectors_finite(vectors, images)
    return vectors


def look_ahead(config: Config, parent: Parent, change: Change, check: Callable[[], None]) -> Outlook:
    """Return what to expect of the extended network, measured on the base's val."""
    before, after = change.before, change.after
    old_scores = before.gallery.scores(parent.val)
    scores = extended_scores(before, after, old_scores, parent.val)
    old = before.log_probabilities(old_scores, parent.val_logits).argmax(axis=1)
    new = after.log_probabilities(scores, parent.val_logits).argmax(axis=1)
    count = len(before.classes)
    if len(after.classes) == count:  # renamed, or more images of the same classes
        present = np.arange(count)
    else:
        present = np.array([after.classes.index(name) if name in after.classes else -1 for name in before.classes])
    true = present_labels(after, parent.val_labels)
    is_new = np.array([position >= count for position in range(len(after.classes))])
    forgotten = forgetting(present[old], new, true, is_new)
    answers = answer_scores(scores, true)
    open_set = unlisted(after, answers, true, config.task.reject) if (true >= 0).any() else None
    curve = []
    if change.images is not None:
        val = parent.val, parent.val_labels, answers.hidden_scores
        curve = photos_curve(after, (parent.train, parent.train_labels), val, check)
    return Outlook(forgotten, open_set, curve)


def extended_scores(before: Extension, after: Extension, old_scores: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the scores of vectors by `after`, float32 (images, classes), from those by `before` where these stay."""
    count = len(before.classes)
    unchanged = after.classes[:count] == before.classes and len(after.enrolled.labels) >= len(before.enrolled.labels)
    if not unchanged or (after.enrolled.labels < count).sum() != len(before.enrolled.labels):
        return after.gallery.scores(vectors)
    gallery = after.gallery
    added = Gallery(gallery.centers[gallery.labels >= count], gallery.labels[gallery.labels >= count] - count)
    return np.concatenate([old_scores, added.scores(vectors)], axis=1) if added.classes else old_scores


def report_products(change: Change) -> list[ProductReport]:
    """Return the products that received images, by name."""
    after, names = change.after, change.images.classes if change.images else []
    if not names:
        return []
    labels = [after.classes.index(name) for name in names]
    vectors = [after.enrolled.vectors[after.enrolled.labels == label] for label in labels]
    is_new = [name not in change.before.classes for name in names]
    expected = expected_accuracies(after, [label for label, new in zip(labels, is_new, strict=True) if new])
    nearest = rivals(np.stack([each.mean(axis=0) for each in vectors]), after, labels)
    return [
        ProductReport(
            name=name,
            is_new=is_new[i],
            photos=len(vectors[i]),
            expected=expected.get(labels[i]),
            rivals=nearest[i],
            findings=[finding for finding in change.findings if finding.product == name],
        )
        for i, name in enumerate(names)
    ]


def extended_name(name: str, extension: Extension) -> str:
    """Return the name of an extension: its base's, and the number of enrolled products."""
    base = re.sub(r"_plus\d+$", "", name)
    return f"{base}_plus{len(extension.classes) - extension.old_classes}"


def record(tracker: MemoryTracker, config: Config, index: Index, change: Change, run: EarlierRun, folder: Path) -> None:
    """Record the request, parents, classes, the extension and what was enrolled."""
    record_request(tracker, config, folder)
    after = change.after
    tracker.set_tags(parents([run]) | {BASE: after.base, "dataset_fingerprint": index.fingerprint})
    tracker.set_tags({"change": change.text, "products": len(after.classes)})
    files = [folder / CLASSES, folder / EXTENSION]
    write_text(files[0], "\n".join(after.classes) + "\n", sync=True)
    write_extension(after, files[1])
    if change.images is not None:
        files.append(folder / "enrolled.csv")
        write_csv(enrolled_table(change.images, change.findings), files[-1])
    for file in files:
        tracker.log_artifact(file)


def record_outlook(tracker: MemoryTracker, products: Sequence[ProductReport], outlook: Outlook) -> None:
    """Record what to expect as metrics, with the counts as tags."""
    scores = {}
    estimates = [product.expected for product in products if product.expected]
    if estimates:
        right, count = sum(round(each.value * each.count) for each in estimates), sum(each.count for each in estimates)
        scores["new/expected_top1"] = Score(right / count, count)
    if outlook.forgetting:
        scores |= {"val/top1_before": outlook.forgetting.before, "val/top1": outlook.forgetting.after}
        tracker.log_metrics({"val/stolen": outlook.forgetting.stolen, "val/lost": outlook.forgetting.lost}, 0)
    if outlook.unlisted:
        for name in ("auroc", "fpr95", "accepted", "refused"):
            scores[f"unlisted/{name}"] = getattr(outlook.unlisted, name)
    tracker.log_metrics({name: score.value for name, score in scores.items()}, 0)
    tracker.set_tags({f"{name}_count": score.count for name, score in scores.items()})
