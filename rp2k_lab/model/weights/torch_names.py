"""Names of PyTorch weights in our networks.

Our names are timm's, except for norms (gamma and beta instead of weight and bias) and the classifier.  Names of other
sources are mapped to them.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, Tensor, nn

from rp2k_lab.model.efficientnet import EfficientNet
from rp2k_lab.model.network import Network
from rp2k_lab.model.weights.torch_unpickler import excerpt

# Entries of a file that are not parameters: counters, and constants that our networks compute.
_NO_PARAMETER = re.compile(r"num_batches_tracked$|relative_position_index$|attn_mask$")
_RENAMED = [
    (r"^(classifier|classif|head\.fc|head|last_linear|_fc)\.(weight|bias)$", r"fc.\2"),
    # facebookresearch/ConvNeXt, then timm's
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"^(stages\.\d\.blocks\.\d+)\.gamma$", r"\1.layer_scale.scale"),
    (r"^head\.norm\.", "norm."),
    # timm's ViT
    (r"\.(ls\d)\.gamma$", r".\1.scale"),
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
    """The parameters of a network that a file has.

    Attributes:
        loaded: network name to the file's value, of the right shape.
        missing: network names that the file lacks.
        unexpected: file names that the network lacks.
        foreign: unexpected names inside a part of the network, e.g. another block of a stage.  They indicate weights of
            another network; an optimizer's state is only unexpected.
        other_shape: (network name, network shape, file shape).
        resized: the same for tables of positions that were resized for the network; they are in `loaded`.
    """

    loaded: dict[str, np.ndarray]
    missing: list[str]
    unexpected: list[str]
    foreign: list[str]
    other_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    resized: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def problem(self) -> str | None:
        """Return one line on why the file does not fit the network; None if it has every parameter."""
        if self.other_shape:
            name, network_shape, file_shape = self.other_shape[0]
            more = f" (and {len(self.other_shape) - 1} more)" if len(self.other_shape) > 1 else ""
            return f"{name} is {_shape(file_shape)} in the file and {_shape(network_shape)} in the network{more}"
        if self.foreign:
            more = f" (and {len(self.foreign) - 1} more)" if len(self.foreign) > 1 else ""
            return f"the network has no parameter for {excerpt(self.foreign[0])} of the file{more}"
        if self.missing:
            return f"the file lacks {len(self.missing)} of the network's parameters, the first is {self.missing[0]}"
        return None

    def resizing(self) -> list[str]:
        """Return a line on each table of positions that was resized, with the option that avoids it."""
        return [
            f"{name}: {file_shape[1]} positions resized to {shape[1]}; model.grid={math.isqrt(file_shape[1] - 1)} "
            "keeps the file's"
            for name, shape, file_shape in self.resized
        ]


def match_torch_weights(net: Network, state: Mapping[str, np.ndarray], with_classifier: bool = True) -> Match:
    """Match the parameters of a network and a PyTorch state by name and shape.

    Args:
        state: PyTorch's parameter names to arrays (layouts are equal).
        with_classifier: False: ignore the head on both sides.
    """
    is_efficientnet = isinstance(net.backbone, EfficientNet)
    entries = renamed(state, net.backbone.num_blocks() if is_efficientnet else ())
    head = set() if with_classifier else {torch_name(parameter.name) for parameter in net.head.get_parameters()}
    fit: Callable[[str, np.ndarray], np.ndarray] = getattr(net.backbone, "resized", lambda _, value: value)
    loaded, missing, other_shape, resized = {}, [], [], []
    for name, parameter in _parameters(net).items():
        if name in head:
            entries.pop(name, None)
        elif name not in entries:
            missing.append(name)
        else:
            original = entries.pop(name)[1]
            value = fit(name, original)
            shapes = (name, parameter.shape, original.shape)
            if value.shape == parameter.shape:
                loaded[name] = value
                resized += [shapes] if original.shape != parameter.shape else []
            else:
                other_shape.append(shapes)
    parts = {*net.backbone.name_cells(), *(net.head.name_cells() if with_classifier else ())}
    foreign = [original for name, (original, _) in entries.items() if name.partition(".")[0] in parts]
    unexpected = [original for original, _ in entries.values()]
    return Match(loaded, missing, unexpected, foreign, other_shape, resized)


def load_torch_weights(net: Network, state: Mapping[str, np.ndarray], with_classifier: bool = True) -> Match:
    """Load a PyTorch state into a network, in place; see `match_torch_weights`.

    Raises:
        ValueError: a parameter is missing or has another shape; the network is unchanged.
    """
    match = match_torch_weights(net, state, with_classifier)
    if problem := match.problem():
        raise ValueError(problem)
    parameters = _parameters(net)
    for name, value in match.loaded.items():
        parameters[name].set_data(Tensor(np.ascontiguousarray(value, np.float32)))
    return match


def _parameters(net: nn.Cell) -> dict[str, Parameter]:
    """Return the parameters that a PyTorch state also has, by their names in it."""
    return {torch_name(p.name): p for p in net.get_parameters() if not p.name.endswith(".step")}


def torch_name(name: str) -> str:
    """Return the PyTorch name of a parameter: gamma is weight, moving_mean is running_mean."""
    module, dot, leaf = name.rpartition(".")
    leaves = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    return f"{module}{dot}{leaves.get(leaf, leaf)}"


def renamed(
    state: Mapping[str, np.ndarray], num_blocks: Sequence[int] = (1, 2, 2, 3, 3, 4, 1)
) -> dict[str, tuple[str, np.ndarray]]:
    """Return a mapping from timm's form of each name to (the file's name, value).

    Args:
        num_blocks: blocks of each stage of an EfficientNet, which EfficientNet-PyTorch's files count as one sequence.
    """
    # Microsoft's Swin merges at the end of a stage, timm's at the beginning of the next.
    merges_at_end = any(name.startswith("layers.0.downsample.") for name in state)
    renamed = {}
    for original, value in state.items():
        if _NO_PARAMETER.search(original):
            continue
        name = _from_lukemelas(original, num_blocks)
        if merges_at_end:
            name = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        while name in renamed:  # two names for one parameter: both are reported
            name += "?"
        renamed[name] = (original, value)
    return renamed


def _from_lukemelas(name: str, num_blocks: Sequence[int]) -> str:
    """Return EfficientNet-PyTorch's names (`_blocks.3._project_conv.weight`) in timm's form, others unchanged.

    Only for Lite: that package's B0 pads as TensorFlow does, ours as timm's B0.
    """
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    module, _, leaf = name.rpartition(".")
    if module in top:
        return f"{top[module]}.{leaf}"
    if not (match := re.match(r"_blocks\.(\d+)\.(\w+)$", module)):
        return name
    number, part = int(match[1]), match[2]
    positions = [(stage, i) for stage, count in enumerate(num_blocks) for i in range(count)]
    if number >= len(positions):
        return name
    stage, i = positions[number]
    if stage == 0:  # without expansion
        parts = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    else:
        parts = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
        parts |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    return f"blocks.{stage}.{i}.{parts.get(part, part)}.{leaf}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
