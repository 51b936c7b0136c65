"""Margins of heads, in front of a loss."""

from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.model.head import HEADS
from rp2k_lab.train.checkpoint import load_checkpoint, save_checkpoint
from rp2k_lab.train.loss_cells import MarginSchedule, add_to_angle, build_loss, subtract_from_cosine
from rp2k_lab.train.loss_functions import smoothed_cross_entropy
from tests.helpers.losses import cross_entropy

MARGINS = [head for head, kind in HEADS.items() if kind.margin]


def build(head, scale=16.0, margin=0.5, schedule="constant", epochs=0.0, steps=100):
    """Return a cross-entropy behind the margin of a head, with four steps an epoch."""
    options = SimpleNamespace(
        head=head, head_margin_schedule=schedule, head_margin_epochs=epochs, logit_scale=scale, final_margin=margin
    )

    def loss(logits, labels):
        return smoothed_cross_entropy(logits, labels, 0.1)

    return build_loss(loss, options, 4, steps)


def moved(cosine, shift, head):
    """Return the cosines with margins in NumPy, float64."""
    if head == "cosface":
        return cosine - shift
    angle = np.arccos(cosine)
    return np.where(angle + shift < np.pi, np.cos(angle + shift), cosine - shift * np.sin(shift))


@pytest.fixture
def batch():
    """Cosines and labels, int32 (6,), with an angle beyond π - margin; targets of mixed images."""
    rng = np.random.default_rng(0)
    cosine, labels = rng.uniform(-0.99, 0.99, (6, 5)).astype(np.float32), np.array([0, 1, 2, 3, 4, 0], np.int32)
    cosine[0, 0] = -0.99
    targets = 0.7 * np.eye(5, dtype=np.float32)[labels] + 0.3 * np.eye(5, dtype=np.float32)[labels[::-1]]
    return cosine, labels, targets.astype(np.float32)


@pytest.mark.usefixtures("pynative")
class TestMargin:
    @pytest.mark.parametrize("head", MARGINS)
    def test_equals_numpy(self, head, batch):
        cosine, labels, targets = batch
        loss = build(head)
        for y, shift in ((labels, 0.5 * np.eye(5)[labels]), (targets, 0.5 * targets)):
            expected = cross_entropy(16 * moved(cosine.astype(np.float64), shift, head), y, 0.1)
            assert float(loss(Tensor(16 * cosine), Tensor(y)).asnumpy()) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("head", MARGINS)
    def test_a_margin_of_zero_is_the_plain_loss(self, head, batch):
        cosine, labels, _ = batch
        loss = build(head, margin=0.0)(Tensor(16 * cosine), Tensor(labels))
        assert float(loss.asnumpy()) == pytest.approx(cross_entropy(16 * cosine, labels, 0.1), rel=1e-6)

    def test_arcface_is_monotone_in_the_angle(self):
        """Without its second branch the cosine would rise beyond π - margin."""
        angles = np.linspace(1e-3, np.pi - 1e-3, 1000)
        shift = Tensor(np.full((1000, 1), 0.5, np.float32))
        cosine = add_to_angle(Tensor(np.cos(angles).astype(np.float32)[:, None]), shift).asnumpy()[:, 0]
        assert (np.diff(cosine) < 0).all()
        inside = angles + 0.5 < np.pi
        np.testing.assert_allclose(cosine[inside], np.cos(angles + 0.5)[inside], atol=1e-3)

    def test_only_the_targets_get_a_margin(self):
        cosine = np.array([[0.3, 0.5, -1.0, 1.0]], np.float32)
        shift = np.array([[0.4, 0, 0, 0]], np.float32)
        for change, expected in ((add_to_angle, np.cos(np.arccos(0.3) + 0.4)), (subtract_from_cosine, -0.1)):
            result = change(Tensor(cosine), Tensor(shift)).asnumpy()
            np.testing.assert_allclose(result, [[expected, 0.5, -1.0, 1.0]], atol=1e-6)

    @pytest.mark.parametrize("head", MARGINS)
    def test_gradients_are_finite_at_all_angles(self, head):
        """At angles of 0 and π the slope of the sine is infinite; rounding gives cosines beyond 1."""
        logits = 64 * np.array([[1, -1, 0], [-1, 1, 0], [1 + 1e-6, -1 - 1e-6, 1], [0, 0, 0]], np.float32)
        loss, labels = build(head, 64.0), Tensor(np.zeros(4, np.int32))
        gradient = mindspore.grad(lambda x: loss(x, labels) * 1024.0)(Tensor(logits)).asnumpy()
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0

    def test_half_precision_logits_are_moved_in_float32(self):
        loss = build("arcface", 64.0)(Tensor(np.full((1, 2), 32, np.float16)), Tensor(np.zeros(1, np.int32)))
        assert loss.dtype == mindspore.float32
        expected = cross_entropy(64 * np.array([[np.cos(np.pi / 3 + 0.5), 0.5]]), np.zeros(1, int), 0.1)
        assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("pynative")
class TestSchedule:
    def margins(self, *options, steps=7):
        cell = MarginSchedule(*options)
        margins = [cell() for _ in range(steps)]
        return [margin.asnumpy().item() if cell.rises else margin for margin in margins]

    def test_linear(self):
        expected = 0.5 * np.minimum(np.arange(7) / 4, 1)
        np.testing.assert_allclose(self.margins(0.5, "linear", 4), expected, rtol=1e-6)

    def test_cosine(self):
        expected = 0.5 * (1 - np.cos(np.pi * np.minimum(np.arange(7) / 4, 1))) / 2
        np.testing.assert_allclose(self.margins(0.5, "cosine", 4), expected, atol=1e-7)

    def test_constant(self):
        assert self.margins(0.5, "constant", 0) == [0.5] * 7
        assert not list(MarginSchedule(0.5, "constant", 0).get_parameters())

    def test_epochs_may_be_fractional_and_end_with_the_run(self):
        """Four steps an epoch."""
        assert build("arcface", schedule="linear", epochs=1.5).margin.rise == 6
        assert build("arcface", schedule="linear", epochs=30.0, steps=20).margin.rise == 20
        assert not build("arcface", schedule="linear", epochs=0.1).margin.rises


def test_heads_without_a_margin_leave_the_loss_alone():
    for head, scale in (("linear", None), ("cosine", 30.0)):
        cell = build(head, scale, None)
        assert not list(cell.get_parameters())
        assert not hasattr(cell, "margin")


@pytest.mark.usefixtures("graph_mode")
def test_a_resumed_training_has_the_same_margins(tmp_path):
    """The step of the schedule is saved with weights and optimizer."""
    rng = np.random.default_rng(0)
    images, labels = Tensor(rng.normal(size=(6, 4)).astype(np.float32)), Tensor(rng.integers(0, 5, 6).astype(np.int32))

    def training():
        mindspore.set_seed(0)
        net = nn.Dense(4, 5, activation="tanh")
        loss = build("arcface", scale=1.0, schedule="cosine", epochs=1.5)
        optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
        assert [p.name for p in net.trainable_params()] == ["weight", "bias"]
        return mindspore.Model(net, loss, optimizer, amp_level="O2", loss_scale_manager=None).train_network

    one = training()
    losses = [float(one(images, labels).asnumpy()) for _ in range(3)]
    save_checkpoint(one, tmp_path / "step.ckpt", 3)
    losses += [float(one(images, labels).asnumpy()) for _ in range(4)]
    other = training()
    assert load_checkpoint(other, tmp_path / "step.ckpt") == 3
    assert [float(other(images, labels).asnumpy()) for _ in range(4)] == losses[3:]
    assert [p.asnumpy().item() for p in other.get_parameters() if p.name == "margin_step"] == [7]
