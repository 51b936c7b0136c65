"""Tables for the terminal."""

import math

from rp2k_lab.core.text import text_table
from rp2k_lab.evaluation.metric_registry import Metric, Score, metrics


def closing_table(scores: dict[str, dict[str, Score]]) -> str:
    """Return the scores as text: a row a metric, a column a split; each cell has value, 95 % interval and count."""
    cells = [["", *(split for split in scores)]]
    for name, metric in metrics().items():
        if any(name in split for split in scores.values()):
            cells.append([metric.label, *(_cell(metric, split.get(name)) for split in scores.values())])
    return "\n" + text_table(cells)


def top1_table(names: list[str], scores: dict[str, list[dict[str, Score]]]) -> str:
    """Return top-1 as text: a row a name, a column a split.

    Args:
        scores: split to the scores of `names`, in order.
    """
    top1 = metrics()["top1"]
    cells = [[name, *(_cell(top1, each[i]["top1"]) for each in scores.values())] for i, name in enumerate(names)]
    return f"\n{text_table([['top-1', *scores], *cells])}"


def fraction_cell(score: Score | None) -> str:
    """Return a fraction as a cell: value, 95 % interval and count."""
    return _cell(metrics()["top1"], score)


def _cell(metric: Metric, score: Score | None) -> str:
    if score is None:
        return "–"
    if metric.kind == "fraction":
        value, interval = f"{100 * score.value:5.1f} %", f"[{100 * score.low:4.1f}, {100 * score.high:5.1f}]"
    else:
        value, interval = f"{score.value:7.4g}", f"[{score.low:.4g}, {score.high:.4g}]"
    return f"{value}  of {score.count}" if math.isnan(score.low) else f"{value}  {interval} of {score.count}"
