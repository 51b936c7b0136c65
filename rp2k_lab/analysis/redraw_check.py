"""Was it the photo's fault?  A shelf set knows: the same product is drawn without the nuisance, and the model asked
again.  An error whose clean drawing is recognized was the photo's fault."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.dataset.image import pad_to_center, read_resized
from rp2k_lab.dataset.shelf.catalog import build_catalog
from rp2k_lab.dataset.shelf.generate import OPTIONS_FILE, TRUTH_FILE
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.shelf.plan import NUISANCES
from rp2k_lab.dataset.shelf.scene import draw_image, encode
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.evaluation.predictor import Predictor, Preprocessing

# What is left out: what the rules of `photo` can see in the pixels, and all that stands between product and picture.
LEFT_OUT = {"measured": ("blur", "brightness", "reflection"), "all": NUISANCES}


def read_truth(root: Path) -> tuple[ShelfOptions, pd.DataFrame] | None:
    """(options, truth.parquet by path) of a shelf set, or None of another data set."""
    if not (root / TRUTH_FILE).is_file():
        return None
    options = ShelfOptions.model_validate_json((root / OPTIONS_FILE).read_text("utf-8"))
    return options, pd.read_parquet(root / TRUTH_FILE).set_index("path", drop=False)


def clean_batches(
    options: ShelfOptions, truth: pd.DataFrame, without: Sequence[str], way: Preprocessing, batch_size: int
) -> Iterator[list[np.ndarray]]:
    """The photos of rows of the truth drawn again without some nuisances, as a predictor takes them.

    They go through a file, compressed as the photo is: a JPEG is decoded at a fraction of its size where that is
    enough, which gives other pixels than resizing the drawing.
    """
    catalog = build_catalog(options)
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as folder:
        file = Path(folder) / "photo"
        for start in range(0, len(truth), batch_size):
            images = []
            for row in truth.iloc[start : start + batch_size].to_dict("records"):
                file.write_bytes(encode(draw_image(row, catalog, without), row))
                images.append(pad_to_center(read_resized(file, way.resized, way.resize), way.resized, way.size))
            yield [np.stack(images)]


def recognized_clean(
    predictor: Predictor,
    classes: list[str],
    options: ShelfOptions,
    truth: pd.DataFrame,
    without: Sequence[str],
    batch_size: int,
) -> np.ndarray:
    """Whether the model gives the true class to each photo of `truth` drawn without some nuisances: bool (photos,).

    Args:
        predictor: of one network.
        classes: names in the labels' order.
        without: names of NUISANCES.
    """
    batches = clean_batches(options, truth, without, predictor.preprocessings[0], batch_size)
    said = [average.argmax(axis=1) for _, average in predictor(batches)]
    names = np.array(classes, dtype=object)
    return names[np.concatenate(said)] == truth["true_class"].to_numpy(object) if said else np.zeros(0, bool)


def score_photo(flagged: np.ndarray, fault: np.ndarray) -> dict[str, float]:
    """How well the cause `photo` finds the errors that were the photo's fault.

    Args:
        flagged: bool (errors,), the cause.
        fault: bool (errors,), recognized when drawn clean.

    Returns:
        errors, fault, flagged, both (counts), fault_share (the precision of flagging at random), then precision and
        recall with _low and _high (Wilson, 95 %); a share of nothing is nan within (0, 1).
    """
    both = int((flagged & fault).sum())
    found = {"errors": len(fault), "fault": int(fault.sum()), "flagged": int(flagged.sum()), "both": both}
    found["fault_share"] = found["fault"] / len(fault) if len(fault) else np.nan
    for name, of in (("precision", found["flagged"]), ("recall", found["fault"])):
        low, high = wilson_interval(both, of)
        found |= {name: both / of if of else np.nan, f"{name}_low": low, f"{name}_high": high}
    return found


def photo_score(
    predictor: Predictor, classes: list[str], cases: pd.DataFrame, root: Path, batch_size: int
) -> pd.DataFrame | None:
    """`score_photo` on a shelf set's errors with a right label, a row for each of LEFT_OUT; None of another data set.

    Args:
        cases: columns path, correct, cause_photo.
        root: the data set's folder.
    """
    known = read_truth(root)
    if known is None:
        return None
    options, truth = known
    errors = cases.loc[~cases["correct"].to_numpy(bool), ["path", "cause_photo"]]
    truth = truth.loc[errors["path"]]
    right = ~truth["label_error"].to_numpy(bool)
    truth, flagged = truth[right], errors["cause_photo"].to_numpy(bool)[right]
    rows = []
    for name, without in LEFT_OUT.items():
        fault = recognized_clean(predictor, classes, options, truth, without, batch_size)
        rows.append({"left_out": name} | score_photo(flagged, fault))
    return pd.DataFrame(rows)


def photo_score_lines(score: pd.DataFrame) -> str:
    """How well the cause `photo` did against a shelf set's truth; `score` of `analysis.redrawn.photo_score`."""
    lines = [f"photo       of {score['errors'][0]} errors with a right label, {score['flagged'][0]} have this cause;"]
    for row in score.itertuples():
        shares = (f"{name} {share:.2f} [{low:.2f}, {high:.2f}]" for name, share, low, high in (
            ("precision", row.precision, row.precision_low, row.precision_high),
            ("recall", row.recall, row.recall_low, row.recall_high),
        ))  # fmt: skip
        what = "what it measures" if row.left_out == "measured" else "any nuisance"
        share = f"{row.fault} ({100 * row.fault_share:.0f} %)"
        lines.append(f"            drawn without {what} {share} are recognized: {', '.join(shares)}")
    return "\n".join(lines)
