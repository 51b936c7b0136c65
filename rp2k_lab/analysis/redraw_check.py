"""Check of the cause `photo` on a shelf set: its images are redrawn without nuisances and predicted again.

If the model recognizes the clean drawing of an error, the photo was at fault.  The placebo is a near copy with all
nuisances: an error near the border between two classes is often recognized by any small change.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.core.progress import progress
from rp2k_lab.dataset.image import pad_to_center, read_resized
from rp2k_lab.dataset.shelf.catalog import build_catalog
from rp2k_lab.dataset.shelf.generate import OPTIONS_FILE, TRUTH_FILE
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.shelf.plan import NUISANCES
from rp2k_lab.dataset.shelf.scene import draw_image, encode
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.evaluation.predictor import Predictor, Preprocessing

# Nuisances that are left out: those that the rules of `photo` measure, all, and none: the placebo.
LEFT_OUT = {"measured": ("blur", "brightness", "reflection"), "all": NUISANCES, "none": ()}
NAMES = {
    "measured": "redrawn without the measured nuisances",
    "all": "redrawn without any nuisance",
    "none": "as a near copy (placebo)",
}


def read_truth(root: Path) -> tuple[ShelfOptions, pd.DataFrame] | None:
    """Return (options, truth.parquet by path) of a shelf set, None for other data sets."""
    if not (root / TRUTH_FILE).is_file():
        return None
    options = ShelfOptions.model_validate_json((root / OPTIONS_FILE).read_text("utf-8"))
    return options, pd.read_parquet(root / TRUTH_FILE).set_index("path", drop=False)


def clean_batches(
    options: ShelfOptions, truth: pd.DataFrame, without: Sequence[str], preprocessing: Preprocessing, batch_size: int
) -> Iterator[list[np.ndarray]]:
    """Yield batches of the truth's images, redrawn without some nuisances, for a `Predictor`.

    Images are encoded and read back like the originals: a JPEG may be decoded at reduced size, which gives other
    pixels than resizing the drawing.
    """
    size, resized = preprocessing.size, preprocessing.resized
    catalog = build_catalog(options)
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as folder:
        file = Path(folder) / "photo"
        for start in range(0, len(truth), batch_size):
            images = []
            for row in truth.iloc[start : start + batch_size].to_dict("records"):
                file.write_bytes(encode(draw_image(row, catalog, without), row))
                images.append(pad_to_center(read_resized(file, resized, preprocessing.resize), resized, size))
            yield [np.stack(images)]


def recognized_clean(
    predictor: Predictor,
    classes: list[str],
    options: ShelfOptions,
    truth: pd.DataFrame,
    without: Sequence[str],
    batch_size: int,
) -> np.ndarray:
    """Return whether the model recognizes each image of `truth` when redrawn without some nuisances: bool (images,).

    Args:
        predictor: of one network.
        classes: names in the labels' order.
        without: names of NUISANCES.
    """
    batches = clean_batches(options, truth, without, predictor.preprocessings[0], batch_size)
    shown = progress(
        batches, len(truth), f"redrawing photos without {', '.join(without) or 'change'}", lambda batch: len(batch[0])
    )
    labels = [average.argmax(axis=1) for _, average in predictor(shown)]
    names = np.array(classes, dtype=object)
    return names[np.concatenate(labels)] == truth["true_class"].to_numpy(object) if labels else np.zeros(0, bool)


def score_photo(flagged: np.ndarray, fault: np.ndarray) -> dict[str, float]:
    """Return precision and recall of the cause `photo` for errors that were the photo's fault.

    Args:
        flagged: bool (errors,), has the cause.
        fault: bool (errors,), recognized when redrawn clean.

    Returns:
        errors, fault, flagged, both (counts), fault_share (precision of random flags), then precision and recall with
        _low and _high (Wilson, 95 %); 0 of 0 is NaN within (0, 1).
    """
    both = int((flagged & fault).sum())
    faults, flags = int(fault.sum()), int(flagged.sum())
    score: dict[str, float] = {"errors": len(fault), "fault": faults, "flagged": flags, "both": both}
    score["fault_share"] = faults / len(fault) if len(fault) else np.nan
    for name, count in (("precision", flags), ("recall", faults)):
        low, high = wilson_interval(both, count)
        score |= {name: both / count if count else np.nan, f"{name}_low": low, f"{name}_high": high}
    return score


def photo_score(
    predictor: Predictor, classes: list[str], cases: pd.DataFrame, root: Path, batch_size: int
) -> pd.DataFrame | None:
    """Return `score_photo` of a shelf set's correctly labeled errors, a row for each of LEFT_OUT; else None.

    Args:
        cases: columns path, correct, cause_photo.
        root: the data set's folder.
    """
    shelf = read_truth(root)
    if shelf is None:
        return None
    options, truth = shelf
    errors = cases.loc[~cases["correct"].to_numpy(bool), ["path", "cause_photo"]]
    truth = truth.loc[errors["path"]]
    correct_label = ~truth["label_error"].to_numpy(bool)
    truth, flagged = truth[correct_label], errors["cause_photo"].to_numpy(bool)[correct_label]
    rows = []
    for name, without in LEFT_OUT.items():
        drawn = truth if without else truth.assign(near_key=truth["draw_key"])  # a near copy
        fault = recognized_clean(predictor, classes, options, drawn, without, batch_size)
        rows.append({"left_out": name} | score_photo(flagged, fault))
    return pd.DataFrame(rows)


def format_photo_score(score: pd.DataFrame) -> str:
    """Return the table of `photo_score` as text."""
    lines = [f"photo       {score['flagged'][0]} of {score['errors'][0]} correctly labeled errors have this cause"]
    for row in score.itertuples():
        scores = (f"{name} {value:.2f} [{low:.2f}, {high:.2f}]" for name, value, low, high in (
            ("precision", row.precision, row.precision_low, row.precision_high),
            ("recall", row.recall, row.recall_low, row.recall_high),
        ))  # fmt: skip
        recognized = f"{row.fault} ({100 * row.fault_share:.0f} %)"
        lines.append(f"            {NAMES[row.left_out]}, {recognized} are recognized: {', '.join(scores)}")
    return "\n".join(lines)
