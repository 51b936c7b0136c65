"""task=predict: classify any images by one earlier run, or by the average of several."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import write_atomically
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image import read_views
from rp2k_lab.dataset.image_formats import SUFFIXES
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_request
from rp2k_lab.evaluation.metrics import top_k
from rp2k_lab.evaluation.predictor import Predictor
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
    root, names = find_images(task.input)
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
            for file in written:
                tracker.log_artifact(file)
            tracker.set_tags({"photos": len(names), "unreadable_photos": len(problems)})
            if len(problems) == len(names):
                first = escape_controls(os.path.join(root, names[0]))
                raise DataError(f"{first}: {problems[0]}; none of {len(names)} photos can be read\nsee {written[-1]}")
    print(f"\n{len(names) - len(problems)} photos predicted in {seconds:.0f} s, including compilation")
    if problems:
        print(f"{len(problems)} of {len(names)} cannot be read and are listed in {written[-1]}")
    print(f"\nrun         {tracker.run_name}, id {tracker.run_id}\npredictions {output}")


def find_images(source: Path) -> tuple[Path, list[str]]:
    """Return (a folder, image paths relative to it) for `task.input`.

    A folder gives all files below it with an image's suffix, sorted, without hidden ones.  A .txt has a path a line, a
    .csv a column `path`; both are absolute or relative to the list's folder.  Any other file is an image.

    Raises:
        RequestError: an unreadable list, or a .csv without that column.
        DataError: no image.
    """
    if source.is_dir():
        root, names = source, sorted(_walk(source))
    elif source.suffix.lower() in (".txt", ".csv"):
        root, names = source.parent, _read_list(source)
    else:
        root, names = source.parent, [source.name]
    if not names:
        raise DataError(
            f"{escape_controls(source)}: names no photo\nuse files that end in {', '.join(sorted(SUFFIXES))}"
        )
    return root, names


def _walk(root: Path) -> list[str]:
    paths = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [f for f in files if f[f.rfind(".") :].lower() in SUFFIXES and not f.startswith(".")]
        paths += [os.path.relpath(os.path.join(folder, name), root) for name in images]
    return paths


def _read_list(file: Path) -> list[str]:
    try:
        if file.suffix.lower() == ".txt":
            # splitlines would also split at characters that file names may contain.
            lines = [line.removesuffix("\r") for line in file.read_bytes().decode("utf-8-sig").split("\n")]
            return [line for line in lines if line.strip()]
        return pd.read_csv(file, usecols=["path"], dtype=str, encoding="utf-8-sig")["path"].dropna().tolist()
    except (OSError, ValueError) as error:  # UnicodeDecodeError and pandas' errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise RequestError(
            f"task.input={escape_controls(file)}: cannot be read as a list ({reason})\n"
            "use a .txt with a path a line or a .csv with a column named path, in UTF-8"
        ) from None


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


def readable_views(
    paths: Sequence[str], preprocessings: Sequence[tuple[tuple[int, int], str]], problems: dict[int, str]
) -> Callable[[int], list[np.ndarray]]:
    """Return a function from position to the image in each of `preprocessings`.

    An unreadable image is black, and its problem is added to `problems`.
    """

    def views(position: int) -> list[np.ndarray]:
        path = paths[position]
        try:
            if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would block
                raise DataError("no regular file")
            return read_views(path, preprocessings)
        except (DataError, ValueError) as error:  # ValueError: a zero byte in the path
            problems[position] = str(error).removeprefix(f"{escape_controls(path)}: ").split("\n")[0]
            return [np.zeros((1, 1, 3), np.uint8)] * len(preprocessings)

    return views


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
    paths = [os.fsencode(name).decode(errors="backslashreplace") for name in names]
    readable = [position for position in range(len(names)) if position not in problems]
    columns: dict[str, Sequence | np.ndarray] = {"path": [paths[position] for position in readable]}
    class_names = np.array(classes, dtype=object)
    for i in range(labels.shape[1]):
        columns |= {f"top{i + 1}": class_names[labels[readable, i]], f"p{i + 1}": probabilities[readable, i]}
    unreadable = {"path": [paths[position] for position in problems], "problem": list(problems.values())}
    unreadable_file = output.with_name(f"{output.stem}.unreadable.csv")
    unreadable_file.unlink(missing_ok=True)
    tables = {output: columns, unreadable_file: unreadable}
    written = [file for file, rows in tables.items() if len(rows["path"])]
    for file in written:
        _write_table(pd.DataFrame(tables[file]), file)
    return written


def _write_table(table: pd.DataFrame, file: Path) -> None:
    """Write CSV or parquet atomically."""
    with write_atomically(file) as part:
        table.to_parquet(part, index=False) if file.suffix == ".parquet" else table.to_csv(part, index=False)
