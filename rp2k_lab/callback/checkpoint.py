"""Checkpoints: the last state to go on from, and the best weights."""

from pathlib import Path

from mindspore import nn

from rp2k_lab.callback.base import Callback
from rp2k_lab.checkpoint import save_checkpoint


class SaveCheckpoints(Callback):
    """`last.ckpt` (weights, optimizer, step) after each epoch and when stopped; `best.ckpt` (weights) at a new best.

    Args:
        folder: where they are written, each whole or not at all.
        train_network: the network with loss and optimizer.
        network: what is evaluated.
    """

    def __init__(self, folder: Path, train_network: nn.Cell, network: nn.Cell):
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self._train_network, self._network = train_network, network

    def step_end(self, state):
        if state.stop and state.step % state.steps_per_epoch:
            self._save_last(state)

    def epoch_end(self, state):
        self._save_last(state)
        if state.best and state.best[1] == state.step:
            save_checkpoint(self._network, self.best, step=state.step)

    def _save_last(self, state):
        save_checkpoint(self._train_network, self.last, step=state.step)
