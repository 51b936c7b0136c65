"""Width and depth multipliers: channels and blocks of each family."""

import pytest
from mindspore import Tensor

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.model import create_model, list_models
from rp2k_lab.model.scaling import scaled, scaled_to_eights
from rp2k_lab.train.build import create_network
from tests.helpers import parity_inputs
from tests.helpers.zoo import no_weights

pytestmark = pytest.mark.slow


def shapes(name: str, **options) -> dict[str, tuple[int, ...]]:
    with no_weights():
        net = create_model(name, 5, **options)
    return {parameter.name: parameter.shape for parameter in net.get_parameters()}


def out(shapes, *names) -> list[int]:
    return [shapes[f"{name}.weight"][0] for name in names]


def blocks(shapes, prefix: str) -> int:
    """Return the number of blocks with this prefix in the names: layer1.0, layer1.1, …"""
    return len({name.removeprefix(prefix).split(".")[1] for name in shapes if name.startswith(f"{prefix}.")})


@pytest.mark.parametrize(
    ("count", "multiplier", "expected"),
    [(64, 0.25, 16), (6, 0.25, 2), (10, 0.25, 3), (9, 0.25, 2), (2, 0.25, 1), (2, 0.1, 1), (3, 4, 12), (7, 1.0, 7)],
)
def test_scaled_rounds_a_half_up_and_to_at_least_one(count, multiplier, expected):
    assert scaled(count, multiplier) == expected


@pytest.mark.parametrize(
    ("channels", "multiplier", "expected"),
    [
        (32, 1.0, 32), (24, 1.1, 24), (40, 1.1, 48), (112, 1.1, 120), (1280, 1.1, 1408),  # EfficientNet-B2
        (16, 0.25, 8), (24, 0.5, 16), (80, 0.25, 24),  # 20 → 24
        (40, 0.3, 16), (76, 0.25, 24),  # 12 → 16; 19 → 16 is over a tenth less
    ],
)  # fmt: skip
def test_rounding_to_multiples_of_8_loses_at_most_a_tenth(channels, multiplier, expected):
    assert scaled_to_eights(channels, multiplier) == expected


STAGES = [f"layer{i}" for i in range(1, 5)]


class TestResNet:
    @pytest.mark.parametrize(
        ("name", "depth", "expected"),
        [
            ("resnet18", 0.25, [1, 1, 1, 1]),
            ("resnet18", 2, [4, 4, 4, 4]),
            ("resnet50", 0.5, [2, 2, 3, 2]),  # 3, 4, 6, 3; 1.5 is rounded up
            ("resnet101", 0.25, [1, 1, 6, 1]),  # 3, 4, 23, 3
        ],
    )
    def test_blocks_of_a_stage(self, name, depth, expected):
        scaled_shapes = shapes(name, depth_multiplier=depth)
        assert [blocks(scaled_shapes, stage) for stage in STAGES] == expected

    def test_every_channel_of_basic_blocks_is_scaled(self):
        full = shapes("resnet18", depth_multiplier=0.25)
        narrow = shapes("resnet18", width_multiplier=0.25, depth_multiplier=0.25)
        assert full.keys() == narrow.keys()
        for name, shape in full.items():
            fixed = {3} if name == "conv1.weight" else {5} if name.startswith("fc.") else set()
            channels = shape[:2] if name.endswith("weight") else shape[:1]
            expected = tuple(n if n in fixed else n // 4 for n in channels) + shape[len(channels) :]
            assert narrow[name] == expected, name

    def test_planes_and_stem_of_bottlenecks(self):
        narrow = shapes("resnet50", width_multiplier=0.125, depth_multiplier=0.25)
        assert out(narrow, "conv1", *(f"{stage}.0.conv2" for stage in STAGES)) == [8, 8, 16, 32, 64]
        assert out(narrow, *(f"{stage}.0.conv3" for stage in STAGES)) == [32, 64, 128, 256]

    def test_a_resnext_has_fewer_groups_of_the_same_width(self):
        """32×4d at 0.25 is 8×4d: 4, 8, 16, 32 channels in each of 8 groups."""
        narrow = shapes("seresnext50", width_multiplier=0.25, depth_multiplier=0.25)
        assert out(narrow, "conv1", *(f"{stage}.0.conv3" for stage in STAGES)) == [16, 64, 128, 256, 512]
        for stage, width in zip(STAGES, (4, 8, 16, 32), strict=True):
            assert narrow[f"{stage}.0.conv2.weight"][:2] == (8 * width, width)

    @pytest.mark.parametrize(("cardinality", "multiplier", "groups"), [(7, 0.25, 2), (32, 0.01, 1), (32, 2, 64)])
    def test_groups_are_integers_of_at_least_one(self, cardinality, multiplier, groups):
        options = {"cardinality": cardinality, "width_multiplier": multiplier}
        grouped = shapes("seresnext50", depth_multiplier=0.25, **options)
        assert grouped["layer1.0.conv2.weight"][:2] == (groups * 4, 4)

    @pytest.mark.parametrize(("name", "features"), [("seresnext50_wider", 1024), ("resnet50_bam", 512)])
    def test_features_are_final_width_scaled(self, name, features):
        narrow = shapes(name, width_multiplier=0.25, depth_multiplier=0.25)
        assert narrow["fc.weight"] == (5, features)
        assert narrow["layer4.0.conv3.weight"][0] == features

    def test_reductions_keep_at_least_one_channel(self):
        """A sixteenth of the 4 · 1 channels in the first stage would be 0."""
        smallest = {"width_multiplier": 0.01, "depth_multiplier": 0.25}
        assert shapes("resnet50_cbam", **smallest)["layer1.0.se.fc1.weight"] == (1, 4)
        assert shapes("resnet50_bam", **smallest)["bam1.channel_fc1.weight"] == (1, 4)
        assert shapes("seresnet50", **smallest)["layer1.0.se.fc1.weight"] == (8, 4, 1, 1)


class TestEfficientNet:
    FULL = (16, 24, 40, 80, 112, 192, 320)
    QUARTER = (8, 8, 16, 24, 32, 48, 80)  # 4, 6, 10, 20, 28, 48, 80 in multiples of 8; 10 → 8 is a fifth less

    def widths(self, shapes):
        projections = ["blocks.0.0.conv_pw", *(f"blocks.{i}.0.conv_pwl" for i in range(1, 7))]
        return out(shapes, "conv_stem", *projections, "conv_head")

    @pytest.mark.parametrize(
        ("name", "stem", "features", "narrow_stem", "narrow_features"),
        [("efficientnet_b0", 32, 1280, 8, 320), ("efficientnet_lite0", 32, 1280, 32, 1280)],
    )
    def test_channels(self, name, stem, features, narrow_stem, narrow_features):
        """Lite's stem and head are fixed (fix_head_stem in the authors' code)."""
        assert self.widths(shapes(name, depth_multiplier=0.25)) == [stem, *self.FULL, features]
        narrow = shapes(name, width_multiplier=0.25, depth_multiplier=0.25)
        assert self.widths(narrow) == [narrow_stem, *self.QUARTER, narrow_features]
        assert narrow["fc.weight"] == (5, narrow_features)
        # The depthwise convolution has six times the eight input channels, each a group.
        assert narrow["blocks.1.0.conv_dw.weight"][:2] == (6 * 8, 1)

    @pytest.mark.parametrize(
        ("name", "depth", "expected"),
        [
            ("efficientnet_b0", 1.1, [2, 3, 3, 4, 4, 5, 2]),  # B1
            ("efficientnet_lite0", 1.1, [1, 3, 3, 4, 4, 5, 1]),  # Lite1: the first and the last stage are fixed
            ("efficientnet_b0", 0.5, [1, 1, 1, 2, 2, 2, 1]),
            ("efficientnet_lite0", 0.25, [1, 1, 1, 1, 1, 1, 1]),
        ],
    )
    def test_blocks_are_rounded_up(self, name, depth, expected):
        scaled_shapes = shapes(name, depth_multiplier=depth)
        assert [blocks(scaled_shapes, f"blocks.{i}") for i in range(7)] == expected

    @pytest.mark.usefixtures("undrawn")
    def test_b1_has_the_published_size(self):
        """7.8 million parameters (arXiv 1905.11946, table 2); timm's efficientnet_b1 has exactly this number."""
        net = create_model("efficientnet_b0", 1000, depth_multiplier=1.1)
        assert sum(parameter.size for parameter in net.trainable_params()) == 7_794_184


class TestSwin:
    @pytest.mark.parametrize(
        ("multiplier", "channels", "heads"),
        [(1.0, 96, [3, 6, 12, 24]), (0.25, 24, [1, 2, 3, 6]), (0.125, 12, [1, 1, 2, 3]), (2, 192, [6, 12, 24, 48])],
    )
    def test_channels_and_heads(self, multiplier, channels, heads):
        scaled_shapes = shapes("swin_tiny", width_multiplier=multiplier, depth_multiplier=0.25)
        attention = [f"layers.{i}.blocks.0.attn" for i in range(4)]
        assert [scaled_shapes[f"{name}.relative_position_bias_table"][1] for name in attention] == heads
        expected = [channels * 2**i for i in range(4)]
        assert out(scaled_shapes, "patch_embed.proj", *(f"{name}.proj" for name in attention)) == [channels, *expected]
        assert out(scaled_shapes, *(f"layers.{i}.downsample.reduction" for i in range(1, 4))) == expected[1:]
        assert out(scaled_shapes, *(f"layers.{i}.blocks.0.mlp.fc1" for i in range(4))) == [4 * n for n in expected]
        assert scaled_shapes["fc.weight"] == (5, expected[-1])

    @pytest.mark.parametrize(("depth", "expected"), [(0.25, [1, 1, 2, 1]), (0.5, [1, 1, 3, 1]), (2, [4, 4, 12, 4])])
    def test_blocks_of_a_stage(self, depth, expected):
        scaled_shapes = shapes("swin_tiny", width_multiplier=0.25, depth_multiplier=depth)
        assert [blocks(scaled_shapes, f"layers.{i}.blocks") for i in range(4)] == expected

    def test_heads_that_do_not_divide_are_refused_with_a_multiplier_that_fits(self):
        """84 channels; heads of 2.6, 5.25, 10.5 and 21 are rounded: 3 divide 84, 5 do not divide 168."""
        with pytest.raises(ValueError, match=r"^model\.width_multiplier=0\.875: stage 2 .*168 .* 5 heads") as error:
            create_model("swin_tiny", 5, width_multiplier=0.875)
        lines = str(error.value).splitlines()
        assert lines[1:] == ["use model.width_multiplier=1"]


class TestInceptionResNetV2:
    NAME = "inception_resnet_v2"

    def test_channels_add_up(self):
        """At 0.25: 24 + 16 + 24 + 16 = 80, + 96 + 96 = 272, + 96 + 72 + 80 = 520."""
        narrow = shapes(self.NAME, width_multiplier=0.25, depth_multiplier=0.05)
        stem = ("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a")
        assert out(narrow, *(f"{name}.conv" for name in stem)) == [8, 8, 16, 20, 48]
        assert out(narrow, "repeat.0.conv2d", "repeat_1.0.conv2d", "repeat_2.0.conv2d") == [80, 272, 520]
        # The branches of a block: 8 + 8 + 16, 48 + 48, 48 + 64.
        assert narrow["repeat.0.conv2d.weight"][1] == 32
        assert narrow["repeat_1.0.conv2d.weight"][1] == 96
        assert narrow["block8.conv2d.weight"][:2] == (520, 112)
        assert narrow["fc.weight"] == (5, 384)

    def test_features_are_final_width_scaled(self):
        options = {"width_multiplier": 0.25, "depth_multiplier": 0.05}
        assert shapes(f"{self.NAME}_wider", **options)["fc.weight"] == (5, 1024)

    @pytest.mark.parametrize(("depth", "expected"), [(0.25, [3, 5, 2]), (0.05, [1, 1, 1])])  # of 10, 20, 9
    def test_blocks_of_each_sequence(self, depth, expected):
        scaled_shapes = shapes(self.NAME, depth_multiplier=depth)
        assert [blocks(scaled_shapes, prefix) for prefix in ("repeat", "repeat_1", "repeat_2")] == expected


class TestConvNeXt:
    def test_channels_and_blocks(self):
        narrow = shapes("convnext_tiny", width_multiplier=0.25, depth_multiplier=0.5)
        stages = [f"stages.{i}" for i in range(4)]
        assert out(narrow, "stem.0", *(f"{stage}.downsample.1" for stage in stages[1:])) == [24, 48, 96, 192]
        assert out(narrow, *(f"{stage}.blocks.0.conv_dw" for stage in stages)) == [24, 48, 96, 192]
        assert out(narrow, *(f"{stage}.blocks.0.mlp.fc1" for stage in stages)) == [96, 192, 384, 768]
        assert [blocks(narrow, f"{stage}.blocks") for stage in stages] == [2, 2, 5, 2]  # of 3, 3, 9, 3
        assert narrow["fc.weight"] == (5, 192)


class TestViT:
    @pytest.mark.parametrize(
        ("multiplier", "channels", "heads"),
        [(1.0, 384, 6), (2, 768, 12), (1 / 3, 128, 2), (0.25, 96, 2), (0.3, 116, 2), (0.9, 345, 5), (0.01, 4, 1)],
    )
    def test_channels_are_a_multiple_of_the_heads(self, multiplier, channels, heads):
        with no_weights():
            net = create_model("vit_small", 5, width_multiplier=multiplier, depth_multiplier=0.1)
        scaled_shapes = {parameter.name: parameter.shape for parameter in net.get_parameters()}
        assert (net.backbone.num_features, net.backbone.blocks[0].attn.heads) == (channels, heads)
        parts = ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1")
        assert out(scaled_shapes, *parts) == [channels, 3 * channels, channels, 4 * channels]
        assert scaled_shapes["pos_embed"] == (1, 197, channels)
        assert scaled_shapes["fc.weight"] == (5, channels)

    @pytest.mark.parametrize(("depth", "expected"), [(0.25, 3), (0.01, 1), (2, 24)])
    def test_blocks(self, depth, expected):
        assert blocks(shapes("vit_small", width_multiplier=0.1, depth_multiplier=depth), "blocks") == expected


@pytest.mark.parametrize("key", ["width_multiplier", "depth_multiplier"])
@pytest.mark.parametrize("value", [0, -1, 4.1, float("nan")])
def test_multipliers_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^model\.{key}={value:g}: out of range\nuse a value above 0 and at most 4$"):
        create_model("resnet18", 5, **{key: value})


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("name", list_models())
def test_the_smallest_network_of_each_model_runs(name):
    net = create_model(name, 5, width_multiplier=0.125, depth_multiplier=0.25).set_train(False)
    side = net.backbone.smallest_input
    features = net.backbone(Tensor(parity_inputs.draw_images(2, (side, side))))
    assert features.shape[1] == net.backbone.num_features
    assert net.head(features).shape == (2, 5)


@pytest.mark.usefixtures("undrawn")
def test_command_line(compose):
    config = parse(compose("model=swin_tiny", "model.width_multiplier=0.25", "model.depth_multiplier=2"))
    assert (config.model.width_multiplier, config.model.depth_multiplier) == (0.25, 2)
    network = create_network(config, 5)
    assert network.backbone.num_features == 192
    with pytest.raises(RequestError, match=r"^model\.width_multiplier=0\.875: .*\n.*\Z"):
        create_network(parse(compose("model=swin_tiny", "model.width_multiplier=0.875")), 5)
