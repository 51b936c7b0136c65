"""What a finished run says in the terminal."""

from rp2k_lab.metrics import Score

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
    """Splits side by side; each cell is percent, 95 % interval and count."""
    cells = [["", *(split for split in scores)]]
    for name, label in ROWS.items():
        if any(name in split for split in scores.values()):
            cells.append([label, *(_cell(split.get(name)) for split in scores.values())])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    rule = "-" * max(map(len, lines))
    return "\n".join(["", lines[0], rule, *lines[1:]])


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{100 * score.value:5.1f} %  [{100 * score.low:4.1f}, {100 * score.high:5.1f}] of {score.count}"
