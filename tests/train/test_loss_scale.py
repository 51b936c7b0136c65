"""The dynamic loss scale: what a skipped step changes, and that a resumed training has its state."""

from itertools import pairwise

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.train.loss_scale_manager import DynamicLossScaleManager

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.device import precision
from rp2k_lab.train import loss_scale
from rp2k_lab.train.checkpoint import load_checkpoint, save_checkpoint
from rp2k_lab.train.loss_scale import INITIAL_SCALE, DynamicScaleStep
from rp2k_lab.train.optimizer.sgd import Sgd
from rp2k_lab.train.schedule.cosine import Cosine
from rp2k_lab.train.updates import Plan, build_optimizer
from tests.helpers.losses import CrossEntropy

pytestmark = pytest.mark.usefixtures("graph_mode")

LABELS = np.arange(8, dtype=np.int32) % 3
# The gradient of a weight is the mean of (probability - target) · input, times the scale.  With the large inputs it
# overflows in float16 at the first scales; the logits fit.
INPUTS = np.random.default_rng(0).choice([-1.0, 1.0], (8, 5)).astype(np.float32)
LARGE = 900 * INPUTS


def build(level: str, **options):
    """Return (a compiled training step of a dense layer, its average)."""

    def dense():
        weight = Tensor(np.random.default_rng(1).normal(0, 1e-4, (3, 5)).astype(np.float32))
        return nn.Dense(5, 3, weight, "zeros")

    net, average = dense(), dense() if "ema_decay" in options else None
    if average:
        net.update_parameters_name("trained.")
    settings = Sgd.model_validate(defaults_of("optimizer", "sgd") | {"lr": 1e-7} | options)
    schedule = Cosine(name="cosine", lr_end=0.0, warmup_epochs=0)
    optimizer, _ = build_optimizer(settings, schedule, net, Plan(1, 20, 8), average)
    network = nn.WithLossCell(precision.cast(net, level), CrossEntropy(0.1))
    return DynamicScaleStep(network, optimizer).set_train()


def run(step, inputs):
    """Return (loss, skipped, next scale, skipped so far) of a step."""
    return tuple(output.asnumpy().item() for output in step(Tensor(inputs), Tensor(LABELS)))


def values(step) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in step.get_parameters()}


def changed(before, after) -> set[str]:
    return {name for name, value in after.items() if (value != before[name]).any()}


SCALING = {"scale_sense", "skipped_steps", "current_iterator_step", "last_overflow_iterator_step"}


def test_steps_are_skipped_until_the_scale_fits():
    step, skipped = build("O2"), 0
    while True:
        before = values(step)
        loss, overflow, scale, count = run(step, LARGE)
        assert np.isfinite(loss)
        if not overflow:
            break
        skipped += 1
        assert (scale, count) == (INITIAL_SCALE / 2**skipped, skipped)
        assert changed(before, values(step)) == SCALING  # neither weights nor the optimizer
    assert count == skipped > 3
    assert changed(before, values(step)) > {"weight", "bias", "global_step", "moments.weight"}


def test_a_training_without_overflow_has_the_bits_of_one_without_scale():
    step, whole = build("float32"), build("float32")
    plain = nn.TrainOneStepCell(whole.network, whole.optimizer).set_train()
    losses = [run(step, INPUTS)[0] for _ in range(5)]
    assert losses == [plain(Tensor(INPUTS), Tensor(LABELS)).asnumpy().item() for _ in range(5)]
    trained, expected = values(step), values(plain)
    assert len(expected) > 5
    assert changed(expected, {name: trained[name] for name in expected}) == set()


BATCHES = [INPUTS, *[LARGE] * 9, INPUTS, INPUTS, LARGE, LARGE]
OPTIONS = {"accumulate_steps": 2, "clip_norm": 0.5, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(outputs of each step, values at the end, folder with a checkpoint of each step) of a training on BATCHES."""
    folder, outputs = tmp_path_factory.mktemp("checkpoints"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scale, "WINDOW", 3)
        step = build("O2", **OPTIONS)
    for i, batch in enumerate(BATCHES):
        outputs.append(run(step, batch))
        save_checkpoint(step, folder / f"{i + 1}.ckpt", i + 1)
    return outputs, values(step), folder


@pytest.mark.parametrize("cut", [pytest.param(i, marks=[] if i == 4 else pytest.mark.soak) for i in range(1, 14)])
def test_a_resumed_training_has_the_scale_and_its_counters(monkeypatch, whole, cut):
    """Bit for bit, with sums and averages: cut in mid-update, among skipped steps, before the scale grows."""
    monkeypatch.setattr(loss_scale, "WINDOW", 3)
    outputs, trained, folder = whole
    scales = [scale for _, _, scale, _ in outputs]
    assert any(later < earlier for earlier, later in pairwise(scales))
    assert any(later > earlier for earlier, later in pairwise(scales))
    resumed = build("O2", **OPTIONS)
    load_checkpoint(resumed, folder / f"{cut}.ckpt")
    assert [run(resumed, batch) for batch in BATCHES[cut:]] == outputs[cut:]
    assert changed(trained, values(resumed)) == set()


def test_mindspore_refuses_its_own_dynamic_scale_on_a_cpu():
    """The reason for `DynamicScaleStep`."""
    net = nn.Dense(5, 3)
    optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
    with pytest.raises(ValueError, match="are supported on device `CPU`"):
        mindspore.Model(net, CrossEntropy(), optimizer, loss_scale_manager=DynamicLossScaleManager())
