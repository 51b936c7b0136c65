"""Callbacks of `Model.train`, one concern a file."""

from rp2k_lab.train.callbacks.base import Callback, Dispatch, TrainingState
from rp2k_lab.train.callbacks.chance_guard import ChanceGuard, mean_target
from rp2k_lab.train.callbacks.checkpoint import SaveCheckpoints
from rp2k_lab.train.callbacks.evaluate import Evaluate
from rp2k_lab.train.callbacks.log_metrics import LogMetrics
from rp2k_lab.train.callbacks.nan_guard import NanGuard
from rp2k_lab.train.callbacks.progress import ProgressBar
from rp2k_lab.train.callbacks.prune import Prune
from rp2k_lab.train.callbacks.sync_workers import SyncWorkers
from rp2k_lab.train.callbacks.system_metrics import SystemMetrics
from rp2k_lab.train.callbacks.throughput import Throughput

__all__ = [
    "Callback",
    "ChanceGuard",
    "Dispatch",
    "Evaluate",
    "LogMetrics",
    "NanGuard",
    "ProgressBar",
    "Prune",
    "SaveCheckpoints",
    "SyncWorkers",
    "SystemMetrics",
    "Throughput",
    "TrainingState",
    "mean_target",
]
