"""Tables for the terminal."""

from rp2k_lab.core.text import text_table
from rp2k_lab.evaluation.metrics import Score

ROWS = {
    "top1": "top-1",
    "top5": "top-5",
    "macro_top1": "macro top-1",
    "head_top1": "head top-1",
    "medium_top1": "medium top-1",
    "tail_top1": "tail top-1",
    "top1_without_others": "top-1 without others",
}


def closing_table(scores: dict[str, dict[str, Score]]) -> str:
    """Return the scores as text: a row a metric, a column a split; each cell has percent, 95 % interval and count."""
    cells = [["", *(split for split in scores)]]
    for name, label in ROWS.items():
        if any(name in split for split in scores.values()):
            cells.append([label, *(_cell(split.get(name)) for split in scores.values())])
    return "\n" + text_table(cells)


def top1_table(names: list[str], scores: dict[str, list[dict[str, Score]]]) -> str:
    """Return top-1 as text: a row a name, a column a split.

    Args:
        scores: split to the scores of `names`, in order.
    """
    cells = [[name, *(_cell(each[i]["top1"]) for each in scores.values())] for i, name in enumerate(names)]
    return f"\n{text_table([['top-1', *scores], *cells])}"


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{100 * score.value:5.1f} %  [{100 * score.low:4.1f}, {100 * score.high:5.1f}] of {score.count}"
