import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn
from pydantic import ValidationError

from rp2k_lab.aug.augmentation import soft_targets
from rp2k_lab.config.choices import choices, defaults_of
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.plugins import options_of
from rp2k_lab.train.loss_cells import build_loss
from rp2k_lab.train.loss_functions import (
    focal_loss,
    logit_adjusted_cross_entropy,
    logit_adjustment,
    smoothed_cross_entropy,
)
from tests.helpers.losses import cross_entropy, log_softmax, smoothed

NAMES = ["cross_entropy", "logit_adjusted", "balanced_softmax", "focal", "binary_cross_entropy"]
COUNTS = np.array([50, 30, 15, 4, 1])
LOG_FRACTIONS = np.log([0.5, 0.3, 0.15, 0.04, 0.01])


class NoMargin:
    head, head_margin_schedule, head_margin_epochs, logit_scale, final_margin = "linear", "constant", 0.0, None, None


def options(name, **keys):
    """Return a choice of conf/loss without label smoothing, unless it is among the keys."""
    return options_of("loss")[name].model_validate(defaults_of("loss", name) | {"label_smoothing": 0.0} | keys)


def build(name, counts=COUNTS, **keys):
    """Return the cell of a choice, as a training builds it."""
    return build_loss(options(name, **keys).build(counts), NoMargin(), 3, 9)


def value(cell, logits, labels):
    loss = cell(Tensor(logits), Tensor(labels))
    assert loss.shape == ()
    assert loss.dtype == mindspore.float32
    return float(loss.asnumpy())


def focal_reference(logits, labels, smoothing, gamma):
    log_p = log_softmax(logits)
    return -(smoothed(labels, logits.shape[1], smoothing) * (1 - np.exp(log_p)) ** gamma * log_p).sum(1).mean()


def binary_reference(logits, labels, smoothing, threshold=None, sum_classes=True):
    """Return timm's BinaryCrossEntropy in NumPy; timm smooths mixed targets before it."""
    targets = smoothed(labels, logits.shape[1], smoothing)
    if threshold is not None:
        targets = (targets > threshold).astype(np.float64)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    losses = -targets * np.log(p) - (1 - targets) * np.log(1 - p)
    return losses.sum(1).mean() if sum_classes else losses.mean()


REFERENCES = {
    "cross_entropy": cross_entropy,
    "logit_adjusted": lambda logits, labels, s: cross_entropy(logits + LOG_FRACTIONS, labels, s),
    "balanced_softmax": lambda logits, labels, s: cross_entropy(logits + LOG_FRACTIONS, labels, s),
    "focal": lambda logits, labels, s: focal_reference(logits, labels, s, 2.0),
    "binary_cross_entropy": binary_reference,
}


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (6, 5)).astype(np.float32), rng.integers(0, 5, 6).astype(np.int32)


@pytest.fixture
def targets():
    """Return targets of mixed images: each row has two classes, or one class twice."""
    return soft_targets(np.array([0, 1, 2, 4, 1, 3], np.int32), np.linspace(0, 1, 6, dtype=np.float32), 5)


def test_these_are_all_the_losses():
    assert sorted(NAMES) == choices("loss")


@pytest.mark.usefixtures("pynative")
class TestEveryLoss:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("smoothing", [0.0, 0.9])
    def test_equals_numpy(self, name, smoothing, batch, targets):
        logits, labels = batch
        cell = build(name, label_smoothing=smoothing)
        for y in (labels, targets):
            assert value(cell, logits, y) == pytest.approx(REFERENCES[name](logits, y, smoothing), rel=1e-5)

    @pytest.mark.parametrize("name", NAMES)
    def test_one_hot_targets_give_the_loss_of_labels(self, name, batch):
        logits, labels = batch
        cell = build(name, label_smoothing=0.1)
        one_hot = np.eye(5, dtype=np.float32)[labels]
        assert value(cell, logits, one_hot) == pytest.approx(value(cell, logits, labels), rel=1e-6)

    @pytest.mark.parametrize("name", NAMES)
    def test_half_precision_logits_are_computed_in_float32(self, name):
        """Float16 would round the log-softmax of 2388 equal logits, -7.778, to a multiple of 1/128."""
        counts, logits = np.ones(2388, int), np.zeros((2, 2388), np.float16)
        cell = build(name, counts, label_smoothing=0.1)
        expected = {"binary_cross_entropy": 2388 * np.log(2), "focal": (1 - 1 / 2388) ** 2 * np.log(2388)}
        for y in (np.zeros(2, np.int32), np.full((2, 2388), 1 / 2388, np.float32)):
            assert value(cell, logits, y) == pytest.approx(expected.get(name, np.log(2388)), rel=1e-5)

    @pytest.mark.parametrize(("name", "dtype"), [*((name, np.float16) for name in NAMES), ("focal", np.float32)])
    def test_gradients_stay_finite(self, name, dtype, targets):
        """The last rows are sure of the label and of another class."""
        logits = np.array(
            [[0, 0, 0, 0, 0], [9, 1, -3, 0, 0], [-60000, 60000, 0, 0, 0], [60000, -60000, 0, 0, 0]], dtype
        )
        cell, scale = build(name, label_smoothing=0.1), 1024.0
        for y in (np.zeros(4, np.int32), targets[:4]):
            loss = lambda x, y=y: cell(x, Tensor(y)) * scale  # noqa: E731
            gradient = mindspore.grad(loss)(Tensor(logits)).asnumpy()
            assert np.isfinite(gradient).all()
            assert np.abs(gradient).max() > 0

    @pytest.mark.parametrize("name", ["logit_adjusted", "focal", "binary_cross_entropy"])
    def test_gradient_by_finite_differences(self, name, batch, targets):
        logits, labels = batch
        cell, step = build(name, label_smoothing=0.1), 1e-5
        for y in (labels, targets):
            gradient = mindspore.grad(lambda x, y=y: cell(x, Tensor(y)))(Tensor(logits)).asnumpy()
            for position in np.ndindex(logits.shape):
                shift = np.zeros(logits.shape)
                shift[position] = step
                above, below = (REFERENCES[name](logits + sign * shift, y, 0.1) for sign in (1, -1))
                assert gradient[position] == pytest.approx((above - below) / (2 * step), abs=2e-6)


LONG = [pytest.param(name, marks=pytest.mark.soak) for name in ("balanced_softmax", "focal", "binary_cross_entropy")]


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize("name", ["cross_entropy", "logit_adjusted", *LONG])
def test_one_cell_compiles_for_labels_and_targets(name, batch, targets):
    """The number of dimensions is known when the graph is compiled."""
    logits, labels = batch
    cell = build(name, label_smoothing=0.1)
    for y in (labels, targets):
        assert value(cell, logits, y) == pytest.approx(REFERENCES[name](logits, y, 0.1), rel=1e-5)


@pytest.mark.soak
@pytest.mark.usefixtures("graph_mode")
def test_functions_of_one_choice_do_not_share_a_graph(batch):
    logits, labels = batch
    for smoothing in (0.0, 0.5, 0.0):
        expected = cross_entropy(logits, labels, smoothing)
        assert value(build("cross_entropy", label_smoothing=smoothing), logits, labels) == pytest.approx(expected)


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize("name", ["focal", "binary_cross_entropy"])
def test_a_step_under_o2(name):
    rng = np.random.default_rng(0)
    net = nn.Dense(4, 5)
    optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
    model = mindspore.Model(net, build(name), optimizer, amp_level="O2", loss_scale_manager=None)
    images, labels = Tensor(rng.normal(size=(6, 4)).astype(np.float32)), Tensor(rng.integers(0, 5, 6).astype(np.int32))
    losses = [float(model.train_network(images, labels).asnumpy()) for _ in range(4)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.usefixtures("pynative")
class TestCrossEntropy:
    def test_gradient_of_soft_targets_is_softmax_minus_target(self, batch, targets):
        logits, _ = batch
        gradient = mindspore.grad(lambda x: smoothed_cross_entropy(x, Tensor(targets), 0.1))(Tensor(logits)).asnumpy()
        softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(gradient, (softmax - 0.9 * targets - 0.1 / 5) / 6, atol=1e-6)

    def test_gradient_is_softmax_minus_target(self, batch):
        logits, labels = batch
        gradient = mindspore.grad(lambda x: smoothed_cross_entropy(x, Tensor(labels), 0.1))(Tensor(logits)).asnumpy()
        softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        target = 0.9 * np.eye(5)[labels] + 0.1 / 5
        np.testing.assert_allclose(gradient, (softmax - target) / len(labels), atol=1e-6)

    def test_large_logits_stay_finite(self):
        logits, labels = np.array([[1000.0, -1000.0]], np.float32), np.array([1], np.int32)
        assert value(build("cross_entropy"), logits, labels) == pytest.approx(2000)

    def test_smoothing_is_a_property_of_the_cell(self, batch):
        assert value(build("cross_entropy"), *batch) != pytest.approx(
            value(build("cross_entropy", label_smoothing=0.5), *batch)
        )


@pytest.mark.usefixtures("pynative")
class TestLogitAdjusted:
    @pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_equals_numpy(self, batch, targets, tau, smoothing):
        logits, labels = batch
        cell = build("logit_adjusted", tau=tau, label_smoothing=smoothing)
        for y in (labels, targets):
            expected = cross_entropy(logits + tau * LOG_FRACTIONS, y, smoothing)
            assert value(cell, logits, y) == pytest.approx(expected, rel=1e-5)

    def test_is_the_papers_equation_with_margins(self, batch):
        """Equation 11: log(1 + sum over y' ≠ y of (π_y' / π_y) ^ tau · exp(f_y' - f_y)), π the class fractions."""
        logits, labels = batch
        fractions, tau = COUNTS / COUNTS.sum(), 1.5
        expected = [
            np.log1p(sum((fractions[o] / fractions[y]) ** tau * np.exp(f[o] - f[y]) for o in range(5) if o != y))
            for f, y in zip(logits.astype(np.float64), labels, strict=True)
        ]
        assert value(build("logit_adjusted", tau=tau), logits, labels) == pytest.approx(np.mean(expected), rel=1e-5)

    def test_tau_zero_is_cross_entropy(self, batch, targets):
        logits, labels = batch
        plain, adjusted = (
            build("cross_entropy", label_smoothing=0.1),
            build("logit_adjusted", tau=0.0, label_smoothing=0.1),
        )
        for y in (labels, targets):
            assert value(adjusted, logits, y) == value(plain, logits, y)

    def test_a_rare_class_has_a_larger_gradient_than_a_frequent_one(self):
        """With equal logits, the label's gradient is its fraction - 1."""
        loss = lambda x: logit_adjusted_cross_entropy(  # noqa: E731
            x, Tensor(np.array([0, 4], np.int32)), 0.0, Tensor(logit_adjustment(COUNTS, 1.0))
        )
        gradient = mindspore.grad(loss)(Tensor(np.zeros((2, 5), np.float32))).asnumpy()
        np.testing.assert_allclose([gradient[0, 0], gradient[1, 4]], [-0.5 / 2, -0.99 / 2], atol=1e-6)

    def test_a_class_without_images_counts_as_one_image(self, batch):
        np.testing.assert_allclose(logit_adjustment(np.array([9, 0]), 2.0), 2 * np.log([0.9, 0.1]), rtol=1e-6)
        assert np.isfinite(value(build("logit_adjusted", np.array([5, 0, 3, 0, 1]), label_smoothing=0.1), *batch))

    def test_half_precision_logits_are_adjusted_in_float32(self):
        """Float16 would round 1000 + log(fraction) to a multiple of 1/2."""
        logits, labels = np.full((1, 2), 1000, np.float16), np.array([1], np.int32)
        assert value(build("logit_adjusted", np.array([9, 1])), logits, labels) == pytest.approx(-np.log(0.1), abs=1e-3)

    def test_balanced_softmax_is_tau_1(self, batch, targets):
        """Ren et al., arXiv 2007.10740, equation 3: n_y exp(f_y) / sum(n_j exp(f_j)), n the class counts."""
        logits, labels = batch
        balanced, adjusted = build("balanced_softmax"), build("logit_adjusted", tau=1.0)
        for y in (labels, targets):
            assert value(balanced, logits, y) == value(adjusted, logits, y)
        weighted = COUNTS * np.exp(logits.astype(np.float64))
        expected = -np.log(weighted[np.arange(6), labels] / weighted.sum(1)).mean()
        assert value(balanced, logits, labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("pynative")
class TestFocal:
    @pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
    def test_equals_numpy(self, batch, targets, gamma):
        logits, labels = batch
        for y in (labels, targets):
            expected = focal_reference(logits, y, 0.1, gamma)
            assert value(build("focal", gamma=gamma, label_smoothing=0.1), logits, y) == pytest.approx(
                expected, rel=1e-5
            )

    def test_is_the_papers_formula(self, batch):
        """Equation 4: -(1 - p_t)^gamma · log(p_t), p_t the probability of the label."""
        logits, labels = batch
        p = np.exp(log_softmax(logits))[np.arange(6), labels]
        expected = (-((1 - p) ** 2) * np.log(p)).mean()
        assert value(build("focal"), logits, labels) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
    def test_a_sure_network_has_a_finite_gradient(self, gamma):
        """The slope of (1 - p)^gamma at p = 1 is infinite for gamma between 0 and 1."""
        loss = lambda x: focal_loss(x, Tensor(np.zeros(3, np.int32)), 0.0, gamma)  # noqa: E731
        logits = np.array([[1000.0, 0.0], [0.0, 1000.0], [20.0, 0.0]], np.float32)
        assert np.isfinite(mindspore.grad(loss)(Tensor(logits)).asnumpy()).all()


@pytest.mark.usefixtures("pynative")
class TestBinaryCrossEntropy:
    @pytest.mark.parametrize(
        ("threshold", "sum_classes", "smoothing"),
        [(None, True, 0.0), (None, False, 0.1), (0.01, True, 0.1), (0.25, False, 0.0), (0.55, True, 0.1)],
    )
    def test_equals_timms(self, batch, targets, threshold, sum_classes, smoothing):
        logits, labels = batch
        keys = {"target_threshold": threshold, "sum_classes": sum_classes, "label_smoothing": smoothing}
        for y in (labels, targets):
            expected = binary_reference(logits, y, smoothing, threshold, sum_classes)
            assert value(build("binary_cross_entropy", **keys), logits, y) == pytest.approx(expected, rel=1e-5)

    def test_at_zero_the_gradient_is_a_half_minus_the_target(self):
        """A classifier of zeros starts there."""
        loss, logits = build("binary_cross_entropy"), Tensor(np.zeros((1, 2), np.float32))
        gradient = mindspore.grad(lambda x: loss(x, Tensor(np.zeros(1, np.int32))))(logits).asnumpy()
        np.testing.assert_allclose(gradient, [[-0.5, 0.5]], atol=1e-6)

    def test_with_a_threshold_a_mixed_image_has_both_classes(self):
        """timm: targets 0.7 and 0.3 both become 1."""
        targets, logits = np.array([[0.7, 0.3, 0]], np.float32), np.zeros((1, 3), np.float32)
        loss = build("binary_cross_entropy", target_threshold=0.2)
        gradient = mindspore.grad(lambda x: loss(x, Tensor(targets)))(Tensor(logits)).asnumpy()
        np.testing.assert_allclose(gradient, [[-0.5, -0.5, 0.5]], atol=1e-6)

    def test_large_logits_stay_finite(self):
        logits, labels = np.array([[1000.0, -1000.0]], np.float32), np.array([1], np.int32)
        assert value(build("binary_cross_entropy"), logits, labels) == pytest.approx(2000)


CHANCE_CASES = [(name, {}) for name in NAMES] + [
    ("focal", {"gamma": 0.5}),
    ("focal", {"gamma": 5.0}),
    ("binary_cross_entropy", {"sum_classes": False}),
]


class TestChance:
    """The chance guard asks the loss for the lowest value of a constant prediction."""

    TARGETS = np.array([0.6, 0.3, 0.1])

    def loss_of(self, name, probabilities, smoothing, keys):
        """Return the mean loss of the constant prediction `probabilities` over images of the classes of TARGETS."""
        target = smoothed(self.TARGETS[None], 3, smoothing)[0]
        if name == "binary_cross_entropy":
            losses = -(target * np.log(probabilities) + (1 - target) * np.log(1 - probabilities))
            return losses.sum() / (1 if keys.get("sum_classes", True) else 3)
        gamma = keys.get("gamma", 2.0) if name == "focal" else 0
        return -(target * (1 - probabilities) ** gamma * np.log(probabilities)).sum()

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize(("name", "keys"), CHANCE_CASES)
    def test_no_constant_prediction_is_below(self, name, keys, smoothing):
        rng = np.random.default_rng(0)
        if name == "binary_cross_entropy":
            guesses = rng.uniform(0.01, 0.99, (20_000, 3))
        else:
            guesses = rng.dirichlet(np.ones(3), 20_000).clip(1e-9, 1 - 1e-9)
        chance = options(name, label_smoothing=smoothing, **keys).chance(self.TARGETS)
        lowest = min(self.loss_of(name, guess, smoothing, keys) for guess in guesses)
        assert chance <= lowest
        assert chance == pytest.approx(lowest, rel=5e-3)

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
    def test_focal_with_equal_classes_is_lowest_at_equal_probabilities(self, gamma):
        expected = (1 - 1 / 2388) ** gamma * np.log(2388)
        assert options("focal", gamma=gamma).chance(np.full(2388, 1 / 2388)) == pytest.approx(expected, rel=1e-9)

    def test_focal_with_gamma_zero_is_the_entropy(self):
        rng = np.random.default_rng(1)
        for targets in (rng.dirichlet(np.ones(2388) * 0.2), np.array([1 - 1e-9, 1e-9]), np.array([0.7, 0.3, 0])):
            entropy = options("cross_entropy").chance(targets)
            assert options("focal", gamma=0.0).chance(targets) == pytest.approx(entropy, rel=1e-6)

    @pytest.mark.parametrize("name", NAMES)
    def test_of_one_class_it_is_zero(self, name):
        assert options(name).chance(np.array([0.0, 1.0])) == pytest.approx(0, abs=1e-9)

    def test_a_threshold_makes_it_unknown(self):
        assert options("binary_cross_entropy", target_threshold=0.2).chance(self.TARGETS) is None


class TestWrongOptions:
    def test_balancing_twice_is_refused(self, compose):
        with pytest.raises(RequestError, match=r"loss=balanced_softmax: dataset\.sampler=class_balanced already"):
            parse(compose("loss=balanced_softmax", "dataset.sampler=class_balanced"))

    def test_the_losses_that_balance(self):
        assert [name for name in NAMES if options(name).balances] == ["logit_adjusted", "balanced_softmax"]

    @pytest.mark.parametrize(
        ("name", "keys"),
        [
            ("focal", {"gamma": -1.0}),
            ("focal", {"label_smoothing": 1.0}),
            ("binary_cross_entropy", {"target_threshold": 1.0}),
            ("binary_cross_entropy", {"target_threshold": 0.0}),
            ("binary_cross_entropy", {"sum_classes": 2}),
            ("cross_entropy", {"temperature": 0.0}),
            ("cross_entropy", {"distillation": 1.5}),
            ("cross_entropy", {"gamma": 2.0}),
        ],
    )
    def test_wrong_values_are_refused(self, name, keys):
        with pytest.raises(ValidationError, match=next(iter(keys))):
            options(name, **keys)
