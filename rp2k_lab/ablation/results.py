"""Results of a table as two committed files, from which the verdict can be recomputed without the tracking store.

`results.csv` has one row per cell (level × seed), `images.csv` one row per set of test images.  Rows are sorted and the
format is fixed: equal results give equal bytes, so that a git diff shows only what changed.

`results.csv` may have more columns than `COLUMNS`, between `val_top1` and `correct`, sorted by name.  Those of
registered metrics (`evaluation.metric_registry`) are numbers.  All others, such as the metrics of a package that is not
installed, are text that is kept.  `native` is the tag of that name of the cell's run, `identity` what decides its
numbers (`tracking.provenance.identity`), and `origin` where a cell of another table was computed; older files do not
have them.
"""

import base64
import binascii
import csv
import hashlib
import json
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rp2k_lab import PROJECT
from rp2k_lab.core.csv_files import UnreadableText, read_csv
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import write_text
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.class_groups import GROUPS
from rp2k_lab.evaluation.metric_registry import metrics

log = logging.getLogger(__name__)

EXPERIMENTS = PROJECT / "experiments"
RESULTS, IMAGES = "results.csv", "images.csv"
STATES = ("complete", "failed", "running")
ACCURACIES = ("top1", "top5", "macro_top1", "head_top1", "medium_top1", "tail_top1", "val_top1")
COLUMNS = {  # column of every file to its kind; `level` is not escaped
    "level": "name", "seed": "count", "state": "text", "reason": "text", "run_id": "text", "trial": "count",
    "commit": "text", "dirty": "boolean", "command": "text", "started": "text", "seconds": "seconds", "epochs": "count",
    "host": "text", "dataset_fingerprint": "text", "images_digest": "text", "images": "count",
    **dict.fromkeys(ACCURACIES, "fraction"), "correct": "text",
}  # fmt: skip
IMAGE_COLUMNS = {"digest": "text", "images": "count", "labels": "text", "groups": "text"}
# Of sets that have them; files without them have no such column.
OPTIONAL_IMAGE_COLUMNS = ("clusters", "parts")
_WAY_OUT = "restore it from git, or run task=report on the machine with the study"
_TOLERANCE = 1e-6  # for a fraction that is written with eight decimals


@dataclass(frozen=True)
class Results:
    """Checked results of a table.

    Attributes:
        table: one row per cell, with the columns of `column_kinds`; a blank is "" in text columns and NA in others.
            Sorted by seed in a level.
        labels: images_digest to the class of each test image, int64 (images,).
        groups: images_digest to the group of each test image, uint8 (images,): 0 head, 1 medium, 2 tail.
        images: one `image_row` per set of test images.
        clusters: images_digest to the cluster of each test image, int64 (images,), of sets with groups: images of one
            scene, for example, are not independent of each other.
        parts: images_digest to named parts of the test images, bool (images,), of sets that know them.
    """

    table: pd.DataFrame
    labels: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    images: pd.DataFrame
    clusters: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def correct(self, level: str, seeds: Iterable[int]) -> np.ndarray:
        """Return which test images the complete cells of a level have right, bool (seeds, images)."""
        cells = self.table[self.table["level"] == level].set_index("seed")
        return np.stack([unpack(cells.at[seed, "correct"], int(cells.at[seed, "images"])) for seed in seeds])


def pack(correct: np.ndarray) -> str:
    """Return the correctness of every test image, bool (images,), as base64 text with eight images per byte.

    It is not compressed, because other versions of zlib give other bytes.
    """
    return base64.b64encode(np.packbits(np.asarray(correct, bool)).tobytes()).decode()


def unpack(text: str, images: int) -> np.ndarray:
    """Invert `pack`: return bool (images,).

    Raises:
        ValueError: the text is not a packed array of that length.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    bits = np.unpackbits(packed).astype(bool)
    if len(packed) != -(-images // 8) or bits[images:].any():
        raise ValueError(f"{len(bits)} bits, not the correctness of {images} images")
    return bits[:images]


def images_digest(paths: Iterable[str], true: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that identify the test images by path and true class (name), in order."""
    digest = hashlib.sha256()
    for path, name in zip(paths, true, strict=True):
        digest.update(f"{path}\0{name}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def image_row(
    digest: str,
    labels: np.ndarray,
    groups: np.ndarray,
    clusters: np.ndarray | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return a row of `images.csv`.

    Args:
        labels: int (images,), the class of each test image.
        groups: int (images,), 0 head, 1 medium, 2 tail.
        clusters, parts: see `Results`; clusters may be names.
    """
    texts = {"labels": _whole_numbers(labels), "groups": _compressed(np.asarray(groups, np.uint8))}
    if clusters is not None:
        texts["clusters"] = _whole_numbers(np.unique(clusters, return_inverse=True)[1])
    if parts:
        texts["parts"] = json.dumps({name: pack(part) for name, part in parts.items()}, ensure_ascii=False)
    return {"digest": digest, "images": len(labels), **texts}


def _whole_numbers(values: np.ndarray) -> str:
    values = np.asarray(values)
    return _compressed(values.astype("<u2" if values.max(initial=0) < 2**16 else "<u4"))


def _compressed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def accuracies(correct: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return top1 and macro_top1 (mean over classes with images), 0 to 1, from bool (images,) and int (images,)."""
    images = np.bincount(labels)
    hits = np.bincount(labels, correct)
    return {"top1": float(np.mean(correct)), "macro_top1": float((hits[images > 0] / images[images > 0]).mean())}


def column_kinds(columns: Iterable[str]) -> dict[str, str]:
    """Return the kind of each column of a `results.csv` that has `COLUMNS` and these, in the order of the file."""
    known, kinds = metrics(), dict(COLUMNS)
    correct = kinds.pop("correct")
    more = sorted(set(columns) - COLUMNS.keys())
    return kinds | {name: known[name].kind if name in known else "text" for name in more} | {"correct": correct}


def _image_kinds(images: pd.DataFrame) -> dict[str, str]:
    """Return the kind of each column of images.csv; an optional one only if a row has it."""
    filled = [
        name
        for name in OPTIONAL_IMAGE_COLUMNS
        if name in images and any(isinstance(text, str) and text for text in images[name])
    ]
    return IMAGE_COLUMNS | dict.fromkeys(filled, "text")


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of `Results.table` that are metrics: `ACCURACIES`, then others by name."""
    return [name for name, kind in column_kinds(table.columns).items() if kind in ("fraction", "number")]


def check_results(results: pd.DataFrame, images: pd.DataFrame, source: str) -> Results:
    """Check that both tables are complete and consistent; return them typed and sorted.

    Rows are sorted by level (in order of appearance) and seed.

    Args:
        results, images: with at least `COLUMNS` and `IMAGE_COLUMNS`, as text or typed; a blank is None, NaN or "".
        source: where they come from, for errors.

    Raises:
        DataError: a column is missing, a value has the wrong type, a cell is duplicated, a complete cell lacks its
            accuracies, or they contradict its correctness by image (those of groups are computed again).
    """
    try:
        table, images = _typed(results, column_kinds(results.columns)), _typed(images, _image_kinds(images))
        order = {level: i for i, level in enumerate(dict.fromkeys(table["level"]))}
        keys = pd.DataFrame({"rank": table["level"].map(order), "seed": table["seed"]})
        table = table.loc[keys.sort_values(["rank", "seed"], kind="stable").index].reset_index(drop=True)
        checked = Results(table, {}, {}, images.sort_values("digest", ignore_index=True))
        for row in checked.images.itertuples():
            checked.labels[row.digest], checked.groups[row.digest] = _image_arrays(row)
            if clusters := getattr(row, "clusters", ""):
                checked.clusters[row.digest] = _numbers(clusters, row)
            if parts := getattr(row, "parts", ""):
                checked.parts[row.digest] = {
                    name: unpack(text, int(row.images)) for name, text in json.loads(parts).items()
                }
        _check_cells(checked)
        _measure_groups(checked, source)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, zlib.error) as error:
        reason = escape_controls(str(error))[:200]
        raise DataError(f"{source}: {reason}\n{_WAY_OUT}") from None
    return checked


def _typed(frame: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    absent = [column for column in columns if column not in frame]
    if absent:
        raise ValueError(f"no column {', '.join(absent)}")
    return pd.DataFrame({column: _column(frame[column], kind) for column, kind in columns.items()})


def _column(values: pd.Series, kind: str) -> pd.Series:
    convert, dtype = _KINDS[kind]
    try:
        typed = [None if pd.isna(value) or value == "" else convert(value) for value in values]
    except (ValueError, KeyError):
        raise ValueError(f"column {values.name}: a value is not of kind {kind}") from None
    if dtype is object:
        typed = ["" if value is None else value for value in typed]
    return pd.Series(typed, dtype=dtype)


def _fraction(value: Any) -> float:
    fraction = float(value)
    if not 0 <= fraction <= 1:
        raise ValueError
    return fraction


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _count(value: Any) -> int:
    number = int(value)
    if number != float(value) or number < 0:
        raise ValueError
    return number


# Kind of value to its parser and the dtype of its column.
_KINDS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "name": (str, object),
    "text": (lambda value: escape_controls(str(value)), object),
    "count": (_count, "Int64"),
    "fraction": (_fraction, float),
    "number": (_number, float),
    "seconds": (float, float),
    "boolean": (lambda value: {"true": True, "false": False}[str(value).lower()], "boolean"),
}


def _image_arrays(row) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, groups) of a row of images.csv."""
    groups = np.frombuffer(zlib.decompress(base64.b64decode(row.groups, validate=True)), np.uint8)
    if len(groups) != row.images or groups.max() > 2:
        raise ValueError(f"images {row.digest}: groups do not have {row.images} entries")
    return _numbers(row.labels, row), groups


def _numbers(text: str, row) -> np.ndarray:
    """Return the whole numbers of a compressed column of a row of images.csv: int64 (images,)."""
    raw = zlib.decompress(base64.b64decode(text, validate=True))
    kind = {2: "<u2", 4: "<u4"}.get(len(raw) // max(1, row.images))
    if kind is None or len(raw) % row.images:
        raise ValueError(f"images {row.digest}: labels or clusters do not have {row.images} entries")
    return np.frombuffer(raw, kind).astype(np.int64)


def _check_cells(results: Results) -> None:
    table = results.table
    if table["seed"].isna().any() or not table["state"].isin(STATES).all():
        raise ValueError(f"a cell needs a seed and a state ({', '.join(STATES)})")
    duplicates = table[table.duplicated(["level", "seed"])]
    if len(duplicates):
        raise ValueError(f"duplicate cell: {duplicates['level'].iloc[0]}, seed {duplicates['seed'].iloc[0]}")
    for row in table[table["state"] == "complete"].itertuples():
        cell = f"cell {row.level}, seed {row.seed}"
        if row.images_digest not in results.labels:
            raise ValueError(f"{cell}: its test images ({row.images_digest or 'blank'}) are not in {IMAGES}")
        labels = results.labels[row.images_digest]
        if pd.isna(row.images) or row.images != len(labels):
            raise ValueError(f"{cell}: {row.images} images, but {row.images_digest} has {len(labels)}")
        for name, value in accuracies(unpack(row.correct, len(labels)), labels).items():
            if not abs(getattr(row, name) - value) < _TOLERANCE:  # includes NaN
                raise ValueError(f"{cell}: {name} {getattr(row, name)} contradicts its images ({value:.6f})")


def _measure_groups(results: Results, source: str) -> None:
    """Replace a cell's head, medium and tail accuracies by those of the groups in `images`, where they differ.

    Versions of this project have drawn the borders between groups differently: cells of two versions would be compared
    on different classes.
    """
    changed = 0
    for row in results.table[results.table["state"] == "complete"].itertuples():
        correct, groups = unpack(row.correct, int(row.images)), results.groups[row.images_digest]
        for code, group in enumerate(GROUPS):
            value = float(correct[groups == code].mean()) if (groups == code).any() else math.nan
            recorded = getattr(row, f"{group}_top1")
            if not (abs(recorded - value) < _TOLERANCE or (math.isnan(recorded) and math.isnan(value))):
                results.table.loc[row.Index, f"{group}_top1"] = value
                changed += 1
    if changed:
        log.info("%s: %d accuracies of head, medium or tail are computed again, for the groups of the newest run",
                 source, changed)  # fmt: skip


def write_results(folder: Path, results: pd.DataFrame, images: pd.DataFrame) -> Results:
    """Check the results, write both files atomically, and return the checked results.

    Args:
        results, images: as in `check_results`.

    Raises:
        DataError: they are inconsistent; nothing is written.
    """
    checked = check_results(results, images, str(folder / RESULTS))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / IMAGES, checked.images, _image_kinds(checked.images))
    _write(folder / RESULTS, checked.table, column_kinds(checked.table.columns))
    return checked


def _write(file: Path, table: pd.DataFrame, columns: dict[str, str]) -> None:
    texts = {column: [_format(value, kind) for value in table[column]] for column, kind in columns.items()}
    text = pd.DataFrame(texts, dtype=object).to_csv(index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    write_text(file, text)


def _format(value: Any, kind: str) -> str:
    if pd.isna(value):
        return ""
    forms = {"fraction": "{:.8f}", "number": "{:.8g}", "seconds": "{:.1f}"}
    text = forms.get(kind, "{}").format(value)
    return text.lower() if kind == "boolean" else text


def read_results(folder: Path) -> Results:
    """Read and check the files of `write_results`.

    Raises:
        DataError: a file is missing or damaged, or contradicts the other.
    """
    return check_results(_read(folder / RESULTS), _read(folder / IMAGES), str(folder / RESULTS))


def _read(file: Path) -> pd.DataFrame:
    try:
        return read_csv(file, fold=False)
    except UnreadableText as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{escape_controls(file)}{reason}\n{_WAY_OUT}") from None
