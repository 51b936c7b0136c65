"""task=predict: the most probable classes of any photos, by one earlier run or the average of several."""

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
from rp2k_lab.dataset.folder import IMAGE_SUFFIXES
from rp2k_lab.dataset.image import read_views
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_request
from rp2k_lab.evaluation.metrics import top_k
from rp2k_lab.evaluation.predictor import Predictor
from rp2k_lab.task.train import open_tracker
from rp2k_lab.train.build import batches_for
from rp2k_lab.train.trained_models import load_members, parents

log = logging.getLogger(__name__)


def run(config: Config, folder: Path, *others: Config) -> None:
    """Predict, write the table and the list of what cannot be read, and say where they are.

    Args:
        config: the first run's, restored; its batch size and device serve all.  No data set is needed.
        folder: the run's own folder, for the table unless `config.task.output` says otherwise.
        others: those of the further runs: network and preprocessing are each run's own.

    Raises:
        RequestError: weights or classes that do not fit, or a list without paths.
        DataError: no photo, or none that can be read.
    """
    task = config.task
    root, names = find_photos(task.input)
    output = task.output or folder / "predictions.csv"
    target.set_up(config.device)
    with StopSignal() as signals:
        runs, members = load_members([config, *others])
        config = config.model_copy(update={"batch_size": min(config.batch_size, len(names))})
        predictor = Predictor(members, config.batch_size, task.tta, task.average, signals.check)
        log.info("%d photos, tta %s, on %s", len(names), task.tta, target.describe(config.device))
        with open_tracker(config, f"predict_{members[0].name}", folder) as tracker:
            record_request(tracker, config, folder)
            tracker.set_tags(parents(runs))
            started = time.monotonic()
            labels, probabilities, problems = predict(config, predictor, [os.path.join(root, name) for name in names])
            seconds = time.monotonic() - started
            written = write(output, names, labels, probabilities, problems, runs[0].classes)
            for file in written:
                tracker.log_artifact(file)
            tracker.set_tags({"photos": len(names), "unreadable_photos": len(problems)})
            if len(problems) == len(names):
                first = escape_controls(os.path.join(root, names[0]))
                raise DataError(f"{first}: {problems[0]}; none of {len(names)} photos can be read\nsee {written[-1]}")
    print(f"\n{len(names) - len(problems)} photos predicted in {seconds:.0f} s, compiling included")
    if problems:
        print(f"{len(problems)} of {len(names)} cannot be read and are listed in {written[-1]}")
    print(f"\nrun         {tracker.run_name}, id {tracker.run_id}\npredictions {output}")


def find_photos(source: Path) -> tuple[Path, list[str]]:
    """(a folder, paths relative to it) of what `task.input` names.

    A folder: every file below it with an image's suffix, sorted, but hidden ones.  A .txt: a path a line, relative to
    the list's folder or absolute; a .csv: its column `path`.  Everything else is a photo.

    Raises:
        RequestError: a list that cannot be read, or a .csv without that column.
        DataError: no photo.
    """
    if source.is_dir():
        root, names = source, sorted(_below(source))
    elif source.suffix.lower() in (".txt", ".csv"):
        root, names = source.parent, _listed(source)
    else:
        root, names = source.parent, [source.name]
    if not names:
        raise DataError(
            f"{escape_controls(source)}: names no photo\na photo's name ends in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return root, names


def _below(root: Path) -> list[str]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        photos = [f for f in files if f[f.rfind(".") :].lower() in IMAGE_SUFFIXES and not f.startswith(".")]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in photos]
    return found


def _listed(file: Path) -> list[str]:
    try:
        if file.suffix.lower() == ".txt":
            # Not splitlines, which ends a line at characters that a file's name may have.
            lines = [line.removesuffix("\r") for line in file.read_bytes().decode("utf-8-sig").split("\n")]
            return [line for line in lines if line.strip()]
        return pd.read_csv(file, usecols=["path"], dtype=str, encoding="utf-8-sig")["path"].dropna().tolist()
    except (OSError, ValueError) as error:  # UnicodeDecodeError and pandas' own are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise RequestError(
            f"task.input={escape_controls(file)}: cannot be read as a list ({reason})\n"
            "a .txt has a path a line, a .csv a column named path, both in UTF-8"
        ) from None


def predict(
    config: Config, predictor: Predictor, paths: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Top-k labels, int32 (photos, k), probabilities, float32 (photos, k), and position to problem of bad photos.

    The rows of photos that cannot be read are those of a black one.
    """
    problems: dict[int, str] = {}
    views = readable_views(paths, [(way.resized, way.resize) for way in predictor.preprocessings], problems)
    tops = []
    batches = batches_for(predictor, views, range(len(paths)), config)
    with tqdm(total=len(paths), unit=" photos", dynamic_ncols=True, disable=None) as bar:
        for _, average in predictor(batches):
            tops.append(top_k(average, config.task.top_k))
            bar.update(len(average))
    labels, probabilities = (np.concatenate(part) for part in zip(*tops, strict=True))
    return labels, probabilities, dict(sorted(problems.items()))


def readable_views(
    paths: Sequence[str], ways: Sequence[tuple[tuple[int, int], str]], problems: dict[int, str]
) -> Callable[[int], list[np.ndarray]]:
    """Position to the photo resized in each of `ways`; one that cannot be read is black and put into `problems`."""

    def views(position: int) -> list[np.ndarray]:
        path = paths[position]
        try:
            if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe is to wait for ever
                raise DataError("no regular file")
            return read_views(path, ways)
        except (DataError, ValueError) as error:  # ValueError: a path with a zero byte in it
            problems[position] = str(error).removeprefix(f"{escape_controls(path)}: ").split("\n")[0]
            return [np.zeros((1, 1, 3), np.uint8)] * len(ways)

    return views


def write(
    output: Path,
    names: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    problems: dict[int, str],
    classes: Sequence[str],
) -> list[Path]:
    """Write the table, and beside it the photos that cannot be read, if any; returns the files.

    The table has a row a readable photo, in the input's order: path, then top1…topk (class names) and p1…pk; where none
    can be read, an earlier table stays.  An earlier list of photos that could not be read is removed where all can.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = [os.fsencode(name).decode(errors="backslashreplace") for name in names]
    readable = [position for position in range(len(names)) if position not in problems]
    columns: dict[str, Sequence] = {"path": [paths[position] for position in readable]}
    known = np.array(classes, dtype=object)
    for i in range(labels.shape[1]):
        columns |= {f"top{i + 1}": known[labels[readable, i]], f"p{i + 1}": probabilities[readable, i]}
    bad = {"path": [paths[position] for position in problems], "problem": list(problems.values())}
    unreadable = output.with_name(f"{output.stem}.unreadable.csv")
    unreadable.unlink(missing_ok=True)
    tables = {output: columns, unreadable: bad}
    written = [file for file, rows in tables.items() if len(rows["path"])]
    for file in written:
        _write_table(pd.DataFrame(tables[file]), file)
    return written


def _write_table(table: pd.DataFrame, file: Path) -> None:
    """Whole or not at all."""
    with write_atomically(file) as part:
        table.to_parquet(part, index=False) if file.suffix == ".parquet" else table.to_csv(part, index=False)
