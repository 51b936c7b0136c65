"""task=predict: classify any images by one earlier run, or by the average of several."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.folder_walk import kinds
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_request
from rp2k_lab.evaluation.metrics import top_k
from rp2k_lab.evaluation.predictor import Predictor
from rp2k_lab.task.inputs import find_images, readable_views, storable, unreadable_file, write_list, write_table
from rp2k_lab.task.train import open_tracker
from rp2k_lab.train.build import batches_for
from rp2k_lab.train.trained_models import load_members, parents

log = logging.getLogger(__name__)


def run(config: Config, folder: Path, *more_configs: Config) -> None:
    """Predict, and write the table and the list of unreadable images.

    Args:
        config: the first run's restored configuration; its batch size and device serve all.  Needs no data set.
        folder: the run's folder, for the table if `config.task.output` is not set.
        more_configs: the other runs' configurations, for network and preprocessing.

    Raises:
        RequestError: weights or classes do not fit, or a list has no paths.
        DataError: no image, or no readable one.
    """
    task = config.task
    root, names, unused = find_images(task.input)
    if unused:
        log.info("no photos, not used: %s", kinds(path for path, _ in unused))
    output = task.output or folder / "predictions.csv"
    target.set_up(config.device)
    with StopSignal() as signals:
        runs, members = load_members([config, *more_configs])
        config = config.model_copy(update={"batch_size": min(config.batch_size, len(names))})
        predictor = Predictor(members, config.batch_size, task.tta, task.average, signals.check)
        log.info("%d photos, tta %s, on %s", len(names), task.tta, target.describe(config.device))
        with open_tracker(config, f"predict_{members[0].name}", folder) as tracker:
            record_request(tracker, config, folder)
            tracker.set_tags(parents(runs))
            started = time.monotonic()
            labels, probabilities, problems = predict(config, predictor, [os.path.join(root, name) for name in names])
            seconds = time.monotonic() - started
            written = write_predictions(output, names, labels, probabilities, problems, runs[0].classes)
            written += write_list(unused, "reason", output.with_name(f"{output.stem}.unused.csv"))
            for file in written:
                tracker.log_artifact(file)
            tracker.set_tags({"photos": len(names), "unreadable_photos": len(problems)})
            if len(problems) == len(names):
                first = escape_controls(os.path.join(root, names[0]))
                listed = unreadable_file(output)
                raise DataError(f"{first}: {problems[0]}; none of {len(names)} photos can be read\nsee {listed}")
    print(f"\n{len(names) - len(problems)} photos predicted in {seconds:.0f} s, including compilation")
    if problems:
        print(f"{len(problems)} of {len(names)} cannot be read and are listed in {unreadable_file(output)}")
    if unused:
        print(f"{len(unused)} other files and folders are listed in {written[-1]}")
    print(f"\nrun         {escape_controls(tracker.run_name)}, id {tracker.run_id}\npredictions {output}")


def predict(
    config: Config, predictor: Predictor, paths: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return the top-k labels, int32 (images, k), probabilities, float32 (images, k), and problems by position.

    An unreadable image has the row of a black one.
    """
    problems: dict[int, str] = {}
    views = readable_views(paths, [(each.resized, each.resize) for each in predictor.preprocessings], problems)
    tops = []
    batches = batches_for(predictor, views, range(len(paths)), config)
    with tqdm(total=len(paths), unit=" photos", dynamic_ncols=True, disable=None) as bar:
        for _, average in predictor(batches):
            tops.append(top_k(average, config.task.top_k))
            bar.update(len(average))
    labels, probabilities = (np.concatenate(part) for part in zip(*tops, strict=True))
    return labels, probabilities, dict(sorted(problems.items()))


def write_predictions(
    output: Path,
    names: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    problems: dict[int, str],
    classes: Sequence[str],
) -> list[Path]:
    """Write the table and, beside it, the list of unreadable images; return the written files.

    The table has a row a readable image, in the input's order: path, top1…topk (class names), p1…pk.  If no image is
    readable, an earlier table stays; if all are, an earlier list is removed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    readable = [position for position in range(len(names)) if position not in problems]
    columns: dict[str, Sequence | np.ndarray] = {"path": storable(names[position] for position in readable)}
    class_names = np.array(classes, dtype=object)
    for i in range(labels.shape[1]):
        columns |= {f"top{i + 1}": class_names[labels[readable, i]], f"p{i + 1}": probabilities[readable, i]}
    if readable:
        write_table(pd.DataFrame(columns), output)
    unreadable = [(names[position], problem) for position, problem in problems.items()]
    return ([output] if readable else []) + write_list(unreadable, "problem", unreadable_file(output))
