"""task=inspect: what there is to choose from.  `task.what=models` prints the zoo."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from rp2k_lab import device
from rp2k_lab.config import Config
from rp2k_lab.errors import RequestError
from rp2k_lab.model import list_models
from rp2k_lab.model.summary import Summary, summarise


def run(config: Config, folder: Path) -> None:
    """Print one line a model: parameters, multiply-adds, last width, smallest input, speed here, source.

    Args:
        config: `config.task` says which models, at what size.
        folder: not used; nothing is kept.
    """
    task = config.task
    names = task.models or list_models()
    device.set_up(config.device)
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as scratch:
        bar = tqdm(names, unit="model", leave=False)
        rows = []
        for name in bar:
            bar.set_description(name)
            try:
                rows.append(summarise(name, (task.size, task.size), task.batch_size, task.seconds, Path(scratch)))
            except ValueError as error:
                bar.close()
                raise RequestError(f"task=inspect: {error}") from None
    print(table(rows, task.size))
    print(f"\n1000 classes; images/s: forward, batch {task.batch_size}, {device.describe(config.device)}, ", end="")
    print(
        f"{os.cpu_count()} cores\nwider: model.final_width (ResNet family, Inception-ResNet-v2), model.head_width (all)"
    )
    print(f"next        python run.py model={rows[-1].name}")


def table(rows: Iterable[Summary], size: int) -> str:
    """The zoo as text."""
    head = ("model", "parameters", f"multiply-adds at {size}", "last width", "smallest input", "images/s", "source")
    lines = [
        (
            row.name,
            f"{row.parameters:,}",
            f"{row.multiply_adds / 1e9:.2f} G",
            f"{row.last_width}",
            f"{row.smallest_input}",
            "–" if row.images_per_second is None else f"{row.images_per_second:.1f}",
            row.source,
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    align = ["<", *[">"] * (len(head) - 2), "<"]
    return "\n".join("  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(line, align, widths, strict=True)).rstrip()
                     for line in [head, *lines])  # fmt: skip
