"""Width and depth multipliers: channels and blocks by the arithmetic of each family; at 1 nothing changes."""

import pytest
from mindspore import Tensor

from rp2k_lab.model import create_model
from rp2k_lab.model.scaling import scaled
from tests.parity import draw

from .conftest import no_weights


def shapes(name: str, **options) -> dict[str, tuple[int, ...]]:
    with no_weights():
        net = create_model(name, 5, **options)
    return {parameter.name: parameter.shape for parameter in net.get_parameters()}


def out(shapes, *names) -> list[int]:
    return [shapes[f"{name}.weight"][0] for name in names]


def blocks(shapes, prefix: str) -> int:
    """How many numbers follow the prefix in the names: layer1.0, layer1.1, …"""
    return len({name.removeprefix(prefix).split(".")[1] for name in shapes if name.startswith(f"{prefix}.")})


@pytest.mark.parametrize(
    ("count", "multiplier", "expected"),
    [(64, 0.25, 16), (6, 0.25, 2), (10, 0.25, 3), (9, 0.25, 2), (2, 0.25, 1), (2, 0.1, 1), (3, 4, 12), (7, 1.0, 7)],
)
def test_scaled_rounds_a_half_up_and_leaves_one(count, multiplier, expected):
    assert scaled(count, multiplier) == expected


STAGES = [f"layer{i}" for i in range(1, 5)]


class TestResNet:
    @pytest.mark.parametrize(
        ("name", "full", "depth", "expected"),
        [
            ("resnet18", (2, 2, 2, 2), 0.25, [1, 1, 1, 1]),
            ("resnet50", (3, 4, 6, 3), 0.5, [2, 2, 3, 2]),  # 1.5 is rounded up
            ("resnet101", (3, 4, 23, 3), 0.25, [1, 1, 6, 1]),
            ("resnet18", (2, 2, 2, 2), 2, [4, 4, 4, 4]),
        ],
    )
    def test_blocks_of_a_stage(self, name, full, depth, expected):
        assert [blocks(shapes(name), stage) for stage in STAGES] == list(full)
        assert [blocks(shapes(name, depth_multiplier=depth), stage) for stage in STAGES] == expected

    def test_every_channel_of_basic_blocks_is_scaled(self):
        full, narrow = shapes("resnet18"), shapes("resnet18", width_multiplier=0.25)
        assert full.keys() == narrow.keys()
        for name, shape in full.items():
            kept = {3} if name == "conv1.weight" else {5} if name.startswith("fc.") else set()
            channels = shape[:2] if name.endswith("weight") else shape[:1]
            expected = tuple(n if n in kept else n // 4 for n in channels) + shape[len(channels) :]
            assert narrow[name] == expected, name

    def test_planes_and_stem_of_bottlenecks(self):
        narrow = shapes("resnet50", width_multiplier=0.125)
        assert out(narrow, "conv1", *(f"{stage}.0.conv2" for stage in STAGES)) == [8, 8, 16, 32, 64]
        assert out(narrow, *(f"{stage}.0.conv3" for stage in STAGES)) == [32, 64, 128, 256]

    def test_a_resnext_has_fewer_groups_of_the_same_width(self):
        """32×4d at 0.25 is 8×4d: 4, 8, 16, 32 channels in each of 8 groups."""
        narrow = shapes("seresnext50", width_multiplier=0.25)
        assert out(narrow, "conv1", *(f"{stage}.0.conv3" for stage in STAGES)) == [16, 64, 128, 256, 512]
        for stage, width in zip(STAGES, (4, 8, 16, 32), strict=True):
            assert narrow[f"{stage}.0.conv2.weight"][:2] == (8 * width, width)

    @pytest.mark.parametrize(("cardinality", "multiplier", "groups"), [(7, 0.25, 2), (32, 0.01, 1), (32, 2, 64)])
    def test_groups_are_whole_and_at_least_one(self, cardinality, multiplier, groups):
        grouped = shapes("seresnext50", cardinality=cardinality, width_multiplier=multiplier)
        assert grouped["layer1.0.conv2.weight"][:2] == (groups * 4, 4)

    @pytest.mark.parametrize(("name", "features"), [("seresnext50_wider", 1024), ("resnet50_bam", 512)])
    def test_features_are_final_width_scaled(self, name, features):
        narrow = shapes(name, width_multiplier=0.25)
        assert narrow["fc.weight"] == (5, features)
        assert narrow["layer4.0.conv3.weight"][0] == features

    def test_reductions_of_few_channels_keep_one(self):
        """Of 4 · 1 channels in the first stage a sixteenth would be none."""
        assert shapes("resnet50_cbam", width_multiplier=0.01)["layer1.0.se.fc1.weight"] == (1, 4)
        assert shapes("resnet50_bam", width_multiplier=0.01)["bam1.channel_fc1.weight"] == (1, 4)
        assert shapes("seresnet50", width_multiplier=0.01)["layer1.0.se.fc1.weight"] == (8, 4, 1, 1)


@pytest.mark.parametrize("key", ["width_multiplier", "depth_multiplier"])
@pytest.mark.parametrize("value", [0, -1, 4.1, float("nan")])
def test_multipliers_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^model\.{key}={value:g}: it needs to be above 0 and at most 4$"):
        create_model("resnet18", 5, **{key: value})


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("name", ["resnet18", "resnet50_bam", "resnet50_cbam", "seresnext50"])
def test_the_smallest_of_a_family_runs(name):
    net = create_model(name, 5, width_multiplier=0.125, depth_multiplier=0.25).set_train(False)
    side = net.backbone.smallest_input
    features = net.backbone(Tensor(draw.draw_images(2, (side, side))))
    assert features.shape[1] == net.backbone.num_features
    assert net.head(features).shape == (2, 5)
