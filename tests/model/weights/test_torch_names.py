"""Names of PyTorch weights; reference.npz has the names of every model's reference, test_parity.py loads them."""

import re

import numpy as np
import pytest
from mindspore import nn

from rp2k_lab import PROJECT
from rp2k_lab.model import create_model
from rp2k_lab.model.layers import ConvNorm
from rp2k_lab.model.network import Head, Network
from rp2k_lab.model.weights.torch_names import load_torch_weights, match_torch_weights, renamed, torch_name
from tests.helpers import numpy_layers


@pytest.fixture(scope="module")
def reference():
    """Return reference(model): the reference's names to zeros of the right shape."""
    with np.load(PROJECT / "tests" / "parity" / "reference.npz") as file:
        arrays = {key: file[key] for key in file.files if key.endswith(("/names", "/shapes"))}

    def state(model):
        pairs = zip(arrays[f"{model}/names"].tolist(), arrays[f"{model}/shapes"].tolist(), strict=True)
        return {name: np.broadcast_to(np.float32(0), [int(n) for n in shape.split(",")]) for name, shape in pairs}

    return state


def timm_form(name: str) -> str:
    """Return timm's form of a file's name."""
    (new_name,) = renamed({name: np.zeros(1)})
    return new_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bn1.gamma", "bn1.weight"),
        ("bn1.beta", "bn1.bias"),
        ("layer1.0.bn1.moving_mean", "layer1.0.bn1.running_mean"),
        ("layer1.0.bn1.moving_variance", "layer1.0.bn1.running_var"),
        ("layers.0.blocks.1.norm1.gamma", "layers.0.blocks.1.norm1.weight"),
        ("conv1.weight", "conv1.weight"),
        ("fc.bias", "fc.bias"),
        ("cls_token", "cls_token"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", "layers.0.blocks.0.attn.relative_position_bias_table"),
    ],
)
def test_torch_name_of_a_parameter(name, expected):
    assert torch_name(name) == expected


JONGCHAN = [
    ("layer3.5.cbam.ChannelGate.mlp.1.weight", "layer3.5.se.fc1.weight"),
    ("layer3.5.cbam.ChannelGate.mlp.3.bias", "layer3.5.se.fc2.bias"),
    ("layer3.5.cbam.SpatialGate.spatial.conv.weight", "layer3.5.se.spatial.conv.weight"),
    ("layer3.5.cbam.SpatialGate.spatial.bn.running_var", "layer3.5.se.spatial.bn.running_var"),
    ("bam1.channel_att.gate_c.gate_c_fc_0.weight", "bam1.channel_fc1.weight"),
    ("bam1.channel_att.gate_c.gate_c_bn_1.running_mean", "bam1.channel_bn.running_mean"),
    ("bam1.channel_att.gate_c.gate_c_fc_final.bias", "bam1.channel_fc2.bias"),
    ("bam2.spatial_att.gate_s.gate_s_conv_reduce0.weight", "bam2.spatial_reduce.weight"),
    ("bam2.spatial_att.gate_s.gate_s_bn_reduce0.weight", "bam2.spatial_bn0.weight"),
    ("bam2.spatial_att.gate_s.gate_s_conv_di_0.weight", "bam2.spatial_conv1.weight"),
    ("bam2.spatial_att.gate_s.gate_s_bn_di_0.bias", "bam2.spatial_bn1.bias"),
    ("bam2.spatial_att.gate_s.gate_s_conv_di_1.weight", "bam2.spatial_conv2.weight"),
    ("bam2.spatial_att.gate_s.gate_s_bn_di_1.bias", "bam2.spatial_bn2.bias"),
    ("bam3.spatial_att.gate_s.gate_s_conv_final.bias", "bam3.spatial_final.bias"),
]
TIMM = [
    ("blocks.1.0.se.conv_reduce.weight", "blocks.1.0.se.fc1.weight"),
    ("blocks.1.0.se.conv_expand.bias", "blocks.1.0.se.fc2.bias"),
    ("layer1.0.se.fc1.weight", "layer1.0.se.fc1.weight"),
    ("classifier.weight", "fc.weight"),
    ("classif.bias", "fc.bias"),
    ("head.fc.weight", "fc.weight"),
    ("fc.weight", "fc.weight"),
    ("norm.weight", "norm.weight"),
    ("layers.1.downsample.norm.bias", "layers.1.downsample.norm.bias"),
    ("head.norm.bias", "norm.bias"),
    ("stages.0.blocks.2.gamma", "stages.0.blocks.2.layer_scale.scale"),
    ("stages.1.downsample.0.weight", "stages.1.downsample.0.weight"),
    ("blocks.11.ls1.gamma", "blocks.11.ls1.scale"),
    ("cls_token", "cls_token"),
]
FACEBOOK = [
    ("downsample_layers.0.1.weight", "stem.1.weight"),
    ("downsample_layers.3.0.bias", "stages.3.downsample.0.bias"),
    ("stages.2.8.dwconv.weight", "stages.2.blocks.8.conv_dw.weight"),
    ("stages.2.8.norm.weight", "stages.2.blocks.8.norm.weight"),
    ("stages.2.8.pwconv2.bias", "stages.2.blocks.8.mlp.fc2.bias"),
    ("stages.2.8.gamma", "stages.2.blocks.8.layer_scale.scale"),
]
LUKEMELAS = [
    ("_conv_stem.weight", "conv_stem.weight"),
    ("_bn0.running_mean", "bn1.running_mean"),
    ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
    ("_blocks.0._bn1.bias", "blocks.0.0.bn1.bias"),
    ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
    ("_blocks.0._bn2.running_var", "blocks.0.0.bn2.running_var"),
    ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
    ("_blocks.1._bn0.weight", "blocks.1.0.bn1.weight"),
    ("_blocks.2._depthwise_conv.weight", "blocks.1.1.conv_dw.weight"),
    ("_blocks.2._bn1.weight", "blocks.1.1.bn2.weight"),
    ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
    ("_blocks.15._bn2.weight", "blocks.6.0.bn3.weight"),
    ("_conv_head.weight", "conv_head.weight"),
    ("_bn1.running_mean", "bn2.running_mean"),
    ("_fc.bias", "fc.bias"),
]


@pytest.mark.parametrize(("original", "name"), JONGCHAN + TIMM + FACEBOOK + LUKEMELAS)
def test_names_of_other_sources_are_mapped_to_timms(original, name):
    assert timm_form(original) == name


@pytest.mark.parametrize(
    "name",
    ["bn1.num_batches_tracked", "layers.0.blocks.0.attn.relative_position_index", "layers.0.blocks.1.attn_mask"],
)
def test_counters_and_constants_are_ignored(name):
    assert renamed({name: np.zeros(1)}) == {}


def test_unknown_names_stay_unchanged():
    assert timm_form("_blocks.16._bn2.weight") == "_blocks.16._bn2.weight"
    assert timm_form("teacher.head.weight") == "teacher.head.weight"


def lukemelas(name: str, num_blocks=(1, 2, 2, 3, 3, 4, 1)) -> str:
    """Return EfficientNet-PyTorch's form of timm's name of a parameter."""
    block = re.match(r"blocks\.(\d)\.(\d)\.(.*)\.(\w+)$", name)
    if not block:
        parts = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
        module, leaf = name.rsplit(".", 1)
        return f"{(parts | {'classifier': '_fc'})[module]}.{leaf}"
    stage, i, part, leaf = block.groups()
    number = sum(num_blocks[: int(stage)]) + int(i)
    steps = ["conv_pw bn1 _expand_conv _bn0", "conv_dw bn2 _depthwise_conv _bn1", "conv_pwl bn3 _project_conv _bn2"]
    if stage == "0":
        steps = ["conv_dw bn1 _depthwise_conv _bn1", "conv_pw bn2 _project_conv _bn2"]
    parts = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    for conv, norm, lukemelas_conv, lukemelas_norm in map(str.split, steps):
        parts |= {conv: lukemelas_conv, norm: lukemelas_norm}
    return f"_blocks.{number}.{parts[part]}.{leaf}"


def microsoft(name: str) -> str:
    """Return Microsoft's form of timm's name of a Swin parameter: merging at the end of a stage."""
    name = re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
    return name.replace("head.fc.", "head.")


def facebook(name: str) -> str:
    """Return the ConvNeXt authors' form of timm's name of a parameter."""
    name = re.sub(
        r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", re.sub(r"^stem\.", "downsample_layers.0.", name)
    )
    name = re.sub(r"^(stages\.\d)\.blocks\.", r"\1.", name).replace("conv_dw", "dwconv")
    return re.sub(r"mlp\.fc(\d)", r"pwconv\1", name).replace("head.norm.", "norm.").replace("head.fc.", "head.")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("convnext_tiny", facebook),
        ("efficientnet_lite0", lukemelas),
        ("swin_tiny", microsoft),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_whole_file_of_another_source_matches(reference, model, source):
    state = reference(model)
    renamed_state = {source(name): value for name, value in state.items()}
    assert len(renamed_state) == len(state)
    assert not renamed_state.keys() & {"fc.weight", "head.fc.weight", "classifier.weight"}
    net = create_model(model, 1000)
    match = match_torch_weights(net, renamed_state)
    assert (match.missing, match.unexpected, match.other_shape) == ([], [], [])
    assert len(match.loaded) == len(state) == len(list(net.get_parameters()))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "multipliers", [{"depth_multiplier": 1.1}, {"width_multiplier": 1.1, "depth_multiplier": 1.2}], ids=["1", "2"]
)
def test_files_of_lite1_and_lite2_match_lite0_with_their_multipliers(multipliers):
    num_blocks = (1, 3, 3, 4, 4, 5, 1)  # of both
    net = create_model("efficientnet_lite0", 5, **multipliers)
    state = {
        lukemelas(torch_name(p.name).replace("fc.", "classifier."), num_blocks): np.zeros(p.shape, np.float32)
        for p in net.get_parameters()
    }
    match = match_torch_weights(net, state)
    assert (match.missing, match.unexpected, match.other_shape) == ([], [], [])


@pytest.mark.usefixtures("undrawn")
def test_another_models_file_does_not_match(reference):
    match = match_torch_weights(create_model("resnet50", 1000), reference("resnet50_bam"))
    assert match.missing == match.other_shape == []
    assert len(match.unexpected) == 351 - 267
    assert all(name.startswith("bam") for name in match.unexpected)
    match = match_torch_weights(create_model("resnet50_bam", 1000), reference("resnet50"))
    assert len(match.missing) == 351 - 267
    assert match.problem() == (
        f"the file lacks {351 - 267} of the network's parameters, the first is bam1.channel_fc1.weight"
    )
    match = match_torch_weights(create_model("resnet50", 1000), reference("resnet101"))
    assert match.missing == []
    assert {name.split(".")[0] for name in match.foreign} == {"layer3"}
    assert "layer3" in match.problem()


@pytest.mark.usefixtures("undrawn")
def test_another_computation_with_the_same_names_does_not_match(reference):
    """EfficientNet-PyTorch's B0 pads as TensorFlow does; Cadene's SE-ResNeXt pools without padding."""
    state = {lukemelas(name): value for name, value in reference("efficientnet_b0").items()}
    assert match_torch_weights(create_model("efficientnet_b0", 1000), state).problem()
    state = {name.replace(".se.", ".se_module."): value for name, value in reference("seresnext50").items()}
    assert match_torch_weights(create_model("seresnext50", 1000), state).problem()


@pytest.mark.usefixtures("undrawn")
def test_an_optimizers_state_is_ignored(reference):
    state = reference("resnet50")
    state |= {f"moments.{name}": value for name, value in list(state.items())[:3]}
    match = match_torch_weights(create_model("resnet50", 1000), state)
    assert (match.problem(), match.foreign, len(match.unexpected)) == (None, [], 3)


@pytest.mark.usefixtures("undrawn")
def test_two_names_for_one_parameter_are_both_reported(reference):
    state = reference("resnet50")
    match = match_torch_weights(create_model("resnet50", 1000), state | {"head.weight": state["fc.weight"]})
    assert match.unexpected == ["head.weight"]


class Tiny(nn.Cell):
    num_features = 4

    def __init__(self):
        super().__init__()
        self.stem = ConvNorm(3, 4, 3)


@pytest.fixture
def net():
    return numpy_layers.draw_parameters(Network(Tiny(), Head(4, 5, drop_rate=0.1), "tiny"))


@pytest.fixture
def state(net):
    """Return a state with timm's names and different values."""
    names = {torch_name(p.name): p.shape for p in net.get_parameters() if not p.name.endswith("step")}
    return {name: np.random.default_rng(i).normal(size=shape) for i, (name, shape) in enumerate(names.items(), 7)}


def values(net) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in net.get_parameters()}


def test_load_sets_every_parameter_except_the_step_counter(net, state):
    before = values(net)
    match = load_torch_weights(net, state)
    assert set(match.loaded) == set(state)
    for name, value in values(net).items():
        expected = before[name] if name == "dropout.step" else state[torch_name(name)].astype(np.float32)
        np.testing.assert_array_equal(value, expected, err_msg=name)
        assert value.dtype == before[name].dtype


def broken(state, how):
    if how == "missing":
        return {name: value for name, value in state.items() if name != "stem.bn.running_var"}
    return state | {"stem.conv.weight": np.zeros((4, 3, 5, 5)), "fc.bias": np.zeros(())}


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("missing", "the file lacks 1 of the network's parameters, the first is stem.bn.running_var"),
        ("shapes", "stem.conv.weight is 4×3×5×5 in the file and 4×3×3×3 in the network (and 1 more)"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(net, state, how, problem):
    before = values(net)
    with pytest.raises(ValueError, match="network") as error:
        load_torch_weights(net, broken(state, how))
    assert str(error.value) == problem
    for name, value in values(net).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_a_scalar_is_reported_as_a_number(net, state):
    match = match_torch_weights(net, state | {"fc.bias": np.zeros(())})
    assert match.other_shape == [("fc.bias", (5,), ())]
    assert match.problem() == "fc.bias is a number in the file and 5 in the network"


def test_unexpected_entries_are_reported_by_the_files_name(net, state):
    extra = {"stem.bn.num_batches_tracked": np.zeros(()), "ema.last_linear.weight": np.zeros(3)}
    match = match_torch_weights(net, state | extra)
    assert match.unexpected == ["ema.last_linear.weight"]
    assert match.problem() is None


@pytest.mark.parametrize("classes", [5, 9, None])
def test_without_classifier_the_head_stays_unchanged(net, state, classes):
    rest = {name: value for name, value in state.items() if not name.startswith("fc.")}
    head = {} if classes is None else {"head.weight": np.zeros((classes, 4)), "head.bias": np.zeros(classes)}
    before = values(net)
    match = load_torch_weights(net, rest | head, with_classifier=False)
    assert set(match.loaded) == set(rest)
    assert match.unexpected == match.missing == match.other_shape == []
    for name in ("fc.weight", "fc.bias"):
        np.testing.assert_array_equal(values(net)[name], before[name])
    assert (values(net)["stem.conv.weight"] != before["stem.conv.weight"]).all()
