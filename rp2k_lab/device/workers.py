"""Data-parallel training: one worker per device, each with the whole network and its part of every batch.

MindSpore averages the gradients before it calls the optimizer, so accumulation, clipping and averaged weights are the
same on all workers.  This module combines whatever a run decides by (loss, signals, scores): all workers must decide
the same at the same step, because one that stops alone blocks the others for ever.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.core.errors import Interrupted, TrainingDiverged
from rp2k_lab.core.signals import StopSignal, ignore_signals
from rp2k_lab.device.msrun import is_scheduler

_BATCH_STATISTICS = ("moving_mean", "moving_variance")


@dataclass(frozen=True)
class Workers:
    """The workers of a run, seen from one of them; by default a single process.

    Collective methods must be called by every worker, in the same order.

    Attributes:
        rank: number of this worker, from 0.
        world_size: number of workers.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this worker prints and writes."""
        return self.rank == 0

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Return the values of all workers, float32 (world size, *shape); integers above 2²⁴ are rounded."""
        values = np.asarray(values, np.float32)
        if self.world_size == 1:
            return values[None]
        return ops.AllGather()(Tensor(values.ravel())).asnumpy().reshape(self.world_size, *values.shape)

    def shard(self, rows: Sequence[int]) -> list[int]:
        """Return this worker's rows of a split; the first rows are repeated until all shards have the same length."""
        each = -(-len(rows) // self.world_size)
        return [rows[i % len(rows)] for i in range(self.rank * each, (self.rank + 1) * each)]

    def gather_shards(self, part: np.ndarray, num_rows: int) -> np.ndarray:
        """Return the results on all `num_rows` rows from each worker's results on its `shard`, same dtype.

        Args:
            part: (rows of the shard, …), 32 bits an element.
        """
        return self.gather(part).astype(part.dtype).reshape(-1, *part.shape[1:])[:num_rows]

    def broadcast_text(self, text: str) -> str:
        """Return the text of rank 0, at most 4096 bytes of UTF-8; the other texts are ignored."""
        if self.world_size == 1:
            return text
        padded = text.encode().ljust(4096, b"\0")
        return bytes(self.gather(np.frombuffer(padded, np.uint8))[0].astype(np.uint8)).rstrip(b"\0").decode()

    def check(self, signals: StopSignal) -> None:
        """Raise Interrupted on all workers if any of them received a signal."""
        signum = int(self.gather(np.array([signals.signum or 0])).max())
        if signum:
            raise Interrupted(signum)

    def average_batch_statistics(self, net: nn.Cell) -> None:
        """Average the running statistics of batch norms over the workers, each of which saw different images.

        As timm's `--dist-bn reduce`: all workers then evaluate and save the same network.
        """
        statistics = batch_statistics(net)
        if self.world_size > 1 and statistics:
            self._fill(statistics, self.gather(_flat(statistics)).mean(axis=0))

    def broadcast_parameters(self, net: nn.Cell) -> None:
        """Copy the parameters of rank 0 to all workers."""
        if self.world_size > 1:
            parameters = list(net.get_parameters())
            (values,) = ops.Broadcast(0)((Tensor(_flat(parameters)),))
            self._fill(parameters, values.asnumpy())

    @contextmanager
    def exit_together(self) -> Iterator[None]:
        """Wait for rank 0 at the end, also after all workers stopped at the same step.

        `msrun` kills all workers as soon as one ends with an error: by then rank 0 must have completed its record, and
        only rank 0 reports the error.
        """
        try:
            yield
        except (Interrupted, TrainingDiverged) as error:
            self.gather(np.zeros(1))
            if not self.is_rank_zero:
                sys.exit(error.exit_code)
            raise
        self.gather(np.zeros(1))

    @staticmethod
    def _fill(parameters: list[mindspore.Parameter], values: np.ndarray) -> None:
        ends = np.cumsum([p.size for p in parameters])[:-1]
        for parameter, part in zip(parameters, np.split(values, ends), strict=True):
            parameter.set_data(Tensor(part.reshape(parameter.shape), parameter.dtype))


ALONE = Workers()


def batch_statistics(net: nn.Cell) -> list[mindspore.Parameter]:
    """Return the running statistics of a network's batch norms."""
    return [parameter for parameter in net.get_parameters() if parameter.name.endswith(_BATCH_STATISTICS)]


class ParallelOptions(Protocol):
    """The part of a `conf/device` choice that says whether processes train together."""

    @property
    def parallel(self) -> str:
        """none or data."""
        ...


def join_workers(device: ParallelOptions) -> Workers:
    """Connect to the other workers of `msrun` for data-parallel training; with `parallel: none` do nothing.

    Call it after the device is selected and before a network is built.  It does not return in the scheduler's process,
    which ends with the workers.

    Args:
        device: a `conf/device` choice.
    """
    if device.parallel == "none":
        return ALONE
    if is_scheduler():
        # A batch system signals every process of a job; the workers need the scheduler to end cleanly.
        ignore_signals()
    mindspore.communication.init()
    mindspore.set_auto_parallel_context(parallel_mode=mindspore.ParallelMode.DATA_PARALLEL, gradients_mean=True)
    return Workers(mindspore.communication.get_rank(), mindspore.communication.get_group_size())


def _flat(parameters: list[mindspore.Parameter]) -> np.ndarray:
    """Return all values in one float32 vector."""
    return np.concatenate([p.asnumpy().ravel().astype(np.float32) for p in parameters])
