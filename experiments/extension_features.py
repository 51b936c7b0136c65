"""Features of all photos of a data set, by a network trained on a part of its classes; kept under data/extension/.

`extension_tables.py` uses them; a later call with the same name reads the file.
"""

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from after_training import PROJECT, run_command  # also puts the project on sys.path
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.config.migrations import parse_record
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.files import write_atomically
from rp2k_lab.dataset.photo_index import DATA_FOLDER, Index, build_index
from rp2k_lab.dataset.shelf.generate import TRUTH_FILE
from rp2k_lab.dataset.source.grocery_store import scan_lists
from rp2k_lab.tracking.run_lookup import find_run

KEPT = DATA_FOLDER / "extension"


@dataclass(frozen=True)
class Photos:
    """All photos of a data set with what a network says of them.

    Attributes:
        table: path, class, split (train, val or test), and for shelf the brand.
        features: float32 (photos, width), before the classifier.
        logits: float32 (photos, classes) of the trained classifier, or None.
        classes: names of the logits' columns.
    """

    table: pd.DataFrame
    features: np.ndarray
    logits: np.ndarray | None
    classes: tuple[str, ...]


def config_of(overrides: Sequence[str]) -> Config:
    """Return the configuration of run.py with these overrides."""
    register_resolvers()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return parse(OmegaConf.to_container(compose("config", list(overrides)), resolve=True))


def all_photos(overrides: Sequence[str]) -> Index:
    """Return the index of a data set with all of its classes."""
    return build_index(config_of(overrides).dataset)


def with_brand(index: Index) -> pd.DataFrame:
    """Return path, class and split of an index; of the embedded photos also brand, and no catch-all class."""
    table = index.table[["path", "class", "split"]]
    if not (index.root / TRUTH_FILE).is_file():
        return table.reset_index(drop=True)
    truth = pd.read_parquet(index.root / TRUTH_FILE).set_index("path")
    table = table.assign(brand=truth.loc[table["path"], "brand"].to_numpy())
    return table[table["class"] != "others"].reset_index(drop=True)


def train_on(index: Index, table: pd.DataFrame, classes: Sequence[str], overrides: Sequence[str], name: str) -> str:
    """Train on the photos of some classes; return the run's id.

    Args:
        table: from `with_brand`.
        overrides: of the run, without its data set.
        name: of the table of photos that is written under data/extension/.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    file = KEPT / f"{name}.csv"
    listed = table[table["class"].isin(classes)].rename(columns={"class": "label"})
    listed[["path", "label", "split"]].to_csv(file, index=False)
    return run_command(["dataset=table", f"dataset.table={file}", f"dataset.root={index.root}", *overrides])


def photos_by(index: Index, table: pd.DataFrame, run: str | None, overrides: Sequence[str], name: str) -> Photos:
    """Return the photos with features and logits of a run, or of pretrained weights (`run` None), kept on disk."""
    file = KEPT / f"{name}.npz"
    if not file.is_file():
        start = time.perf_counter()
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            features, logits, classes = pool.submit(_compute, index, table, run, overrides).result()
        print(f"{name}: features of {len(table)} photos in {time.perf_counter() - start:.0f} s", flush=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        kept = {"features": features, "paths": table["path"].to_numpy(str), "classes": np.array(classes, str)}
        with write_atomically(file) as part, part.open("wb") as opened:
            np.savez(opened, **kept, **({} if logits is None else {"logits": logits}))
    with np.load(file) as stored:
        if stored["paths"].tolist() != table["path"].tolist():
            raise SystemExit(f"{file}: is of other photos\ndelete it")
        return Photos(table, stored["features"], stored.get("logits"), tuple(stored["classes"].tolist()))


def _compute(
    index: Index, table: pd.DataFrame, run: str | None, overrides: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Return (features, logits, classes) of the photos; in a process by itself, since MindSpore keeps networks."""
    from mindspore import Tensor

    from rp2k_lab.dataset.image_cache import open_cache
    from rp2k_lab.dataset.loader import ImageViews, ResizedImages, view_batches
    from rp2k_lab.device import target
    from rp2k_lab.evaluation.predictor import Forward
    from rp2k_lab.model import Front, Rest
    from rp2k_lab.train.build import build_initial_network, preprocessing
    from rp2k_lab.train.trained_models import load_network

    if run is None:
        config, classes = config_of(overrides), ()
        target.set_up(config.device)
        network = build_initial_network(config, 2)
    else:
        with tempfile.TemporaryDirectory() as downloads:
            found = find_run(None, run, Path(downloads))
            config, classes = parse_record(found.config), found.classes
            target.set_up(config.device)
            network = load_network(config, found)
    view, size = preprocessing(config), config.batch_size
    rows = index.table["path"].pipe(pd.Index).get_indexer(table["path"]).tolist()
    cache = open_cache(index, view.resized, view.resize, config.dataset.cache_gb)
    images = ImageViews([ResizedImages(index, view.resized, view.resize, cache)])
    pooled, classifier = Forward(Front(network).set_train(False)), Rest(network).set_train(False)
    features, logits = [], []
    for (batch,) in view_batches(images, rows, [(view.resized, view.size)], size):
        padded = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), np.uint8)])
        output = pooled(padded)
        features.append(output[: len(batch)].copy())
        if classes:
            logits.append(classifier(Tensor(output)).asnumpy()[: len(batch)])
    return np.concatenate(features), np.concatenate(logits) if classes else None, classes


def projected(photos: Photos, old: Sequence[str], overrides: Sequence[str], name: str) -> Photos:
    """Return photos with features of a projection that is trained on frozen ones with a head, kept on disk.

    Args:
        photos: with the features of a pretrained network.
        old: classes to train on.
        overrides: epochs and `model.head…` of the training; loss, optimizer and schedule are run.py's.
    """
    file = KEPT / f"{name}.npz"
    if not file.is_file():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            features, logits = pool.submit(_train_projection, photos, old, overrides).result()
        with write_atomically(file) as part, part.open("wb") as opened:
            np.savez(opened, features=features, logits=logits)
    with np.load(file) as stored:
        return Photos(photos.table, stored["features"], stored["logits"], tuple(old))


def _train_projection(photos: Photos, old: Sequence[str], overrides: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (features, logits) of a dense layer to 256 features with batch norm and ReLU, and of its classifier."""
    from mindspore import Tensor, nn, ops, set_seed

    from rp2k_lab.device import target
    from rp2k_lab.model.network import classifier_of
    from rp2k_lab.train.build import build_model
    from rp2k_lab.train.features import FeatureBatches

    config = config_of(overrides)
    target.set_up(config.device)
    set_seed(config.seed)
    head, width = config.model, 256
    project = nn.SequentialCell(
        nn.Dense(photos.features.shape[1], width, has_bias=False), nn.BatchNorm1d(width), nn.ReLU()
    )
    classify = classifier_of(head.head, head.logit_scale, head.head_subcenters)(width, len(old))
    is_train = (photos.table["split"].eq("train") & photos.table["class"].isin(old)).to_numpy()
    labels = pd.Index(old).get_indexer(photos.table.loc[is_train, "class"]).astype(np.int32)
    paths = photos.table.loc[is_train, "path"].tolist()
    batches = FeatureBatches([photos.features[is_train]], paths, labels, config.batch_size, config.seed, len(old))
    model, _ = build_model(config, nn.SequentialCell(project, classify), batches)
    step = model.train_network.set_train()
    for _ in range(config.epochs):
        for features, targets in batches:
            step(Tensor(features), Tensor(targets))
    project.set_train(False)
    features = project(Tensor(photos.features))
    return features.asnumpy(), ops.cast(classify(features), features.dtype).asnumpy()


def grocery_table(shop: Path, iconic: Path) -> Path:
    """Write the photos of Grocery Store as one table: its train list as train, its val list as test, iconic as val.

    Args:
        shop: folder with train.txt and val.txt.
        iconic: folder with index.csv (path, label).

    Returns:
        The table, with absolute paths.
    """
    rows = []
    for path, label, split in scan_lists(shop).images:
        rows.append((str((shop / path).resolve()), label, "train" if split == "train" else "test"))
    listed = pd.read_csv(iconic / "index.csv")
    rows += [(str((iconic / each.path).resolve()), each.label, "val") for each in listed.itertuples()]
    KEPT.mkdir(parents=True, exist_ok=True)
    file = KEPT / "grocery.csv"
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(file, index=False)
    return file
