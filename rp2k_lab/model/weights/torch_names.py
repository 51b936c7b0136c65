"""Weights of the reference implementations in PyTorch, by name.

Our names are timm's, but for the norms' (gamma and beta here, weight and bias there) and the classifier's; what other
sources call differently is renamed to them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, Tensor, nn

from rp2k_lab.model.efficientnet import STAGES as EFFICIENTNET_STAGES
from rp2k_lab.model.weights.torch_unpickler import excerpt

# What a file holds beside parameters: counters, and constants that are computed here.
_NO_PARAMETER = re.compile(r"num_batches_tracked$|relative_position_index$|attn_mask$")
_RENAMED = [
    (r"^(classifier|classif|head\.fc|head|last_linear|_fc)\.(weight|bias)$", r"fc.\2"),
    # Jongchan/attention-module: CBAM and BAM
    (r"\.cbam\.ChannelGate\.mlp\.1\.", ".se.fc1."),
    (r"\.cbam\.ChannelGate\.mlp\.3\.", ".se.fc2."),
    (r"\.cbam\.SpatialGate\.", ".se."),
    (r"\.channel_att\.gate_c\.gate_c_fc_0\.", ".channel_fc1."),
    (r"\.channel_att\.gate_c\.gate_c_bn_1\.", ".channel_bn."),
    (r"\.channel_att\.gate_c\.gate_c_fc_final\.", ".channel_fc2."),
    (r"\.spatial_att\.gate_s\.gate_s_conv_reduce0\.", ".spatial_reduce."),
    (r"\.spatial_att\.gate_s\.gate_s_bn_reduce0\.", ".spatial_bn0."),
    (r"\.spatial_att\.gate_s\.gate_s_conv_di_0\.", ".spatial_conv1."),
    (r"\.spatial_att\.gate_s\.gate_s_bn_di_0\.", ".spatial_bn1."),
    (r"\.spatial_att\.gate_s\.gate_s_conv_di_1\.", ".spatial_conv2."),
    (r"\.spatial_att\.gate_s\.gate_s_bn_di_1\.", ".spatial_bn2."),
    (r"\.spatial_att\.gate_s\.gate_s_conv_final\.", ".spatial_final."),
    # timm's EfficientNet
    (r"\.se\.conv_reduce\.", ".se.fc1."),
    (r"\.se\.conv_expand\.", ".se.fc2."),
]


@dataclass(frozen=True)
class Match:
    """Which parameters of a network a file has.

    Attributes:
        loaded: our name to the file's value, of the right shape.
        missing: our names that the file lacks.
        unexpected: the file's names that the network lacks.
        foreign: those of them that lie in a part that the network has, such as another block of a stage: the weights
            of another network, where an optimizer's state beside would only be unexpected.
        other_shape: (our name, our shape, the file's shape).
    """

    loaded: dict[str, np.ndarray]
    missing: list[str]
    unexpected: list[str]
    foreign: list[str]
    other_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def problem(self) -> str | None:
        """Why the file is not this network's, in one line; None if every parameter was found."""
        if self.other_shape:
            name, ours, theirs = self.other_shape[0]
            more = f" (and {len(self.other_shape) - 1} more)" if len(self.other_shape) > 1 else ""
            return f"{name} is {_shape(theirs)} in the file and {_shape(ours)} in the network{more}"
        if self.foreign:
            more = f" (and {len(self.foreign) - 1} more)" if len(self.foreign) > 1 else ""
            return f"the network has nothing for {excerpt(self.foreign[0])} of the file{more}"
        if self.missing:
            return f"the file lacks {len(self.missing)} of the network's parameters, the first is {self.missing[0]}"
        return None


def match_torch_weights(net: nn.Cell, state: Mapping[str, np.ndarray], with_classifier: bool = True) -> Match:
    """Find the network's parameters in a reference's state.

    Args:
        net: what `create_model` built.
        state: the reference's parameter names to arrays (PyTorch's layouts are also ours).
        with_classifier: False leaves the whole head out on both sides.
    """
    theirs = renamed(state)
    head = set() if with_classifier else {torch_name(parameter.name) for parameter in net.head.get_parameters()}
    loaded, missing, other_shape = {}, [], []
    for name, parameter in _parameters(net).items():
        if name in head:
            theirs.pop(name, None)
        elif name not in theirs:
            missing.append(name)
        else:
            value = theirs.pop(name)[1]
            if value.shape == parameter.shape:
                loaded[name] = value
            else:
                other_shape.append((name, parameter.shape, value.shape))
    parts = {*net.backbone.name_cells(), *(net.head.name_cells() if with_classifier else ())}
    foreign = [original for name, (original, _) in theirs.items() if name.partition(".")[0] in parts]
    return Match(loaded, missing, [original for original, _ in theirs.values()], foreign, other_shape)


def load_torch_weights(net: nn.Cell, state: Mapping[str, np.ndarray], with_classifier: bool = True) -> Match:
    """Set the network's parameters from a reference's state, in place; see `match_torch_weights`.

    Raises:
        ValueError: a parameter is missing or has another shape; nothing is set then.
    """
    match = match_torch_weights(net, state, with_classifier)
    if problem := match.problem():
        raise ValueError(problem)
    parameters = _parameters(net)
    for name, value in match.loaded.items():
        parameters[name].set_data(Tensor(np.ascontiguousarray(value, np.float32)))
    return match


def _parameters(net: nn.Cell) -> dict[str, Parameter]:
    """Everything that a reference's state also holds, under the name that it has there."""
    ours = {parameter.name: parameter for parameter in net.get_parameters() if not parameter.name.endswith(".step")}
    return {torch_name(name): parameter for name, parameter in ours.items()}


def torch_name(name: str) -> str:
    """The reference's name of a parameter of ours: gamma is weight, moving_mean is running_mean."""
    module, _, leaf = name.rpartition(".")
    leaves = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    return f"{module}.{leaves.get(leaf, leaf)}"


def renamed(state: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """Our form of each name to (the file's name, value)."""
    # Microsoft's Swin merges at the end of a stage, timm's at the beginning of the next.
    merges_at_the_end = any(name.startswith("layers.0.downsample.") for name in state)
    renamed = {}
    for original, value in state.items():
        if _NO_PARAMETER.search(original):
            continue
        name = _of_lukemelas(original)
        if merges_at_the_end:
            name = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        while name in renamed:  # two names for one parameter: both are reported
            name += "?"
        renamed[name] = (original, value)
    return renamed


def _of_lukemelas(name: str) -> str:
    """EfficientNet-PyTorch's names (`_blocks.3._project_conv.weight`) in timm's form; others as they are.

    Lite alone: its B0, which has attention besides, pads as TensorFlow does and ours as timm's B0.
    """
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    module, _, leaf = name.rpartition(".")
    if module in top:
        return f"{top[module]}.{leaf}"
    if not (found := re.match(r"_blocks\.(\d+)\.(\w+)$", module)):
        return name
    number, part = int(found[1]), found[2]
    places = [(stage, i) for stage, (count, *_) in enumerate(EFFICIENTNET_STAGES) for i in range(count)]
    if number >= len(places):
        return name
    stage, i = places[number]
    if stage == 0:  # without expansion
        parts = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    else:
        parts = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
        parts |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    return f"blocks.{stage}.{i}.{parts.get(part, part)}.{leaf}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
