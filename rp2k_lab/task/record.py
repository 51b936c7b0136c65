"""The record of a run: its tracker, and the lines that close its output."""

from pathlib import Path

from rp2k_lab.config.schema import Config
from rp2k_lab.core.text import escape_controls
from rp2k_lab.device.workers import ALONE, Workers
from rp2k_lab.task.run_name import run_name
from rp2k_lab.tracking.local_runs import check_unused
from rp2k_lab.tracking.tracker import MemoryTracker


def open_tracker(
    config: Config, name: str | None, folder: Path, workers: Workers = ALONE, run_id: str | None = None
) -> MemoryTracker:
    """Return the run's tracker; on other ranks than 0, one in memory.

    Args:
        name: the run's name; None: see `run_name`.
        folder: the run's folder, for the journal.
        run_id: the run to reopen; None: a new run.

    Raises:
        RequestError: the folder of a new run holds a training.
    """
    if not workers.is_rank_zero:
        return MemoryTracker()
    if run_id is None:
        check_unused(folder)
    return config.tracking.build(config.tracking.run_name or name or run_name(config), folder, run_id)


def print_closing_lines(tracker: MemoryTracker, folder: Path, best: Path | None = None) -> None:
    """Print the closing lines; `best` is the checkpoint of a task that trains."""
    print(f"\nrun         {escape_controls(tracker.run_name)}, id {tracker.run_id}")
    print(f"checkpoint  {best}\nfigures     {folder / 'figures'}" if best else f"folder      {folder}")
    print("\n".join(f"{'' if i else 'next':12}{line}" for i, line in enumerate(tracker.next_steps())))
