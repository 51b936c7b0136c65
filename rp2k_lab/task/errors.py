"""task=errors: what an earlier run gets wrong on a split, and why; of two runs, also what the second has changed."""

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab import device
from rp2k_lab.analysis.kept_features import features_name, kept_features
from rp2k_lab.analysis.neighbours import class_means, nearest
from rp2k_lab.analysis.pair import STATES, pair_classes, pair_table
from rp2k_lab.analysis.photo import measure_photos, usual_measures
from rp2k_lab.analysis.redrawn import photo_score
from rp2k_lab.analysis.tables import Tables, add_nearest, analyse, photo_table
from rp2k_lab.build import batches_for, build_views
from rp2k_lab.config import Config
from rp2k_lab.dataset.index import DATA_FOLDER, Index, build_index
from rp2k_lab.features import OnFeatures, compute_features
from rp2k_lab.interrupt import SignalWatch
from rp2k_lab.members import check_classes, check_held_out, load_members, parents
from rp2k_lab.metrics import Predictions, top_k
from rp2k_lab.prediction import Member, Predictor
from rp2k_lab.record import record_origin
from rp2k_lab.report import causes_table, photo_score_lines
from rp2k_lab.runs import EarlierRun
from rp2k_lab.task.evaluate import check_splits, print_where_to_look
from rp2k_lab.task.train import open_tracker
from rp2k_lab.tracker import MemoryTracker

log = logging.getLogger(__name__)

NEAREST = 3  # training photos beside an error
_FEATURES = DATA_FOLDER / "features"


def run(config: Config, folder: Path, *others: Config) -> None:
    """Analyse and record; of two runs, the tables are the second's.

    Args:
        config: the first run's, restored: its data set, batch size and device serve both.
        folder: the run's own folder, for tables and the page.
        others: that of the second run: network and preprocessing are each run's own.

    Raises:
        RequestError: weights or classes that do not fit, or a split that the data set lacks.
        DataError: a photo that cannot be read, or no room for the features.
    """
    split = config.task.split
    device.set_up(config.device)
    index = build_index(config.dataset)
    with SignalWatch() as signals:
        runs, members = load_members([config, *others])
        check_classes(index, runs[0], config.dataset.name)
        check_splits(config, index, [split])
        if split == "val":
            check_held_out(config, runs)
        with open_tracker(config, f"errors_{members[-1].name}") as tracker:
            record_origin(tracker, config, index, folder)
            tracker.set_tags(parents(runs))
            rows = index.split(split)
            log.info("%d photos of %s, %s", len(rows), split, device.describe(config.device))
            workers = config.device.data_workers
            measures = measure_photos(index.root, rows["path"].tolist(), workers, signals.check)
            usual = usual_measures(index.root, index.split("train"), workers, signals.check)
            found = [
                analyse_run(config, index, run, member, measures, usual, signals)
                for run, member in zip(runs, members, strict=True)
            ]
            tables = found[-1]
            pairs = pair_table(*(each.cases for each in found)) if len(found) == 2 else None
            record_tables(tracker, tables, pairs, split, folder)
            score = record_photo_score(tracker, config, index, members[-1], tables.cases, signals, folder)
            write_error_page(tracker, index, tables, pairs, folder)
    print(causes_table(tables.causes, tables.cases["correct"]))
    if score is not None:
        print(photo_score_lines(score))
    if pairs is not None:
        counts = pairs["state"].value_counts().to_dict()
        print(f"second run  {', '.join(f'{counts.get(state, 0)} errors {state}' for state in STATES)}")
    print_where_to_look(tracker, folder)


def analyse_run(
    config: Config,
    index: Index,
    run: EarlierRun,
    member: Member,
    measures: pd.DataFrame,
    usual: pd.DataFrame,
    signals: SignalWatch,
) -> Tables:
    """One run's tables; `measures` and `usual` of `photo.measure_photos` and `usual_measures`."""
    split, train = index.split(config.task.split), index.split("train")
    features = features_of(config, index, run, member, config.task.split, signals)
    training = features_of(config, index, run, member, "train", signals)
    predictions, p_true = predict(member, features, split["label"].to_numpy(np.int32), config.batch_size, signals)
    photos = photo_table(index, config.task.split, predictions, p_true, measures)
    # Integration: the ranking of suspected labels (the `labels` part) fills these two; 0 and "" suspect nothing.
    photos = photos.assign(suspicion=np.float32(0), suggested="")
    means = class_means(training, train["label"].to_numpy(), len(index.classes))
    found = analyse(
        photos, predictions, index.classes, index.train_counts(), means, usual, config.task, config.dataset.others
    )
    errors = np.flatnonzero(~found.cases["correct"].to_numpy(bool))
    itself = errors if config.task.split == "train" else None
    positions, distances = nearest(features[errors], training, NEAREST, itself, signals.check)
    nearest_rows = train["row"].to_numpy()[positions]
    return replace(found, cases=add_nearest(found.cases, errors, nearest_rows, distances))


def features_of(
    config: Config, index: Index, run: EarlierRun, member: Member, split: str, signals: SignalWatch
) -> np.ndarray:
    """What a run's network makes of a split's photos before its classifier, float32 (photos, width); kept."""
    rows = index.split(split)["row"].tolist()

    def compute(target: np.ndarray) -> None:
        predictor = Predictor([member], config.batch_size)
        batches = batches_for(predictor, build_views(predictor, index, config.dataset.cache_gb), rows, config)
        compute_features(member.network, batches, config.batch_size, target, signals.check)

    file = _FEATURES / features_name(run.checkpoint, index, split, member.preprocessing)
    return kept_features(file, (len(rows), member.network.network.head.fc.in_channels), compute)


def predict(
    member: Member, features: np.ndarray, labels: np.ndarray, batch_size: int, signals: SignalWatch
) -> tuple[Predictions, np.ndarray]:
    """(what the network's classifier says of features; the probability of each given label, float32 (photos,))."""
    predictor = Predictor([replace(member, network=OnFeatures(member.network))], batch_size, check=signals.check)
    batches = ([np.asarray(features[i : i + batch_size])] for i in range(0, len(features), batch_size))
    tops, given, first = [], [], 0
    for _, probabilities in predictor(batches):
        tops.append(top_k(probabilities))
        theirs = labels[first : first + len(probabilities)]
        given.append(probabilities[np.arange(len(theirs)), theirs])
        first += len(probabilities)
    top_labels, top_probabilities = (np.concatenate(part) for part in zip(*tops, strict=True))
    return Predictions(labels, top_labels, top_probabilities), np.concatenate(given)


def record_tables(tracker: MemoryTracker, tables: Tables, pairs: pd.DataFrame | None, split: str, folder: Path) -> None:
    """The tables as files, and as metrics the errors, by main cause too."""
    frames = {
        "cases.parquet": tables.cases,
        "classes.parquet": tables.classes,
        "clusters.parquet": tables.clusters,
        "causes.csv": tables.causes.assign(top_classes=tables.causes["top_classes"].map("; ".join)),
        "curves.csv": tables.curves,
    }
    if pairs is not None:
        frames |= {"pairs.parquet": pairs, "pair_classes.csv": pair_classes(pairs)}
    record_frames(tracker, frames, folder)
    counts = {f"{split}/errors_{row.cause}": row.main for row in tables.causes.itertuples()}
    tracker.log_metrics({f"{split}/errors": int((~tables.cases["correct"]).sum())} | counts, 0)


def record_frames(tracker: MemoryTracker, frames: dict[str, pd.DataFrame], folder: Path) -> None:
    """Tables as files of the run, by name."""
    for name, frame in frames.items():
        if name.endswith(".csv"):
            frame.to_csv(folder / name, index=False)
        else:
            frame.to_parquet(folder / name, index=False)
        tracker.log_artifact(folder / name)


def record_photo_score(
    tracker: MemoryTracker,
    config: Config,
    index: Index,
    member: Member,
    cases: pd.DataFrame,
    signals: SignalWatch,
    folder: Path,
) -> pd.DataFrame | None:
    """photo_score.csv of a shelf set, whose photos can be drawn again; None of another."""
    predictor = Predictor([member], config.batch_size, check=signals.check)
    score = photo_score(predictor, index.classes, cases, index.root, config.batch_size)
    if score is not None:
        record_frames(tracker, {"photo_score.csv": score}, folder)
    return score


def write_error_page(
    tracker: MemoryTracker, index: Index, tables: Tables, pairs: pd.DataFrame | None, folder: Path
) -> None:
    """errors.html."""
    # Integration: the `page` part brings this module; then the condition goes, and Thumbnails takes Grad-CAM's maps.
    if importlib.util.find_spec("rp2k_lab.analysis.page") is None:
        return
    from rp2k_lab.analysis.page import write_page
    from rp2k_lab.analysis.thumbnails import Thumbnails

    file = folder / "errors.html"
    facts = {"run": tracker.run_name, "photos": len(tables.cases), "errors": int((~tables.cases["correct"]).sum())}
    write_page(
        file,
        title=tracker.run_name,
        facts=facts,
        cases=tables.cases,
        classes=tables.classes,
        clusters=tables.clusters,
        causes=tables.causes,
        curves=tables.curves,
        thumbnails=Thumbnails(index),
        pairs=pairs,
    )
    tracker.log_artifact(file)
