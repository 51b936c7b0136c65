"""Causes of errors, assigned by rules on measured values.

- suspected_label: another class is suggested (off the diagonal of the confident joint), with enough suspicion.
- others: the true or the predicted class is the catch-all class, which has no common look.
- photo: darker, lighter or more blurred than the training images of its class, measured on the pixels, where other
  photos of the class are lost by the same blur and exposure (`photo_trial`); or more reflecting, or of an extreme
  height/width ratio.
- look_alike: the two classes' mean features are near, and each is taken for the other; or a large part of one class is
  taken for the other, wherever the means of their training images lie.
- tail: the true class has fewer than `tail_images` training images or is in the group tail
  (`class_groups.class_groups`).
- unexplained: no rule holds.

An error may have several causes.  The main cause is the first in this order: first, whether it is an error at all (a
wrong label, a catch-all class); then, whether the image shows the product; last, the model.  A look-alike names the
class to separate; few training images only suggest adding more.
"""

import numpy as np
import pandas as pd

from rp2k_lab.config.thresholds import Rules
from rp2k_lab.core.text import escape_controls, text_table

MEANINGS = {
    "suspected_label": "The given label is probably wrong.",
    "others": "Into or out of the catch-all class.",
    "photo": "Dark, light or blurred, so that other photos of the class would be lost, too; or reflecting, or of an "
    "extreme shape.",
    "look_alike": "The two classes are near in feature space and are confused in both directions, or a large part of "
    "one is taken for the other.",
    "tail": "The class has too few training photos.",
    "unexplained": "No rule holds.",
}
CAUSES = tuple(MEANINGS)  # the first that holds is the main cause
TOP_CLASSES = 5
_ONE_WAY_IMAGES = 3  # of a class, taken for one other: fewer are a large part of a small class by chance


def add_causes(
    cases: pd.DataFrame, pairs: pd.DataFrame, typical: pd.DataFrame, rules: Rules, catch_all_class: str | None
) -> pd.DataFrame:
    """Return the cases with a column `cause_<cause>` (bool) for each of CAUSES and `cause` (str, the main cause).

    They are False and "" for correct predictions.

    Args:
        cases: columns true, top1, correct, train_images, group, suspicion, suggested, ratio, brightness, sharpness,
            glare; a NaN measure crosses no threshold.  And lost_like (`photo_trial.lost_fractions`), if it was tried.
        pairs: from `confused_pairs`.
        typical: from `photo_quality.typical_measures`.
    """
    alike = pairs.loc[pairs["look_alike"], ["first", "second"]]
    either = pd.MultiIndex.from_arrays([[*alike["first"], *alike["second"]], [*alike["second"], *alike["first"]]])
    holds = {
        "suspected_label": ((cases["suspicion"] >= rules.suspicion) & (cases["suggested"] != "")).to_numpy(bool),
        "others": ((cases["true"] == catch_all_class) | (cases["top1"] == catch_all_class)).to_numpy(bool),
        "photo": photo_at_fault(cases, typical, rules),
        "look_alike": pd.MultiIndex.from_frame(cases[["true", "top1"]]).isin(either),
        "tail": (
            cases["group"] == "tail" if rules.tail_images is None else cases["train_images"] < rules.tail_images
        ).to_numpy(bool),
    }
    holds["unexplained"] = ~np.any(list(holds.values()), axis=0)
    wrong = ~cases["correct"].to_numpy(bool)
    flags = {cause: holds[cause] & wrong for cause in CAUSES}
    main = np.select(list(flags.values()), CAUSES, default="")
    return cases.assign(**{f"cause_{cause}": flag for cause, flag in flags.items()}, cause=main.astype(object))


def photo_at_fault(cases: pd.DataFrame, typical: pd.DataFrame, rules: Rules) -> np.ndarray:
    """Return whether each image has the cause photo, bool (images,); the arguments are those of `add_causes`."""
    problems = photo_problems(cases, typical, rules)
    visible = problems[["dark", "bright", "blurred"]].any(axis=1)
    if "lost_like" in cases and rules.photo_lost:
        visible &= cases["lost_like"] >= rules.photo_lost  # NaN: the class is not recognized at all
    return (visible | problems[["glare", "ratio"]].any(axis=1)).to_numpy()


def photo_problems(cases: pd.DataFrame, typical: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Return the thresholds that each image crosses, bool columns dark, bright, blurred, glare, ratio.

    Args:
        typical: from `photo_quality.typical_measures`; if a class is missing, only the ratio of its images is judged.
    """
    of_class = typical.reindex(cases["true"]).set_axis(cases.index)
    ratio = cases["ratio"]
    return pd.DataFrame(
        {
            "dark": cases["brightness"] * rules.exposure < of_class["brightness"],
            "bright": cases["brightness"] > of_class["brightness"] * rules.exposure,
            "blurred": cases["sharpness"] < of_class["sharpness"] * rules.blurred,
            "glare": cases["glare"] - of_class["glare"] > rules.glare,
            "ratio": np.maximum(ratio, 1 / ratio) > rules.ratio,
        }
    )


def confused_pairs(cases: pd.DataFrame, classes: list[str], means: np.ndarray, rules: Rules) -> pd.DataFrame:
    """Return one row for each confused pair of classes, most often confused first.

    Args:
        cases: columns true, top1, correct.
        classes: all names, in the order of `means`.
        means: float32 (classes, width), from `neighbors.class_means`; NaN for a class without training images.

    Returns:
        Columns first, second (names, first before second in `classes`), first_as_second, second_as_first (images),
        confused (their sum), cosine (of the two rows of `means`), look_alike (bool, by either rule).
    """
    names = pd.Index(classes, dtype=object)
    errors = cases[~cases["correct"].to_numpy(bool)]
    true, top1 = (names.get_indexer(errors[column]).astype(np.int64) for column in ("true", "top1"))
    cell, cell_of = np.unique(np.minimum(true, top1) * len(classes) + np.maximum(true, top1), return_inverse=True)
    first_as_second = np.bincount(cell_of, weights=true < top1, minlength=len(cell)).astype(np.int64)
    confused = np.bincount(cell_of, minlength=len(cell))
    first, second = cell // len(classes), cell % len(classes)
    cosine = np.einsum("ij,ij->i", means[first], means[second], dtype=np.float64)
    second_as_first = confused - first_as_second
    each_way = np.minimum(first_as_second, second_as_first) >= rules.look_alike_each_way
    images = cases["true"].value_counts().reindex(names, fill_value=0).to_numpy()
    one_way = np.zeros(len(cell), bool)
    for taken, of_class in ((first_as_second, first), (second_as_first, second)):
        one_way |= (taken >= _ONE_WAY_IMAGES) & (taken >= rules.look_alike_one_way * images[of_class])
    pairs = pd.DataFrame(
        {
            "first": names[first],
            "second": names[second],
            "first_as_second": first_as_second,
            "second_as_first": second_as_first,
            "confused": confused,
            "cosine": cosine,
            "look_alike": (each_way & (cosine >= rules.look_alike_cosine)) | (one_way & (rules.look_alike_one_way > 0)),
        }
    )
    return pairs.sort_values("confused", ascending=False, kind="stable", ignore_index=True)


def cause_table(cases: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each of CAUSES.

    Returns:
        Columns cause, errors (with this cause), main (with this main cause), share (main / all errors; NaN without
        errors), top_classes (list of at most TOP_CLASSES true classes with the most errors of this cause).
    """
    errors = int((~cases["correct"].to_numpy(bool)).sum())
    rows = []
    for cause in CAUSES:
        having, main = cases.loc[cases[f"cause_{cause}"], "true"], int((cases["cause"] == cause).sum())
        top = having.value_counts(sort=False).sort_values(ascending=False, kind="stable").index[:TOP_CLASSES].tolist()
        rows.append((cause, len(having), main, main / errors if errors else np.nan, top))
    return pd.DataFrame(rows, columns=["cause", "errors", "main", "share", "top_classes"])


def format_causes(causes: pd.DataFrame, correct: pd.Series) -> str:
    """Return the causes as a text table, with the number of errors below.

    Args:
        causes: from `cause_table`.
        correct: bool (images,).
    """
    cells = [["cause", "main", "fraction", "all", "most in"]]
    for row in causes.itertuples():
        fraction = f"{100 * row.share:5.1f} %" if row.main else "–"
        cells.append(
            [row.cause, str(row.main), fraction, str(row.errors), ", ".join(map(escape_controls, row.top_classes[:3]))]
        )
    wrong = int((~correct).sum())
    return f"\n{text_table(cells)}\n\nerrors      {wrong} of {len(correct)} photos"
