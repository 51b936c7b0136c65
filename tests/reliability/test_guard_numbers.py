"""A loss that is NaN or stays at chance: the run stops and writes failure.json."""

import json
import math

import numpy as np
import pytest
from mindspore import Model, nn

from rp2k_lab.train.failure_dump import gradient_norm
from tests.helpers.tiny_runs import TINY


@pytest.mark.parametrize(
    ("arguments", "step", "messages"),
    [
        (["optimizer.lr=1e38", "schedule.warmup_epochs=0"], None, "loss=nan|loss=inf"),
        (["optimizer.lr=1e-12", "task.chance_guard.epochs=1"], 9, "loss=2"),
    ],
    ids=["nan", "stuck"],
)
def test_failure_dump_has_images_learning_rate_and_gradient(start, arguments, step, messages):
    command = start(*TINY, "epochs=1", *arguments)
    code, _, message = command.wait()
    assert code == 1, message
    assert any(message.startswith(start) for start in messages.split("|")), message
    assert len(message.splitlines()) == 2, message
    (run,) = command.store.runs()
    assert (run.info.status, run.data.tags["status"]) == ("FAILED", "FAILED")
    file = command.store.artifacts(run) / "failure.json"
    assert str(command.folder / "out" / "failure.json") in message
    dump = json.loads(file.read_text())
    assert step in (None, dump["step"])
    ((at, paths),) = dump["photos"].items()
    assert int(at) == dump["step"]
    assert len(set(paths)) == 32
    assert all(path.lower().endswith((".jpg", ".png")) for path in paths)
    assert 0 < dump["learning_rate"] <= 1e38
    if step:
        assert 0.01 < dump["gradient_norm"] < 100
        assert dump["parameters_not_finite"] == []
    else:
        assert dump["gradient_norm"] in ("nan", "inf") or dump["gradient_norm"] > 1e3


class Small(nn.Cell):
    def __init__(self):
        super().__init__()
        self.norm, self.dense = nn.BatchNorm1d(3), nn.Dense(3, 2)

    def construct(self, values):
        return self.dense(self.norm(values))


def test_gradient_norm_equals_numpy_and_changes_no_parameter(graph_mode):
    net = Small().set_train()
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    model = Model(net, loss, nn.Momentum(net.trainable_params(), 0.1, 0.9))
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(8, 3)).astype(np.float32), rng.integers(0, 2, 8).astype(np.int32)
    before = {p.name: p.asnumpy().copy() for p in model.train_network.get_parameters()}
    norm = gradient_norm(model.train_network, (values, labels))
    for parameter in model.train_network.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name], parameter.name)

    # By hand: normalize, softmax, and the gradients of the dense layer and of the norm's scale and shift.
    normal = (values - values.mean(0)) / np.sqrt(values.var(0) + net.norm.eps)
    weight, bias = before["dense.weight"], before["dense.bias"]
    logits = normal @ weight.T + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    of_logits = (probabilities - np.eye(2)[labels]) / len(labels)
    of_normal = of_logits @ weight
    gradients = [of_logits.T @ normal, of_logits.sum(0), (of_normal * normal).sum(0), of_normal.sum(0)]
    assert norm == pytest.approx(math.sqrt(sum(np.square(g).sum() for g in gradients)), rel=1e-4)
