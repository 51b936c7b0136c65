"""task=predict: classify any images by one earlier run, or by the average of several."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from rp2k_lab.config.schema import Config
from rp2k_lab.core.csv_files import UnreadableText, decode, read_csv, write_csv
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import write_atomically
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.folder_walk import files_below, is_hidden, is_image, kinds
from rp2k_lab.dataset.image import read_views
from rp2k_lab.dataset.image_formats import READ
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_request
from rp2k_lab.evaluation.open_set import known_columns
from rp2k_lab.evaluation.predictor import Answers, Predictor
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
            answers, problems = predict(config, predictor, [os.path.join(root, name) for name in names])
            seconds = time.monotonic() - started
            open_set = members[0].open_set if len(members) == 1 else None  # scores of an average have no threshold
            columns = answer_columns(answers, runs[0].classes) | known_columns(answers.scores, open_set, task.reject)
            written = write_predictions(output, names, columns, problems)
            written += write_list(unused, "reason", output.with_name(f"{output.stem}.unused.csv"))
            for file in written:
                tracker.log_artifact(file)
            tracker.set_tags({"photos": len(names), "unreadable_photos": len(problems)})
            if len(problems) == len(names):
                first = escape_controls(os.path.join(root, names[0]))
                unreadable_file = _unreadable_file(output)
                raise DataError(
                    f"{first}: {problems[0]}; none of {len(names)} photos can be read\nsee {unreadable_file}"
                )
    print(f"\n{len(names) - len(problems)} photos predicted in {seconds:.0f} s, including compilation")
    if open_set:
        unknown = int((~columns["known"][[i for i in range(len(names)) if i not in problems]]).sum())
        print(f"{unknown} of them unknown (score {open_set.threshold(task.reject):.3f} or less)")
    if problems:
        print(f"{len(problems)} of {len(names)} cannot be read and are listed in {_unreadable_file(output)}")
    if unused:
        print(f"{len(unused)} other files and folders are listed in {written[-1]}")
    print(f"\nrun         {escape_controls(tracker.run_name)}, id {tracker.run_id}\npredictions {output}")


class Input(NamedTuple):
    """The images of `task.input`.

    Attributes:
        root: the folder that the names are relative to.
        names: paths of the images.
        unused: (path, reason) of the other files and folders.
    """

    root: Path
    names: list[str]
    unused: list[tuple[str, str]]


def find_images(source: Path) -> Input:
    """Return the images of `task.input`.

    A folder gives the images below it, by their suffix or first bytes, sorted, without hidden ones.  A .txt has a path
    a line, a .csv a column `path`; both are absolute or relative to the list's folder.  Any other file is an image.

    Raises:
        RequestError: an unreadable list, or a .csv without that column.
        DataError: no image, or a folder that cannot be listed.
    """
    if source.is_dir():
        found = _find_below(source)
    elif source.suffix.lower() in (".txt", ".csv"):
        found = Input(source.parent, _read_list(source), [])
    else:
        found = Input(source.parent, [source.name], [])
    if not found.names:
        others = f", only {kinds(path for path, _ in found.unused)}" if found.unused else ""
        raise DataError(
            f"{escape_controls(source)}: names no photo{others}\nuse {', '.join(READ[:-1])} or {READ[-1]} files"
        )
    return found


def _find_below(root: Path) -> Input:
    names, unused = [], []
    for path, reason in files_below(root):
        parent, name = os.path.split(path)
        if reason is None and is_hidden(name):
            reason = "a hidden file"
        elif reason is None and not is_image(root / parent, name):
            reason = "no photo"
        if reason is None:
            names.append(path)
        else:
            unused.append((path, reason))
    return Input(root, sorted(names), unused)


def _read_list(file: Path) -> list[str]:
    name = f"task.input={escape_controls(file)}"
    try:
        if file.suffix.lower() == ".txt":
            # splitlines would also split at characters that file names may contain.
            lines = [line.removesuffix("\r") for line in decode(file.read_bytes(), file).split("\n")]
            return [line for line in lines if line.strip()]
        table = read_csv(file)
    except UnreadableText as error:
        raise RequestError(f"{name}{error}") from None
    except OSError as error:
        raise RequestError(f"{name}: cannot be read ({error.strerror})\nuse a file that you may read") from None
    if "path" not in table:
        raise RequestError(f"{name}: has no column path\nname the column of the photos' paths path")
    return [path for path in table["path"] if path]


def predict(config: Config, predictor: Predictor, paths: Sequence[str]) -> tuple[Answers, dict[int, str]]:
    """Return the answers and problems by position; an unreadable image has the row of a black one."""
    problems: dict[int, str] = {}
    views = readable_views(paths, [(each.resized, each.resize) for each in predictor.preprocessings], problems)
    batches = batches_for(predictor, views, range(len(paths)), config)
    with tqdm(total=len(paths), unit=" photos", dynamic_ncols=True, disable=None) as bar:
        answers = predictor.answers(batches, config.task.top_k, is_calibrated=True, progress=bar.update)
    return answers, dict(sorted(problems.items()))


def answer_columns(answers: Answers, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns top1, p1, …, topk, pk: class names and probabilities, of all images."""
    names, columns = np.array(classes, dtype=object), {}
    for i in range(answers.labels.shape[1]):
        columns |= {f"top{i + 1}": names[answers.labels[:, i]], f"p{i + 1}": answers.probabilities[:, i]}
    return columns


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
    output: Path, names: Sequence[str], columns: dict[str, np.ndarray], problems: dict[int, str]
) -> list[Path]:
    """Write the table and, beside it, the list of unreadable images; return the written files.

    The table has a row a readable image, in the input's order: path, then `columns`, which have a row an image.  If no
    image is readable, an earlier table stays; if all are, an earlier list is removed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    readable = [position for position in range(len(names)) if position not in problems]
    if readable:
        paths = {"path": _storable(names[position] for position in readable)}
        _write_table(pd.DataFrame(paths | {name: values[readable] for name, values in columns.items()}), output)
    unreadable = [(names[position], problem) for position, problem in problems.items()]
    return ([output] if readable else []) + write_list(unreadable, "problem", _unreadable_file(output))


def write_list(rows: Sequence[tuple[str, str]], what: str, file: Path) -> list[Path]:
    """Write (path, reason) of files as CSV, with the columns `path` and `what`; return the file.

    Without rows there is no file, and an earlier one is removed.
    """
    file.unlink(missing_ok=True)
    if rows:
        _write_table(pd.DataFrame({"path": _storable(path for path, _ in rows), what: [row[1] for row in rows]}), file)
    return [file] if rows else []


def _unreadable_file(output: Path) -> Path:
    return output.with_name(f"{output.stem}.unreadable.csv")


def _storable(names: Iterable[str]) -> list[str]:
    return [os.fsencode(name).decode(errors="backslashreplace") for name in names]


def _write_table(table: pd.DataFrame, file: Path) -> None:
    """Write CSV or parquet atomically."""
    if file.suffix == ".csv":
        write_csv(table, file)
        return
    with write_atomically(file) as part:
        table.to_parquet(part, index=False)
