"""Why a photo was recognized as something else: rules on what was measured, each written down, none of them a guess.

- suspected_label: another class is suggested (off the diagonal of the confident joint), with enough suspicion.
- others: into the catch-all class or out of it, which has no look of its own.
- photo: darker or lighter, more blurred or more reflecting than the training photos of its class, or of an extreme
  height/width ratio; measured on the pixels.
- look_alike: the two classes' mean features are near, and each is taken for the other.
- tail: the true class has too few training photos: it is of the group tail (`metrics.class_groups`), or a number says.
- unexplained: none of these.

An error may have several causes.  The main one is the first of that order, which asks first whether the error is one
(a wrong label; a class of everything else), then whether the photo shows the product, then what is wrong with the
model: a look-alike names the class to tell apart from, few training photos only say that more would help.
"""

import numpy as np
import pandas as pd

from rp2k_lab.config.thresholds import Rules
from rp2k_lab.core.text import escape_controls, text_table

MEANINGS = {
    "suspected_label": "The given label is probably wrong.",
    "others": "Into or out of the catch-all class.",
    "photo": "Dark, blurred, reflecting or of an extreme shape, measured on the pixels.",
    "look_alike": "The two classes are near in feature space and are confused in both directions.",
    "tail": "The class has too few training images.",
    "unexplained": "None of the rules holds.",
}
CAUSES = tuple(MEANINGS)  # the main one is the first
TOP_CLASSES = 5


def add_causes(
    cases: pd.DataFrame, pairs: pd.DataFrame, usual: pd.DataFrame, rules: Rules, others: str | None
) -> pd.DataFrame:
    """The cases with a column `cause_<cause>` (bool) for each of CAUSES and `cause` (str, the main one).

    Where a photo was recognized they are False and "".

    Args:
        cases: columns true, top1, correct, train_images, group, suspicion, suggested, ratio, brightness, sharpness,
            glare; a measure that is nan has crossed no threshold.
        pairs: of `confused_pairs`.
        usual: of `photo.usual_measures`.
        others: the catch-all class, or None.
    """
    alike = pairs.loc[pairs["look_alike"], ["first", "second"]]
    either = pd.MultiIndex.from_arrays([[*alike["first"], *alike["second"]], [*alike["second"], *alike["first"]]])
    found = {
        "suspected_label": ((cases["suspicion"] >= rules.suspicion) & (cases["suggested"] != "")).to_numpy(bool),
        "others": ((cases["true"] == others) | (cases["top1"] == others)).to_numpy(bool),
        "photo": photo_problems(cases, usual, rules).any(axis=1).to_numpy(),
        "look_alike": pd.MultiIndex.from_frame(cases[["true", "top1"]]).isin(either),
        "tail": (
            cases["group"] == "tail" if rules.tail_images is None else cases["train_images"] < rules.tail_images
        ).to_numpy(bool),
    }
    found["unexplained"] = ~np.any(list(found.values()), axis=0)
    wrong = ~cases["correct"].to_numpy(bool)
    flags = {cause: found[cause] & wrong for cause in CAUSES}
    main = np.select(list(flags.values()), CAUSES, default="")
    return cases.assign(**{f"cause_{cause}": flag for cause, flag in flags.items()}, cause=main.astype(object))


def photo_problems(cases: pd.DataFrame, usual: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Which thresholds each photo crosses, bool columns dark, bright, blurred, glare, ratio.

    Args:
        usual: of `photo.usual_measures`; a photo of a class that it lacks is judged by its ratio alone.
    """
    of_class = usual.reindex(cases["true"]).set_axis(cases.index)
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
    """One row a pair of classes of which one was taken for the other, most often confused first.

    Args:
        cases: columns true, top1, correct.
        classes: every name, in the order of `means`.
        means: float32 (classes, width), as of `neighbors.class_means`; nan where a class has no training photo.

    Returns:
        Columns first, second (names, first before second in `classes`), first_as_second, second_as_first (photos),
        confused (their sum), cosine (of the two rows of `means`), look_alike (bool, by the rules).
    """
    names = pd.Index(classes, dtype=object)
    errors = cases[~cases["correct"].to_numpy(bool)]
    true, top1 = (names.get_indexer(errors[column]).astype(np.int64) for column in ("true", "top1"))
    cell, count = np.unique(np.minimum(true, top1) * len(classes) + np.maximum(true, top1), return_inverse=True)
    forth = np.bincount(count, weights=true < top1, minlength=len(cell)).astype(np.int64)
    both = np.bincount(count, minlength=len(cell))
    first, second = cell // len(classes), cell % len(classes)
    cosine = np.einsum("ij,ij->i", means[first], means[second], dtype=np.float64)
    each_way = np.minimum(forth, both - forth) >= rules.look_alike_each_way
    pairs = pd.DataFrame(
        {
            "first": names[first],
            "second": names[second],
            "first_as_second": forth,
            "second_as_first": both - forth,
            "confused": both,
            "cosine": cosine,
            "look_alike": each_way & (cosine >= rules.look_alike_cosine),
        }
    )
    return pairs.sort_values("confused", ascending=False, kind="stable", ignore_index=True)


def cause_table(cases: pd.DataFrame) -> pd.DataFrame:
    """One row a cause, in the order of CAUSES.

    Returns:
        Columns cause, errors (that have it), main (of which it is the main one), share (main / all errors; nan without
        errors), top_classes (list: the true classes with the most errors that have it, at most TOP_CLASSES).
    """
    errors = int((~cases["correct"].to_numpy(bool)).sum())
    rows = []
    for cause in CAUSES:
        having, main = cases.loc[cases[f"cause_{cause}"], "true"], int((cases["cause"] == cause).sum())
        top = having.value_counts(sort=False).sort_values(ascending=False, kind="stable").index[:TOP_CLASSES].tolist()
        rows.append((cause, len(having), main, main / errors if errors else np.nan, top))
    return pd.DataFrame(rows, columns=["cause", "errors", "main", "share", "top_classes"])


def causes_table(causes: pd.DataFrame, correct: pd.Series) -> str:
    """A row a cause: of how many errors it is the main one, their share, how many have it, in which classes most.

    Args:
        causes: of `analysis.causes.cause_table`.
        correct: bool (photos,).
    """
    cells = [["cause", "main", "share", "have it", "most in"]]
    for row in causes.itertuples():
        share = f"{100 * row.share:5.1f} %" if row.main else "–"
        cells.append(
            [row.cause, str(row.main), share, str(row.errors), ", ".join(map(escape_controls, row.top_classes[:3]))]
        )
    wrong = int((~correct).sum())
    return f"\n{text_table(cells)}\n\nerrors      {wrong} of {len(correct)} photos"
