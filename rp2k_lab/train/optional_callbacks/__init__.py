"""Callbacks that a run adds by name: `callback=early_stopping`, `callback=[a,b]`.  One file each."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rp2k_lab.core.options import Group

if TYPE_CHECKING:
    from rp2k_lab.device.workers import Workers
    from rp2k_lab.tracking.tracker import MemoryTracker
    from rp2k_lab.train.build import Training
    from rp2k_lab.train.callbacks.base import Callback


@dataclass(frozen=True)
class CallbackContext:
    """What a callback may read and write.

    Attributes:
        training: network, model and batches.
        tracker: the run's record; `history` has every metric logged so far, also those before a resume (rank 0).
        folder: the run's folder.
        workers: the ranks; only rank 0 writes.
    """

    training: "Training"
    tracker: "MemoryTracker"
    folder: Path
    workers: "Workers"


class CallbackOptions(Group):
    """The options of a callback; a choice declares `name` and its own keys."""

    if TYPE_CHECKING:
        name: str  # each choice declares its own

    @abstractmethod
    def build(self, context: CallbackContext) -> "Callback":
        """Return the callback; it runs after evaluation and logging, before the checkpoint of an epoch."""
