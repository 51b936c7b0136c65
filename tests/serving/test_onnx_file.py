"""ONNX files with a dynamic batch."""

import math

import numpy as np
import onnx
import pytest
from mindspore import Tensor, nn, ops

from rp2k_lab.evaluation.outputs import Outputs
from rp2k_lab.model import WithPreprocessing, create_model, layers
from rp2k_lab.serving import onnx_file
from rp2k_lab.task.export import probe_images


class Pooled(nn.Cell):
    """uint8 (batch, height, width, 3) to three outputs by any activation, one of which the graph reads."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def construct(self, images):
        means = self.act(images.astype("float32") / 255.0).mean((1, 2))
        return means, means.max(axis=1), means * 2.0


class Reciprocal(nn.Cell):
    def construct(self, x):
        return ops.reciprocal(x + 1.0)


class TimesBatch(nn.Cell):
    """No function of one image: a factor is the batch size."""

    def construct(self, x):
        return x * x.shape[0]


@pytest.fixture
def images(graph_mode, tmp_path, monkeypatch):
    """uint8 (17, 8, 8, 3), in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return probe_images((17, 8, 8, 3))


def outputs_of(network, images):
    return [array.asnumpy() for array in network(Tensor(images))]


def write(network, images, **options):
    network = network.set_train(False)
    return onnx_file.write_onnx(network, images, outputs_of(network, images), **options)


def test_operator_without_onnx_form_is_named(images, tmp_path):
    written = write(Pooled(Reciprocal()), images)
    assert written.difference is None
    assert written.problem.endswith("exporter has no form for Reciprocal")
    assert not list(tmp_path.iterdir())


def test_exact_gelu_is_exported_without_erf(images):
    written = write(Pooled(layers.GELU()), images)
    assert (written.problem, written.fixed_batch) == (None, None)
    assert written.difference < 1e-6


def test_layer_norm_is_exported(images):
    written = write(Pooled(layers.LayerNorm(3)), images)
    assert (written.problem, written.fixed_batch) == (None, None)
    assert written.difference < 1e-6


def test_batch_that_cannot_be_dynamic_is_fixed_with_its_reason(images, tmp_path):
    written = write(Pooled(TimesBatch()), images, batch_size=17)
    assert written.problem is None
    assert "depends on the batch size" in written.fixed_batch
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    graph = onnx.load("model.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 17
    assert [output.name for output in graph.output] == list(onnx_file.OUTPUTS)


def test_files_with_other_outputs_are_deleted(images, tmp_path):
    network = Pooled(nn.ReLU())
    wrong = [array + 0.01 for array in outputs_of(network, images)]
    assert "differ by 0.01" in onnx_file.write_onnx(network, images, wrong).problem
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", (64, 64)),
        ("seresnext50", (64, 64)),
        ("resnet50_bam", (64, 64)),
        ("resnet50_cbam", (64, 64)),
        ("efficientnet_b0", (64, 64)),
        ("efficientnet_lite0", (64, 64)),
        ("inception_resnet_v2", (96, 96)),
        ("convnext_tiny", (64, 96)),
        ("swin_tiny", (64, 96)),
        ("vit_small", (224, 224)),
        ("vit_small_dinov2", (70, 98)),
    ],
)
def test_every_kind_of_network_has_a_dynamic_batch(images, name, size):
    """Also a position table that is resized inside the graph."""
    network = Outputs(WithPreprocessing(create_model(name, 5, depth_multiplier=0.25), (0.5,) * 3, (0.2,) * 3))
    written = write(network, probe_images((17, *size, 3)))
    assert (written.problem, written.fixed_batch) == (None, None)
    assert written.difference < 1e-4


def test_erf_free_gelu_is_gelu(graph_mode):
    x = np.linspace(-8, 8, 4001).astype(np.float32)
    expected = [v / 2 * (1 + math.erf(v / 2**0.5)) for v in x.tolist()]
    np.testing.assert_allclose(onnx_file.ErfFreeGelu()(Tensor(x)).asnumpy(), expected, atol=1e-6)
