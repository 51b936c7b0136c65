import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from rp2k_lab import PROJECT
from rp2k_lab.model import list_models
from rp2k_lab.model.layers import conv
from rp2k_lab.model.summary import count_multiply_adds, summarize
from rp2k_lab.model.zoo import families

pytestmark = pytest.mark.usefixtures("graph_mode")


class Counted(nn.Cell):
    """A network of 3·8·9·10·12 + 8·2·9·5·6 (4 groups, stride 2) + 8·7 + 4·5·6 (two tensors) products an image."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 8, 3), conv(8, 8, 3, stride=2, groups=4)
        self.fc = nn.Dense(8, 7)

    def construct(self, x):
        y = self.conv2(self.conv1(x))
        product = ops.matmul(y[:, :4, 0, :].reshape(-1, 4, 6), y[:, :6, :, 0].reshape(-1, 6, 5))
        return self.fc(y.max(axis=3).max(axis=2)).sum() + product.sum()


def test_multiply_adds_are_counted_from_shapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = Tensor(np.zeros((2, 3, 10, 12), np.float32))
    mindspore.export(Counted(), images, file_name="counted.mindir", file_format="MINDIR")
    one = 3 * 8 * 9 * 10 * 12 + 8 * 2 * 9 * 5 * 6 + 8 * 7 + 4 * 5 * 6
    assert count_multiply_adds(tmp_path / "counted.mindir") == 2 * one


def test_a_summary_has_the_published_figures(tmp_path, monkeypatch):
    """ResNet-18: 1.81 G multiply-adds at 224 (arXiv 1512.03385, table 1: 1.8)."""
    monkeypatch.chdir(tmp_path)
    summary = summarize("resnet18", (224, 224), 1, 0.01, tmp_path)
    assert (summary.parameters, summary.last_width, summary.smallest_input) == (11_689_512, 512, 32)
    assert summary.multiply_adds / 1e9 == pytest.approx(1.81, abs=0.01)
    assert summary.images_per_second > 0
    assert list(tmp_path.iterdir()) == []


def test_every_model_has_a_source():
    assert all(name in families()[name].sources for name in list_models())


def test_the_page_has_every_model_with_its_weights():
    page = (PROJECT / "docs" / "models.md").read_text("utf-8")
    for name in list_models():
        source = families()[name].sources[name]
        assert f"| {source} |\n" in page
        _, of_timm, reference = source.partition("; timm ")
        assert (f"| `{name}` | `{reference}` |" if of_timm else f"model={name} model.pretrained=") in page
