"""Every model against its reference implementation in PyTorch (tests/parity/reference.npz, written by make.py)."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab import PROJECT
from rp2k_lab.model import create_model, list_models, load_torch_weights
from rp2k_lab.model.weights import torch_names
from tests.helpers import parity_inputs
from tests.helpers.losses import CrossEntropy
from tests.helpers.zoo import SLOW

# These have no part that another network of the list has not: SE-ResNeXt, ConvNeXt (layer scale) and ViT-S.
_COVERED = ("resnet101", "seresnet50", "vit_small_dinov2")
NAMES = [pytest.param(name, marks=[pytest.mark.soak] * (name in _COVERED)) for name in list_models()]


@pytest.fixture(scope="module")
def reference():
    with np.load(PROJECT / "tests" / "parity" / "reference.npz") as file:
        return dict(file)


def shapes(reference, name) -> dict[str, tuple[int, ...]]:
    """Return the reference's parameter names to shapes, at 1000 classes."""
    pairs = zip(reference[f"{name}/names"], reference[f"{name}/shapes"], strict=True)
    return {str(key): tuple(int(n) for n in shape.split(",")) for key, shape in pairs}


def drawn_state(reference, name, num_classes=1000) -> dict[str, np.ndarray]:
    sizes = shapes(reference, name)
    classifier = list(sizes)[-1].rpartition(".")[0]
    sizes |= {k: (num_classes, *v[1:]) for k, v in sizes.items() if k.startswith(f"{classifier}.")}
    return {key: parity_inputs.draw_weight(key, shape) for key, shape in sizes.items()}


def by_reference_name(net, state) -> dict[str, mindspore.Parameter]:
    """Return our parameters by the reference's names, in its order."""
    parameters = torch_names._parameters(net)
    return {original: parameters[name] for name, (original, _) in torch_names.renamed(state).items()}


def logits_key(name, size) -> str:
    return f"{name}/logits_{size[0]}x{size[1]}"


def relative_difference(values, reference) -> float:
    """Return the largest difference as a fraction of the reference's standard deviation."""
    return float(np.abs(values - reference).max() / reference.std())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("pynative", "undrawn")
def test_logits_equal_the_reference(reference, name):
    net = create_model(name, 1000).set_train(False)
    match = load_torch_weights(net, drawn_state(reference, name))
    assert (match.missing, match.unexpected, match.other_shape) == ([], [], [])
    sizes = [size for size in parity_inputs.evaluation_sizes(name) if logits_key(name, size) in reference]
    assert sizes[0] == parity_inputs.evaluation_sizes(name)[0]
    for size in sizes:
        expected = reference[logits_key(name, size)]
        logits = net(Tensor(parity_inputs.draw_images(2, size))).asnumpy()
        assert relative_difference(logits, expected) < 1e-3, size
        assert np.abs(expected[0] - expected[1]).max() > 0.03 * expected.std(), "the logits hardly depend on the image"


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.usefixtures("graph_mode")
def test_a_training_step_equals_the_reference_and_lowers_the_loss(reference, name):
    """Graph mode; loss, running statistics, first and last weights after one step of SGD on one batch."""
    net = create_model(name, parity_inputs.TRAINING_CLASSES)
    state = drawn_state(reference, name, parity_inputs.TRAINING_CLASSES)
    load_torch_weights(net, state)
    parameters = by_reference_name(net, state)
    matrices = [key for key, parameter in parameters.items() if parameter.ndim > 1]
    stem, classifier = parameters[parity_inputs.first_weight(matrices)], parameters[matrices[-1]]
    drawn_stem = stem.asnumpy().copy()
    optimizer = nn.Momentum(net.trainable_params(), parity_inputs.learning_rate(name), 0.9)
    step = mindspore.Model(
        net, CrossEntropy(parity_inputs.SMOOTHING), optimizer, amp_level="O0"
    ).train_network.set_train()
    images = parity_inputs.draw_images(parity_inputs.TRAINING_BATCH, parity_inputs.training_size(name))
    batch = Tensor(images), Tensor(parity_inputs.draw_labels())
    expected = {key: reference[f"{name}/{key}"] for key in ("loss", "statistics", "stem", "classifier")}

    first = float(step(*batch).asnumpy())
    assert first == pytest.approx(float(expected["loss"]), rel=1e-3)
    moved, drawn = parity_inputs.probe(stem.asnumpy(), 512), parity_inputs.probe(drawn_stem, 512)
    assert relative_difference(moved, expected["stem"]) < 1e-3
    assert relative_difference(moved - drawn, expected["stem"] - drawn) < 0.05
    assert relative_difference(parity_inputs.probe(classifier.asnumpy(), 512), expected["classifier"]) < 1e-3
    statistics = [parity_inputs.probe(parameters[key].asnumpy(), 16) for key in state if "running_" in key]
    if statistics:
        assert relative_difference(np.concatenate(statistics), expected["statistics"]) < 1e-3

    assert float(step(*batch).asnumpy()) < first
    for parameter in step.get_parameters():  # MindSpore keeps what it has compiled: 10 GB for eleven models
        parameter.set_data(Tensor(np.zeros(1, np.float32)), slice_shape=True)
