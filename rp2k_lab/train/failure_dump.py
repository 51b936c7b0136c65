"""The record of a failed step: its images, learning rate and gradient norm."""

import json
import math
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.build import Training
from rp2k_lab.train.callbacks import TrainingState

_RECENT_LOSSES = 50


class FailureDump:
    """Writer of `failure.json` into the run's folder and artifacts.

    Args:
        folder: the run's folder.
    """

    def __init__(self, training: Training, tracker: MemoryTracker, folder: Path):
        self._training, self._tracker, self._folder = training, tracker, folder

    def __call__(self, state: TrainingState, reason: str) -> str:
        """Write the record of the step of `state`; return a text with the gradient norm and the file."""
        batches, network = self._training.batches, self._training.model.train_network
        epoch, batch = divmod(state.step - 1, state.steps_per_epoch)
        order = batches.order(epoch)
        norm = gradient_norm(network, batches.batch(epoch, order, batch))
        values = {p.name: p.asnumpy() for p in network.get_parameters()}
        broken = [name for name, value in values.items() if not np.isfinite(value).all()]
        # With data sinking only the last loss of a sink is known: any of its steps may have failed.
        first = max(0, batch + 1 - max(1, batches.sink_size))
        images = batches.images_per_step
        record = {
            "what": reason,
            "step": state.step,
            "epoch": state.epoch,
            "loss": state.loss,
            "learning_rate": state.rate,
            "gradient_norm": norm,
            "parameters": len(values),
            "parameters_not_finite": broken,
            "recent_losses": self._tracker.history["train/loss"][-_RECENT_LOSSES:],
            "photos": {
                str(epoch * state.steps_per_epoch + i + 1): [
                    batches.path(row) for row in order[i * images : (i + 1) * images]
                ]
                for i in range(first, batch + 1)
            },
        }
        file = self._folder / "failure.json"
        file.write_text(json.dumps(_to_json(record), indent=1), encoding="utf-8")
        self._tracker.log_artifact(file)
        return f"gradient norm {norm:.3g}; {file} has the step's photos"


def gradient_norm(train_network: nn.Cell, batch: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the Euclidean norm of the loss's gradient over all trained parameters, on a batch with current weights.

    After a NaN loss most weights are NaN, and so is the norm.  The other parameters that the pass changes (statistics
    of batch norm, counters of dropout) are restored.

    Args:
        train_network: the `train_network` of a `mindspore.Model`.
    """
    network, weights = train_network.network, train_network.weights
    trained = {parameter.name for parameter in weights}
    others = [(p, p.asnumpy().copy()) for p in network.get_parameters() if p.name not in trained]
    gradients = _Gradients(network, weights)(*map(Tensor, batch))
    for parameter, value in others:
        parameter.set_data(Tensor(value))
    return math.sqrt(sum(float(np.square(g.asnumpy(), dtype=np.float64).sum()) for g in gradients))


class _Gradients(nn.Cell):
    def __init__(self, network: nn.Cell, weights: mindspore.ParameterTuple):
        super().__init__(auto_prefix=False)
        self.network, self.weights, self.gradient = network, weights, ops.GradOperation(get_by_list=True)

    def construct(self, images, labels):
        return self.gradient(self.network, self.weights)(images, labels)


def _to_json(value):
    """Return a value with NaN and infinity as text, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
