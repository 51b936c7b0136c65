"""Window arithmetic against loops over tokens; test_parity.py compares the whole network."""

from itertools import product

import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.device import precision
from rp2k_lab.model import swin
from tests.helpers import numpy_layers

# (height, width) of feature maps: one window, several, sides not divisible by 7, sides shorter than a window.
MAPS = [(7, 7), (14, 14), (14, 21), (8, 8), (9, 16), (5, 20), (14, 3), (3, 4), (1, 1)]
HEADS, CHANNELS = 2, 8


def tokens(height, width):
    return list(product(range(height), range(width)))


@pytest.mark.parametrize(("side", "expected"), [(1, (1, 0)), (4, (4, 0)), (7, (7, 0)), (8, (7, 3)), (56, (7, 3))])
def test_a_window_that_covers_the_side_is_not_shifted(side, expected):
    assert swin.window_of(side) == expected


@pytest.mark.parametrize(("height", "width"), [(7, 7), (3, 4), (7, 2), (1, 1)])
def test_the_bias_table_has_a_row_for_every_displacement(height, width):
    rows = {displacement: row for row, displacement in enumerate(product(range(-6, 7), repeat=2))}
    index = swin.relative_position_index(height, width)
    pairs = [[rows[y - other_y, x - other_x] for other_y, other_x in tokens(height, width)]
             for y, x in tokens(height, width)]  # fmt: skip
    np.testing.assert_array_equal(index, pairs)


def windows(height, width):
    """Yield the tokens' positions of each window in the shifted and padded map, row by row."""
    (window_height, _), (window_width, _) = swin.window_of(height), swin.window_of(width)
    for top, left in product(range(0, height, window_height), range(0, width, window_width)):
        yield [(top + y, left + x) for y, x in tokens(window_height, window_width)]


def side_of(position, side):
    """Return whether a position lies behind the border of the cyclic shift in the last window."""
    window, shift = swin.window_of(side)
    padded = -(-side // window) * window
    return shift > 0 and position >= padded - shift


@pytest.mark.parametrize(("height", "width"), MAPS)
def test_mask_divides_the_last_windows_at_the_border_of_the_shift(height, width):
    expected = []
    for window in windows(height, width):
        sides = [(side_of(y, height), side_of(x, width)) for y, x in window]
        expected.append([[0 if one == other else -100 for other in sides] for one in sides])
    mask = swin.attention_mask(height, width)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(("height", "width"), [(14, 14), (14, 21), (28, 7), (7, 7)])
def test_mask_passes_exactly_what_was_near_before_the_shift(height, width):
    """For sides divisible by 7: tokens of a window that were more than a window apart are masked."""
    for mask, window in zip(swin.attention_mask(height, width), windows(height, width), strict=True):
        for (i, one), (j, other) in product(enumerate(window), repeat=2):
            near = True
            for position, other_position, side in zip(one, other, (height, width), strict=True):
                shift = swin.window_of(side)[1]
                near &= abs((position + shift) % side - (other_position + shift) % side) < 7
            assert (mask[i, j] == 0) == near


def attended(x, cell, index, mask):
    """Return the attended tokens (area, channels) of one window, query by query."""
    area, width = len(x), CHANNELS // HEADS
    query, key, value = numpy_layers.dense(x, cell.qkv).reshape(area, 3, HEADS, width).transpose(1, 2, 0, 3)
    table = numpy_layers.array(cell.relative_position_bias_table)
    result = np.zeros((area, CHANNELS))
    for head, i in product(range(HEADS), range(area)):
        scores = [query[head, i] @ key[head, j] / np.sqrt(width) + table[index[i, j], head] for j in range(area)]
        weights = np.exp(np.array(scores) + mask[i])
        result[i, head * width : (head + 1) * width] = weights @ value[head] / weights.sum()
    return numpy_layers.dense(result, cell.proj)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("height", "width"), MAPS)
def test_a_block_attends_within_its_windows(height, width, shifted):
    """All maps share a table, of which smaller windows use a part; padding is attended to."""
    block = numpy_layers.draw_parameters(swin.Block(CHANNELS, HEADS, shifted, (None, None)))
    x = np.random.default_rng(1).normal(size=(2, height, width, CHANNELS)).astype(np.float32)
    result = block.attend(Tensor(x)).asnumpy()

    down, right = (swin.window_of(side)[1] * shifted for side in (height, width))
    masks = swin.attention_mask(height, width) * (down > 0 or right > 0)
    index = swin.relative_position_index(swin.window_of(height)[0], swin.window_of(width)[0])
    expected = np.zeros_like(x)
    for image, (window, mask) in product(range(2), zip(windows(height, width), masks, strict=True)):
        # Position of each token of the window in the image, or None in the padding.
        positions = [
            ((y + down) % height, (x + right) % width) if y < height and x < width else None for y, x in window
        ]
        inside = np.array([x[image][position] if position else np.zeros(CHANNELS) for position in positions])
        for position, token in zip(positions, attended(inside, block.attn, index, mask), strict=True):
            if position:
                expected[image][position] = token
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 4), (3, 1)])
def test_merging_concatenates_2_by_2_tokens(height, width):
    cell = numpy_layers.draw_parameters(swin.PatchMerging(3))
    x = np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)
    result = cell(Tensor(x)).asnumpy()
    even = np.zeros((2, height + height % 2, width + width % 2, 3))
    even[:, :height, :width] = x
    joined = np.concatenate([even[:, down::2, right::2] for right, down in product((0, 1), repeat=2)], -1)
    centered = joined - joined.mean(-1, keepdims=True)
    normed = centered / np.sqrt(centered.var(-1, keepdims=True) + 1e-5)
    normed = normed * numpy_layers.array(cell.norm.gamma) + numpy_layers.array(cell.norm.beta)
    np.testing.assert_allclose(result, normed @ numpy_layers.array(cell.reduction.weight).T, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("graph_mode")
def test_a_shifted_block_trains_under_o2():
    """Its softmax, bias table and mask are in the precision of its values."""
    block = nn.SequentialCell([swin.Block(6, 2, True, (nn.Identity(), nn.Identity()))])
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 6)).astype(np.float32)
    optimizer = nn.Momentum(block.trainable_params(), 0.1, 0.9)
    train = nn.TrainOneStepCell(nn.WithLossCell(precision.cast(block, "O2"), nn.MSELoss()), optimizer).set_train()
    losses = [float(train(Tensor(x), Tensor(np.zeros_like(x))).asnumpy()) for _ in range(5)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
