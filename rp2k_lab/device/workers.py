"""Data-parallel training: a worker a device, each with the whole network and its share of every batch.

MindSpore takes the mean of the workers' gradients before the optimizer is called, so that accumulation, clipping and
averaged weights are the same everywhere.  What a run decides by (loss, signals, scores) is put together here: all
workers go the same way at the same step, since one that left the others would have them wait for ever.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.core.errors import Interrupted, TrainingDiverged
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.device.msrun import is_scheduler

_BATCH_STATISTICS = ("moving_mean", "moving_variance")


@dataclass(frozen=True)
class Workers:
    """The workers of a run, seen by one of them; by default a process on its own.

    A method that speaks of all workers is to be called by each of them, in the same order.

    Attributes:
        rank: this worker's number, from 0.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this worker is the one that prints and writes."""
        return self.rank == 0

    def gather(self, values: np.ndarray) -> np.ndarray:
        """What each worker has, float32 (count, *shape); integers above 2²⁴ are rounded."""
        values = np.asarray(values, np.float32)
        if self.count == 1:
            return values[None]
        return ops.AllGather()(Tensor(values.ravel())).asnumpy().reshape(self.count, *values.shape)

    def shard(self, rows: Sequence[int]) -> list[int]:
        """This worker's rows of a split: as many as any other has, for which the first rows are seen twice."""
        each = -(-len(rows) // self.count)
        return [rows[i % len(rows)] for i in range(self.rank * each, (self.rank + 1) * each)]

    def gather_shards(self, part: np.ndarray, count: int) -> np.ndarray:
        """From results on each worker's `share` those on all `count` rows, of the dtype of `part`.

        Args:
            part: (rows of the share, …), 32 bits an element.
        """
        return self.gather(part).astype(part.dtype).reshape(-1, *part.shape[1:])[:count]

    def broadcast_text(self, text: str) -> str:
        """What the first worker says; what the others give is not used.  At most 4096 bytes of UTF-8."""
        if self.count == 1:
            return text
        said = text.encode().ljust(4096, b"\0")
        return bytes(self.gather(np.frombuffer(said, np.uint8))[0].astype(np.uint8)).rstrip(b"\0").decode()

    def check(self, signals: StopSignal) -> None:
        """Raise Interrupted on all workers if any of them has heard a signal."""
        signum = int(self.gather(np.array([signals.signum or 0])).max())
        if signum:
            raise Interrupted(signum)

    def average_batch_statistics(self, net: nn.Cell) -> None:
        """Give all workers the mean of their batch norms' running statistics, which are of each one's photos.

        As timm's `--dist-bn reduce`: what is evaluated and saved is then one network, and no worker's own.
        """
        statistics = [p for p in net.get_parameters() if p.name.endswith(_BATCH_STATISTICS)]
        if self.count > 1 and statistics:
            self._fill(statistics, self.gather(_flat(statistics)).mean(axis=0))

    def broadcast_parameters(self, net: nn.Cell) -> None:
        """Give all workers the parameters that the first one has."""
        if self.count > 1:
            parameters = list(net.get_parameters())
            (values,) = ops.Broadcast(0)((Tensor(_flat(parameters)),))
            self._fill(parameters, values.asnumpy())

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Wait for the first worker at the end, also where all were stopped at the same step.

        `msrun` kills every worker as soon as one has ended with an error; the first one's record must be whole by then,
        and it alone says what happened.
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


def join_workers(device) -> Workers:
    """Meet the other workers of `msrun` and have MindSpore train with them; with `parallel: none`, nothing.

    To be called after the device was selected and before a network is built.  In the scheduler's process it does not
    return: that ends with the workers.
    """
    if device.parallel == "none":
        return ALONE
    if is_scheduler():
        # A batch system signals every process of a job; the workers need this one for their orderly end.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mindspore.communication.init()
    mindspore.set_auto_parallel_context(parallel_mode=mindspore.ParallelMode.DATA_PARALLEL, gradients_mean=True)
    return Workers(mindspore.communication.get_rank(), mindspore.communication.get_group_size())


def _flat(parameters: list[mindspore.Parameter]) -> np.ndarray:
    """All values in one vector, float32."""
    return np.concatenate([p.asnumpy().ravel().astype(np.float32) for p in parameters])
