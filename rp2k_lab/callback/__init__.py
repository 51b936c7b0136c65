"""What happens around the steps of `Model.train`, one concern a file."""

from rp2k_lab.callback.agree import Agree
from rp2k_lab.callback.base import Callback, Dispatch, TrainingState
from rp2k_lab.callback.checkpoint import SaveCheckpoints
from rp2k_lab.callback.evaluate import Evaluate
from rp2k_lab.callback.nan_guard import NanGuard
from rp2k_lab.callback.progress import ProgressBar
from rp2k_lab.callback.prune import Prune
from rp2k_lab.callback.stuck_guard import StuckGuard, chance_loss
from rp2k_lab.callback.throughput import Throughput
from rp2k_lab.callback.track import Track

__all__ = [
    "Agree",
    "Callback",
    "Dispatch",
    "Evaluate",
    "NanGuard",
    "ProgressBar",
    "Prune",
    "SaveCheckpoints",
    "StuckGuard",
    "Throughput",
    "Track",
    "TrainingState",
    "chance_loss",
]
