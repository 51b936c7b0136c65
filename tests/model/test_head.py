"""Heads of cosines, and the options of all heads."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from pydantic import ValidationError

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.model import create_model
from rp2k_lab.model.head import HEADS, HeadOptions
from rp2k_lab.model.network import CosineClassifier, Head, classifier_of
from rp2k_lab.train.build import create_network
from tests.helpers import numpy_layers

COSINES = [head for head, kind in HEADS.items() if kind.scale]
TINY = {"width_multiplier": 0.125, "depth_multiplier": 0.25}


def cosines(features, weights, subcenters=1):
    """Return the largest cosine of each class, float64 (batch, classes)."""
    features, weights = features.astype(np.float64), weights.astype(np.float64)
    norms = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(weights, axis=1)
    return (features @ weights.T / norms).reshape(len(features), -1, subcenters).max(2)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize(("scale", "subcenters"), [(30.0, 1), (64.0, 3)])
def test_a_cosine_classifier_equals_numpy(scale, subcenters):
    cell = numpy_layers.draw_parameters(CosineClassifier(6, 4, scale, subcenters))
    assert (cell.in_channels, cell.out_channels, cell.weight.shape) == (6, 4, (4 * subcenters, 6))
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    logits = cell(Tensor(x)).asnumpy()
    np.testing.assert_allclose(logits, scale * cosines(x, cell.weight.asnumpy(), subcenters), rtol=1e-5, atol=1e-5)
    assert np.abs(logits).max() <= scale * (1 + 1e-6)


@pytest.mark.usefixtures("pynative")
def test_features_of_zeros_give_zeros_and_finite_gradients():
    cell, zeros = numpy_layers.draw_parameters(CosineClassifier(6, 4, 30.0)), Tensor(np.zeros((2, 6), np.float32))
    assert not cell(zeros).asnumpy().any()
    assert np.isfinite(mindspore.grad(lambda x: cell(x).sum())(zeros).asnumpy()).all()


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize("level", ["O2", pytest.param("O3", marks=pytest.mark.soak)])
def test_cosines_stay_in_float32_under_mixed_precision(level):
    """In float16 the logits would differ by up to 30 · 2⁻¹¹ = 0.015."""
    x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float16)
    head = numpy_layers.draw_parameters(Head(64, 9, classifier=classifier_of("cosine", None, None)))
    weights = head.fc.weight.asnumpy()
    logits = mindspore.amp.auto_mixed_precision(head, level)(Tensor(x.reshape(5, 64, 1, 1))).asnumpy()
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, 30 * cosines(x, weights), rtol=1e-5, atol=1e-5)


class TestCreateModel:
    pytestmark = pytest.mark.slow

    def test_a_linear_head_is_the_default_and_has_the_same_weights(self):
        plain, linear = create_model("resnet18", 5, **TINY), create_model("resnet18", 5, head="linear", **TINY)
        for one, other in zip(plain.get_parameters(), linear.get_parameters(), strict=True):
            assert one.name == other.name
            np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
        assert [p.name for p in plain.head.get_parameters()] == ["fc.weight", "fc.bias"]

    @pytest.mark.parametrize("head", COSINES)
    def test_a_cosine_head_has_weights_alone(self, head):
        net = create_model("resnet18", 5, head=head, **TINY)
        assert [(p.name, p.shape) for p in net.head.get_parameters()] == [
            ("fc.weight", (5 * HEADS[head].subcenters, 64))
        ]
        assert net.head.fc.scale == HEADS[head].scale
        assert 0.5 < np.abs(net.head.fc.weight.asnumpy()).max() * np.sqrt(64) <= 1

    def test_scale_and_subcenters(self):
        net = create_model("resnet18", 5, head="subcenter_arcface", head_scale=16.0, head_subcenters=2, **TINY)
        assert (net.head.fc.scale, net.head.fc.weight.shape) == (16.0, (10, 64))

    def test_with_head_width(self):
        net = create_model("resnet18", 5, head="arcface", head_width=24, **TINY)
        assert net.head.fc.weight.shape == (5, 24)

    def test_an_unknown_head_is_refused(self):
        with pytest.raises(ValueError, match=r"model\.head=softmax: no such head\nuse one of linear, cosine, arcface"):
            create_model("resnet18", 5, head="softmax")

    def test_the_options_reach_the_network(self, compose):
        overrides = ("model.head=subcenter_arcface", "model.head_scale=20.0", "model.head_margin=0.3")
        network = create_network(parse(compose("model.width_multiplier=0.125", *overrides)), 4)
        assert (network.head.fc.scale, network.head.fc.subcenters) == (20.0, 3)


DEFAULTS = {key: value for key, value in defaults_of("model", "resnet18").items() if key in HeadOptions.model_fields}


@pytest.mark.parametrize(
    ("keys", "scale", "margin"),
    [
        ({"head": "linear"}, None, None),
        ({"head": "cosine"}, 30, None),
        ({"head": "arcface"}, 64, 0.5),
        ({"head": "cosface"}, 64, 0.35),
        ({"head": "subcenter_arcface"}, 64, 0.5),
        ({"head": "arcface", "head_scale": 16.0, "head_margin": 0.0}, 16, 0),
    ],
)
def test_defaults_are_the_papers(keys, scale, margin):
    model = HeadOptions.model_validate(DEFAULTS | keys)
    assert (model.logit_scale, model.final_margin) == (scale, margin)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"head_scale": 9.0}, "model.head_scale=9: model.head=linear has no cosines to scale\nuse model.head=cosine"),
        ({"head_margin": 0.1}, "model.head=linear: has no margin\nuse model.head=arcface"),
        ({"head": "cosine", "head_margin": 0.0}, "model.head=cosine: has no margin"),
        ({"head": "cosine", "head_margin_schedule": "linear"}, "model.head=cosine: has no margin"),
        ({"head_margin_epochs": 1.0}, "model.head=linear: has no margin"),
        (
            {"head": "arcface", "head_subcenters": 2},
            "model.head_subcenters=2: model.head=arcface has one weight a class",
        ),
        (
            {"head": "arcface", "head_margin_schedule": "linear"},
            "model.head_margin_schedule=linear: conflicts with model.head_margin_epochs=0\nadd model.head_margin",
        ),
        (
            {"head": "arcface", "head_margin_epochs": 2.0},
            "model.head_margin_schedule=constant: conflicts with model.head_margin_epochs=2\nadd model.head_margin_sch",
        ),
    ],
)
def test_contradictions_are_refused(keys, message):
    with pytest.raises(RequestError) as error:
        HeadOptions.model_validate(DEFAULTS | keys)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "keys",
    [
        {"head": "softmax"},
        {"head": "arcface", "head_margin": 3.2},
        {"head": "arcface", "head_margin": -0.1},
        {"head": "subcenter_arcface", "head_subcenters": 0},
        {"head": "cosine", "head_scale": 0.0},
    ],
)
def test_values_out_of_range_are_refused(keys):
    with pytest.raises(ValidationError, match=list(keys)[-1]):
        HeadOptions.model_validate(DEFAULTS | keys)
