"""Time an extension: its enrollment, everything after the features, predictions by it, and loading a long chain.

    python -m benchmarks.extend [--model resnet18] [--size 224] [--classes 2388] [--products 100] [--rounds 6]

Enrollment: 5 photos of each new product, from files to whitened features with all checks of the photos, beside the
network's bare forward passes on as many images in memory; compilation, once a run, is in neither.  The rest: gate,
expected accuracy, what old products lose, unlisted products, the curve of photos, writing the file; the base has 24
training features of each class and 2,000 of val.  Prediction: batches in memory by the extended network, with five
centers a class, beside the network as trained.
Targets: 1.15, 2 s, 1.02 and 1 s.  Networks have initial weights; parts with a ratio alternate within a round.
"""

import argparse
import datetime
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.timing import interleave, median_interval, ratio_line

PHOTOS, PER_CLASS, VAL, WEEKS = 5, 24, 2000, 52


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=2388)
    parser.add_argument("--products", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    config, member = make_member(options)
    print(
        f"{datetime.date.today()}: {options.model} at {options.size}, {options.classes} classes, {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as folder:
        print(enrollment(options, config, member, Path(folder)))
        parent = make_parent(options, member.network.network.head.fc.in_channels)
        print(the_rest(options, parent, Path(folder)))
        print(prediction(options, config, member, parent.extension))
        print(chain(options, parent.extension, Path(folder)))


def make_member(options):
    """Return (configuration, network with initial weights)."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from rp2k_lab import PROJECT
    from rp2k_lab.cli.app import register_resolvers
    from rp2k_lab.config.schema import parse
    from rp2k_lab.device import target
    from rp2k_lab.evaluation.predictor import Member
    from rp2k_lab.train.build import build_network, preprocessing

    register_resolvers()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        overrides = [f"model={options.model}", f"size={options.size}", f"batch_size={options.batch_size}"]
        config = parse(OmegaConf.to_container(compose("config", overrides), resolve=True))
    target.set_up(config.device)
    return config, Member(options.model, build_network(config, options.classes).set_train(False), preprocessing(config))


def write_photos(folder: Path, products: int, side: int) -> None:
    """Write smooth noise as JPEG crops of half this height and width to a fifth of it."""
    rng = np.random.default_rng(0)
    for product in range(products):
        (folder / f"product {product:04}").mkdir(parents=True)
        for photo in range(PHOTOS):
            small = rng.integers(0, 256, (12, 6, 3)).astype(np.uint8)
            image = cv2.resize(small, (side, 2 * side), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"product {product:04}" / f"{photo}.jpg"), image)


def enrollment(options, config, member, folder: Path) -> str:
    """Return the ratio of enrolling photos to the bare forward passes."""
    from rp2k_lab.analysis.subject import Subject
    from rp2k_lab.enrollment.new_images import measure_new, read_new_images
    from rp2k_lab.extension.gallery import Whitening
    from rp2k_lab.task.extend import image_vectors
    from rp2k_lab.train.features import compute_features

    write_photos(folder / "new", options.products, options.size)
    count, width = options.products * PHOTOS, member.network.network.head.fc.in_channels
    whitening = Whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32))
    images = np.random.default_rng(1).integers(0, 256, (options.batch_size, options.size, options.size, 3), np.uint8)
    sizes = [min(options.batch_size, count - begin) for begin in range(0, count, options.batch_size)]
    features = np.empty((count, width), np.float32)

    subject = Subject(config, None, None, member)  # neither photos of a data set nor a run

    def enroll() -> None:
        new = read_new_images("task.input", folder / "new")
        measure_new(new, None, lambda: None)
        image_vectors(subject, new, whitening)

    def forward() -> None:
        batches = ([images[:size]] for size in sizes)
        compute_features(member.front, batches, options.batch_size, features, lambda: None)

    forward()  # compiles
    results = interleave({"enrollment": lambda: seconds(enroll), "forward": lambda: seconds(forward)}, options.rounds)
    ratio = ratio_line("enrollment / forward passes", results["enrollment"] / results["forward"])
    return f"{count} photos: {np.median(results['enrollment']):.1f} s; {ratio}"


def make_parent(options, width: int):
    """Return a base on random features around random class means."""
    from rp2k_lab.enrollment.base import Parent
    from rp2k_lab.extension.extension_file import Extension, no_images
    from rp2k_lab.extension.gallery import answer, build_gallery, fit_whitening

    rng = np.random.default_rng(2)
    means = rng.normal(size=(options.classes, width)).astype(np.float32)
    draw = lambda labels: means[labels] + rng.normal(size=(len(labels), width)).astype(np.float32)  # noqa: E731
    labels, val_labels = np.repeat(np.arange(options.classes), PER_CLASS), rng.integers(options.classes, size=VAL)
    train, val = draw(labels), draw(val_labels)
    started = time.perf_counter()
    whitening = fit_whitening(train, labels)
    gallery = build_gallery(whitening(train), labels)
    print(f"base, fitted once: {time.perf_counter() - started:.1f} s for {len(train)} training features")
    classes = tuple(f"class {label:04}" for label in range(options.classes))
    vectors = whitening(val)
    answers = answer(gallery, vectors, val_labels)
    extension = Extension(
        base="base",
        base_sha256="",
        base_classes=classes,
        classes=classes,
        head_labels=tuple(range(options.classes)),
        whitening=whitening,
        base_gallery=gallery,
        enrolled=no_images(width),
        old="head",
        scale=20.0,
        head_temperature=1.0,
        val_scores=np.sort(answers.scores),
        val_hidden=np.sort(answers.hidden_scores),
    )
    return Parent(extension, train, labels, vectors, val_labels, vectors @ rng.normal(size=(width, options.classes)))


def the_rest(options, parent, folder: Path) -> str:
    """Return the seconds of everything but features and reading photos, page and records included."""
    from types import SimpleNamespace

    from rp2k_lab.enrollment.gate import base_near_copies, judge
    from rp2k_lab.enrollment.new_images import NewImages
    from rp2k_lab.extension.extension_file import Enrolled, write_extension
    from rp2k_lab.task.extend import Change, look_ahead, report_products

    extension, rng = parent.extension, np.random.default_rng(3)
    names = [f"product {product:04}" for product in range(options.products)]
    rows = [(f"{name}/{photo}.jpg", name, 80, 160, f"{name}{photo}") for name in names for photo in range(PHOTOS)]
    table = pd.DataFrame(rows, columns=["path", "class", "width", "height", "sha256"])
    empty = pd.DataFrame({"path": [], "class": [], "problem": []})
    images = NewImages(folder, table, empty, empty[["path", "class"]])
    width = len(extension.whitening.mean)
    vectors = extension.whitening(
        np.repeat(rng.normal(size=(len(names), width)), PHOTOS, axis=0) + rng.normal(size=(len(rows), width))
    )
    quality = pd.DataFrame({name: np.ones(len(rows)) for name in ("brightness", "contrast", "sharpness", "glare")})
    labels = len(extension.classes) + np.repeat(np.arange(len(names), dtype=np.int32), PHOTOS)
    config = SimpleNamespace(task=SimpleNamespace(reject=0.05))
    paths = [""] * len(parent.train)

    def rest() -> None:
        extension.__dict__.pop("gallery", None)  # computed once an extension
        findings = judge(images, vectors, quality, extension, 0.5)
        findings += base_near_copies(images, vectors, extension, (parent.train, parent.train_labels, paths))
        after = extension.enroll(names, Enrolled(vectors, labels, tuple(table["sha256"])))
        change = Change(extension, after, images, findings, "")
        look_ahead(config, parent, change, lambda: None)
        report_products(change)
        write_extension(after, folder / "extension.safetensors")

    times = [seconds(rest) for _ in range(options.rounds)]
    median, low, high = median_interval(times)
    return f"everything else: {median:.2f} s [{low:.2f}, {high:.2f}], n = {len(times)}"


def prediction(options, config, member, extension) -> str:
    """Return the ratio of predictions by an extended network to those by the network as trained."""
    from dataclasses import replace

    from rp2k_lab.evaluation.predictor import Member, Predictor
    from rp2k_lab.train.build import build_network
    from rp2k_lab.train.trained_models import extend_network

    network = build_network(config, options.classes).set_train(False)
    extend_network(network, replace(extension))
    shape = (options.batch_size, options.size, options.size, 3)
    batches = [[np.random.default_rng(4).integers(0, 256, shape, np.uint8)]] * 4
    predictors = {
        "extended": Predictor([Member("extended", network, member.preprocessing)], options.batch_size),
        "trained": Predictor([member], options.batch_size),
    }
    parts: dict[str, Callable[[], float]] = {}
    for name, predictor in predictors.items():
        predictor.answers(batches)  # compiles
        parts[name] = lambda predictor=predictor: seconds(lambda: predictor.answers(batches))
    results = interleave(parts, options.rounds)
    centers = len(extension.gallery.centers)
    return ratio_line(f"{centers} centers: extended / trained", results["extended"] / results["trained"])


def chain(options, extension, folder: Path) -> str:
    """Return the seconds to load a network's 52nd weekly extension by 4 products of 5 photos."""
    from rp2k_lab.extension.extension_file import Enrolled, read_extension, write_extension

    rng, width = np.random.default_rng(5), len(extension.whitening.mean)
    for week in range(WEEKS):
        names = [f"week {week:02} product {product}" for product in range(4)]
        vectors = extension.whitening(rng.normal(size=(4 * PHOTOS, width)))
        labels = len(extension.classes) + np.repeat(np.arange(4, dtype=np.int32), PHOTOS)
        extension = extension.enroll(
            names, Enrolled(vectors, labels, tuple(f"{week}-{i}" for i in range(len(vectors))))
        )
    file = folder / "chain.safetensors"
    write_extension(extension, file)
    times = [seconds(lambda: read_extension(file).padded_centers()) for _ in range(options.rounds)]
    median, low, high = median_interval(times)
    size = file.stat().st_size / 1e6
    return f"chain of {WEEKS}: {median:.2f} s [{low:.2f}, {high:.2f}] to load {size:.0f} MB, n = {len(times)}"


def seconds(part: Callable[[], object]) -> float:
    """Return the wall time of a call [s]."""
    started = time.perf_counter()
    part()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
