"""Losses with teachers."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.model.dropout import Dropout, seed_masks
from rp2k_lab.model.layers import batch_norm, conv, global_mean
from rp2k_lab.train.distillation import Distillation, WithImages, frozen, kl_divergence
from tests.helpers import numpy_layers
from tests.helpers.losses import CrossEntropy, cross_entropy, log_softmax
from tests.helpers.numpy_layers import draw_parameters

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(6, 3, 8, 8)).astype(np.float32), RNG.integers(0, 5, 6).astype(np.int32)


class Tiny(nn.Cell):
    """A network that differs between training and evaluation."""

    def __init__(self, drop_rate=0.0):
        super().__init__()
        self.conv, self.bn = conv(3, 4, 1), batch_norm(4)
        self.dropout = Dropout(drop_rate) if drop_rate else nn.Identity()
        self.fc = nn.Dense(4, 5)

    def construct(self, images):
        return self.fc(self.dropout(global_mean(self.bn(self.conv(images)))))


def teacher(seed, number, level="O0"):
    network = draw_parameters(Tiny(drop_rate=0.5), seed)
    seed_masks(network, seed)
    return frozen(network, number, level)


def logits_of(network, training=False):
    """Return the network's logits in NumPy, float64 (batch, classes)."""
    x = numpy_layers.conv(IMAGES, numpy_layers.array(network.conv.weight))
    if training:
        network.bn.moving_mean.set_data(Tensor(x.mean((0, 2, 3)).astype(np.float32)))
        network.bn.moving_variance.set_data(Tensor(x.var((0, 2, 3)).astype(np.float32)))
    return numpy_layers.dense(numpy_layers.norm(x, network.bn).mean((2, 3)), network.fc)


def parameters(cell):
    return {p.name: p.asnumpy().copy() for p in cell.get_parameters()}


def distilled(logits, teacher_logits, weight, temperature):
    """Return the loss in NumPy."""
    taught = np.mean([np.exp(log_softmax(each / temperature)) for each in teacher_logits], 0)
    divergence = (taught * (np.log(taught) - log_softmax(logits / temperature))).sum(1).mean()
    return (1 - weight) * cross_entropy(logits, LABELS, 0.1) + weight * temperature**2 * divergence


@pytest.mark.usefixtures("pynative")
class TestDivergence:
    def test_equals_numpy(self):
        p = RNG.dirichlet(np.ones(5), 6).astype(np.float32)
        log_q = log_softmax(RNG.normal(size=(6, 5)))
        expected = (p * (np.log(p) - log_q)).sum(1).mean()
        divergence = kl_divergence(Tensor(p), Tensor(log_q.astype(np.float32)))
        assert float(divergence.asnumpy()) == pytest.approx(expected, rel=1e-5)

    def test_of_equal_distributions_is_zero_and_of_zeros_finite(self):
        p = np.array([[1, 0, 0]], np.float32)
        log_p = np.log(np.maximum(p, 1e-30))
        assert float(kl_divergence(Tensor(p), Tensor(log_p)).asnumpy()) == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("graph_mode")
class TestTraining:
    def train(self, weight, temperature, level):
        """Return (the losses of two steps, the expected first loss, train network, teachers, their parameters)."""
        teachers = [teacher(1, 1, level), teacher(2, 2, level)]
        student = draw_parameters(Tiny(), 3)
        loss = Distillation(CrossEntropy(0.1), teachers, weight, temperature)
        optimizer = nn.Momentum(student.trainable_params(), 0.01, 0.9)
        model = mindspore.Model(WithImages(student), loss, optimizer, amp_level=level, loss_scale_manager=None)
        before = [parameters(each) for each in teachers]
        step = model.train_network.set_train()
        images, labels = Tensor(IMAGES), Tensor(LABELS)
        losses = [float(step(images, labels).asnumpy()) for _ in range(2)]
        return losses, step, teachers, before

    @pytest.mark.parametrize("level", ["O0", pytest.param("O2", marks=pytest.mark.soak)])
    def test_the_loss_has_the_teachers_evaluation_and_leaves_them_as_they_are(self, level):
        """In training mode batch norm would have other statistics, and dropout would drop features."""
        losses, step, teachers, before = self.train(0.3, 4.0, level)
        names = {p.name for p in step.get_parameters()}
        assert not [name for name in names if name.startswith("teacher")]
        for each, values in zip(teachers, before, strict=True):
            assert not each.trainable_params()
            assert {name.partition(".")[0] for name in values} <= {"teacher1", "teacher2"}
            for parameter in each.get_parameters():
                np.testing.assert_array_equal(parameter.asnumpy(), values[parameter.name], err_msg=parameter.name)
        logits = [logits_of(draw_parameters(Tiny(0.5), seed)) for seed in (1, 2)]
        expected = distilled(logits_of(draw_parameters(Tiny(), 3), training=True), logits, 0.3, 4.0)
        assert losses[0] == pytest.approx(expected, rel=1e-5 if level == "O0" else 3e-3)
        assert losses[1] != losses[0]

    @pytest.mark.soak
    def test_a_student_learns_from_teachers_alone(self):
        """With weight 1 the labels have no effect."""
        losses, step, *_ = self.train(1.0, 2.0, "O0")
        images, labels = Tensor(IMAGES), Tensor(LABELS)
        for _ in range(100):
            last = float(step(images, labels).asnumpy())
        assert 0 <= last < 0.1 * losses[0]
