"""task=predict: classify any images by one earlier run, or by the average of several."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls, shorten_middle
from rp2k_lab.dataset.folder_walk import kinds
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_request
from rp2k_lab.evaluation.open_set import known_columns
from rp2k_lab.evaluation.predictor import Answers, Predictor
from rp2k_lab.task.inputs import find_images, readable_views, storable, unreadable_file, write_list, write_table
from rp2k_lab.task.record import open_tracker
from rp2k_lab.train.build import batches_for
from rp2k_lab.train.trained_models import load_members, parents

log = logging.getLogger(__name__)

# Up to so many images, the predictions are printed, too.
_PRINTED = 10
# Of a class in a line of the terminal.
_MOST_CHARACTERS = 70


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
                listed = unreadable_file(output)
                raise DataError(f"{first}: {problems[0]}; none of {len(names)} photos can be read\nsee {listed}")
    if len(names) - len(problems) <= _PRINTED:
        print(predicted_lines(names, columns, problems))
    print(f"\n{len(names) - len(problems)} photos predicted in {seconds:.0f} s, including compilation")
    if open_set:
        unknown = int((~columns["known"][[i for i in range(len(names)) if i not in problems]]).sum())
        print(f"{unknown} of them unknown (score {open_set.threshold(task.reject):.3f} or less)")
    if problems:
        print(f"{len(problems)} of {len(names)} cannot be read and are listed in {unreadable_file(output)}")
    if unused:
        print(f"{len(unused)} other files and folders are listed in {written[-1]}")
    print(f"\nrun         {escape_controls(tracker.run_name)}, id {tracker.run_id}\npredictions {output}")


def predicted_lines(names: Sequence[str], columns: dict[str, np.ndarray], problems: dict[int, str]) -> str:
    """Return the classes of each readable image with their probabilities, the most probable first.

    Args:
        columns: from `answer_columns`; with `known`, an unknown image is marked.
    """
    lines, k = [], sum(name.startswith("top") for name in columns)
    for position, name in enumerate(names):
        if position in problems:
            continue
        unknown = "known" in columns and not columns["known"][position]
        lines += ["", escape_controls(name) + (" (unknown)" if unknown else "")]
        for i in range(1, k + 1):
            product = shorten_middle(escape_controls(columns[f"top{i}"][position]), _MOST_CHARACTERS)
            lines.append(f"  {100 * columns[f'p{i}'][position]:5.1f} %  {product}")
    return "\n".join(lines)


def predict(config: Config, predictor: Predictor, paths: Sequence[str]) -> tuple[Answers, dict[int, str]]:
    """Return the answers and problems by position; an unreadable image has the row of a black one."""
    problems: dict[int, str] = {}
    views = readable_views(paths, [(each.resized, each.resize) for each in predictor.preprocessings], problems)
    batches = batches_for(predictor, views, range(len(paths)), config, "predicting photos")
    answers = predictor.answers(batches, config.task.top_k, is_calibrated=True)
    return answers, dict(sorted(problems.items()))


def answer_columns(answers: Answers, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns top1, p1, …, topk, pk: class names and probabilities, of all images."""
    names, columns = np.array(classes, dtype=object), {}
    for i in range(answers.labels.shape[1]):
        columns |= {f"top{i + 1}": names[answers.labels[:, i]], f"p{i + 1}": answers.probabilities[:, i]}
    return columns


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
        paths = {"path": storable(names[position] for position in readable)}
        write_table(pd.DataFrame(paths | {name: values[readable] for name, values in columns.items()}), output)
    unreadable = [(names[position], problem) for position, problem in problems.items()]
    return ([output] if readable else []) + write_list(unreadable, "problem", unreadable_file(output))
