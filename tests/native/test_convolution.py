"""Convolutions by the native library, forward and both gradients, against float64."""

from dataclasses import replace

import numpy as np
import pytest

from tests.native import onednn as dnn
from tests.native.convolutions import FAMILIES, LARGE, SMALL, Convolution, check, draw_convolution, steps

pytestmark = pytest.mark.slow

# Least fraction of primitives that a family computes in other layouts than the caller's, without which nothing of ours
# would be tested.
LEAST_REORDERED = {"dense": 0.5, "pointwise": 0.25, "grouped": 0.1, "depthwise": 0.0, "one": 0.0, "three": 0.0}


@pytest.mark.parametrize("family", FAMILIES)
def test_random_convolutions(onednn, family):
    random, cases = np.random.default_rng(0), 8 if family in ("one", "three") else 30
    reordered = [check(onednn, draw_convolution(family, random, SMALL), random) for _ in range(cases)]
    assert np.mean(reordered) >= LEAST_REORDERED[family]


@pytest.mark.soak
@pytest.mark.parametrize("family", FAMILIES)
def test_large_random_convolutions(onednn, family):
    random = np.random.default_rng(1)
    for _ in range(40):
        check(onednn, draw_convolution(family, random, LARGE), random)


def flat(channels: tuple[int, int], size: int, kernel: int, stride: int = 1, groups: int = 1) -> Convolution:
    """Return a convolution of 2 images in two dimensions, padded by half of its kernel."""
    pad = (kernel // 2,) * 2
    channels = (channels[0] // groups, channels[1] // groups)
    return Convolution(2, groups, *channels, (size,) * 2, (kernel,) * 2, (stride,) * 2, (1, 1), pad, pad, False)


# Each width of a map takes another path through the copies: tiles of 8 × 8 and 4 × 4, the rest one by one.
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 9])
@pytest.mark.parametrize("channels", [(16, 16), (24, 33), (67, 5)])
def test_small_maps(onednn, channels, size):
    check(onednn, flat(channels, size, 3), np.random.default_rng(0))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(flat((256, 512), 2, 3), id="many channels"),
        pytest.param(flat((3, 64), 64, 7, stride=2), id="first layer"),
        pytest.param(flat((128, 256), 14, 1, stride=2), id="shortcut"),
        pytest.param(flat((128, 128), 14, 3, groups=32), id="ResNeXt"),
        pytest.param(flat((16, 96), 112, 1), id="10 MB"),
        pytest.param(flat((96, 96), 28, 5, stride=2, groups=96), id="depthwise 5"),
        pytest.param(flat((144, 144), 29, 3, groups=144), id="depthwise 3"),
    ],
)
def test_layers_of_networks(onednn, case):
    check(onednn, case, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "ours"),
    [({}, [True, True, True]), ({"bias": True}, [False, True, False]), ({"dilation": (2, 2)}, [False, False, False])],
)
def test_depthwise_of_a_megabyte(onednn, change, ours):
    """Our kernels have neither bias nor dilation."""
    case, random = replace(flat((72, 72), 48, 3, groups=72), **change), np.random.default_rng(0)
    check(onednn, case, random)
    arrays = case.draw(random)
    with steps(onednn, case) as all_steps:
        assert [step.is_ours(arrays) for step in all_steps] == ours


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        pytest.param(dnn.FLOAT, (0, 2, 3, 1), id="channels last"),
        pytest.param(dnn.BFLOAT16, None, id="bfloat16"),
    ],
)
def test_other_layouts_and_types_are_left_to_onednn(onednn, kind, order):
    """They would be wrong if the library took them for plain float32.  Here oneDNN takes them as they are."""
    case = flat((32, 32), 8, 3)
    source, weights, target = (case.shapes[key] for key in (dnn.SOURCE, dnn.WEIGHTS, dnn.TARGET))
    layouts = onednn.layout(source, kind, order), onednn.layout(weights, kind), onednn.layout(target, kind)
    axes = [dnn.sizes(axis) for axis in (case.stride, (0, 0), case.before, case.after)]
    arguments = dnn.TRAINING, dnn.DIRECT, layouts[0], layouts[1], None, layouts[2], *axes, None
    try:
        with onednn.primitive("convolution_forward", *arguments) as primitive:
            for key, layout in zip((dnn.SOURCE, dnn.WEIGHTS, dnn.TARGET), layouts, strict=True):
                assert onednn.has_layout(primitive.desc, key, layout)
    except dnn.Refused as refusal:
        if not str(refusal).endswith("status 3"):
            raise
        pytest.skip("oneDNN has none for this processor")


def test_addresses_are_used_again(onednn):
    """oneDNN gives the next primitive, of a kind that is not ours, the address of a destroyed convolution."""
    random, relu = np.random.default_rng(0), 0x20
    case = flat((16, 32), 6, 3)
    shape = case.shapes[dnn.SOURCE]
    layout, zero = onednn.layout(shape), dnn.floating(0)
    used, used_again = set(), 0
    for _ in range(500):
        with steps(onednn, case) as all_steps:
            used |= {step.primitive.desc.value for step in all_steps}
        with onednn.primitive("eltwise_forward", dnn.TRAINING, relu, layout, layout, zero, zero, None) as primitive:
            used_again += primitive.desc.value in used
            source = random.normal(size=shape).astype(np.float32)
            result = primitive.run({dnn.SOURCE: source}, {dnn.TARGET: shape})[dnn.TARGET]
        np.testing.assert_array_equal(result, np.maximum(source, 0))
        if used_again == 3:
            return
    pytest.fail("no address was used again")


def test_what_onednn_refuses(onednn):
    """A source of 3 channels and weights of 4."""
    source, weights, target = map(onednn.layout, ((1, 3, 4, 4), (8, 4, 1, 1), (1, 8, 4, 4)))
    axes = [dnn.sizes(axis) for axis in ((1, 1), (0, 0), (0, 0), (0, 0))]
    refused = onednn.primitive(
        "convolution_forward", dnn.TRAINING, dnn.DIRECT, source, weights, None, target, *axes, None
    )
    with pytest.raises(dnn.Refused, match="status 2"), refused:
        pass
