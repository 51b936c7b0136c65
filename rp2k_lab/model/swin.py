"""Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030); parameter names are timm's."""

from collections.abc import Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from rp2k_lab.model import custom_operators
from rp2k_lab.model.backbone import Backbone
from rp2k_lab.model.dropout import drop_path
from rp2k_lab.model.layers import Dense, LayerNorm, Mlp, conv
from rp2k_lab.model.scaling import scaled

WINDOW = 7
DEPTHS, HEADS, CHANNELS = (2, 2, 6, 2), (3, 6, 12, 24), 96  # Swin-T


def window_of(side: int) -> tuple[int, int]:
    """Return (window, shift) along one axis of a feature map; a window that covers the side is not shifted (timm)."""
    return (side, 0) if side <= WINDOW else (WINDOW, WINDOW // 2)


def relative_position_index(height: int, width: int) -> np.ndarray:
    """Return int32 (area, area): the row of the bias table for each pair of tokens of a window.

    The table always has the (2 · 7 - 1)² rows of a full window.  A smaller window uses its middle, so that weights fit
    every input size.
    """
    y, x = (axis.ravel() for axis in np.mgrid[:height, :width])
    dy, dx = (axis[:, None] - axis[None, :] + WINDOW - 1 for axis in (y, x))
    return (dy * (2 * WINDOW - 1) + dx).astype(np.int32)


def attention_mask(height: int, width: int) -> np.ndarray:
    """Return float32 (windows, area, area): -100 between tokens that only the cyclic shift made neighbors, else 0.

    As in timm, regions are counted from the end of the padded map.  Where the window does not divide the side, some
    wrapped rows therefore still attend to each other.

    Args:
        height, width: sides of the feature map (tokens; figure 4 of the paper).
    """

    def region(side: int) -> tuple[np.ndarray, int]:
        window, shift = window_of(side)
        index = np.arange(-(-side // window) * window)
        regions = (index >= len(index) - window).astype(int) + (index >= len(index) - shift) if shift else 0 * index
        return regions, window

    (rows, window_height), (columns, window_width) = region(height), region(width)
    regions = 3 * rows[:, None] + columns[None, :]
    tiles = regions.reshape(len(rows) // window_height, window_height, len(columns) // window_width, window_width)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(-1, window_height * window_width)
    return np.where(tiles[:, :, None] == tiles[:, None, :], 0.0, -100.0).astype(np.float32)


def window_order(height: int, width: int, down: int, right: int) -> np.ndarray:
    """Return int32 (places,): the token of each place of the windows, one window after the other; -1 for padding.

    Args:
        height, width: sides of the feature map (tokens).
        down, right: cyclic shift of the map, up and left.
    """

    def positions(side: int, shift: int) -> np.ndarray:
        window, _ = window_of(side)
        index = np.arange(-(-side // window) * window)
        return np.where(index < side, (index + shift) % side, -1).reshape(-1, window)

    rows, columns = positions(height, down)[:, None, :, None], positions(width, right)[None, :, None, :]
    return np.where((rows < 0) | (columns < 0), -1, rows * width + columns).astype(np.int32).ravel()


def merge_order(height: int, width: int) -> np.ndarray:
    """Return int32 (places,): the tokens of each 2×2 tokens, column by column, -1 for padding."""
    rows, columns = (np.arange(side + side % 2).reshape(-1, 2) for side in (height, width))
    rows, columns = rows[:, None, None, :], columns[None, :, :, None]
    outside = (rows >= height) | (columns >= width)
    return np.where(outside, -1, rows * width + columns).astype(np.int32).ravel()


def inverse_order(order: np.ndarray) -> np.ndarray:
    """Return the place of each token, int32, for the token of each place (-1: none)."""
    places = np.flatnonzero(order >= 0)
    return places[np.argsort(order[places])].astype(np.int32)


@constexpr
def _orders(height: int, width: int, down: int, right: int) -> tuple[Tensor, Tensor]:
    order = window_order(height, width, down, right)
    return Tensor(order), Tensor(inverse_order(order))


@constexpr
def _merge_orders(height: int, width: int) -> tuple[Tensor, Tensor]:
    order = merge_order(height, width)
    return Tensor(order), Tensor(inverse_order(order))


@constexpr
def _mask(height: int, width: int) -> Tensor:
    return Tensor(attention_mask(height, width)[:, None])


@constexpr
def _index(height: int, width: int) -> Tensor:
    return Tensor(relative_position_index(height, width).ravel())


def _pad(x: Tensor, height: int, width: int) -> Tensor:
    """Pad (batch, rows, columns, channels) with zeros at the bottom and right."""
    batch, rows, columns, channels = x.shape
    if height > rows:
        x = ops.concat((x, ops.zeros((batch, height - rows, columns, channels), x.dtype)), 1)
    if width > columns:
        x = ops.concat((x, ops.zeros((batch, height, width - columns, channels), x.dtype)), 2)
    return x


def _roll(x: Tensor, down: int, right: int) -> Tensor:
    """Shift (batch, rows, columns, channels) cyclically up and left, by concatenation: ONNX has no Roll."""
    if down:
        x = ops.concat((x[:, down:], x[:, :down]), 1)
    if right:
        x = ops.concat((x[:, :, right:], x[:, :, :right]), 2)
    return x


class WindowAttention(nn.Cell):
    """Multi-head self-attention within windows, with a learned relative position bias (section 3.2 of the paper)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        rows = (2 * WINDOW - 1) ** 2
        self.relative_position_bias_table = Parameter(Tensor(np.zeros((rows, heads), np.float32)))
        self.qkv = Dense(channels, 3 * channels)
        self.proj = Dense(channels, channels)

    def construct(self, x, index, mask):
        """Return attended tokens: (windows, area, channels) to the same shape.

        Args:
            index: int32 (area · area,), see `relative_position_index`.
            mask: float32 (windows an image, 1, area, area), or None without a shift.
        """
        area = x.shape[1]
        bias = ops.gather(self.relative_position_bias_table, index, 0).reshape(area, area, self.heads)
        qkv, bias = self.qkv(x), bias.transpose(2, 0, 1)
        if custom_operators.in_use(qkv.dtype):
            masks = ops.zeros((1, 1, 1), qkv.dtype) if mask is None else mask.reshape(-1, area, area)
            return self.proj(custom_operators.attention(qkv, bias, masks))
        return self.proj(self.attend(qkv, bias, mask))

    def attend(self, qkv: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attended values: (windows, area, 3 · channels) to (windows, area, channels)."""
        windows, area, channels = qkv.shape
        qkv = qkv.reshape(windows, area, 3 * self.heads, channels // (3 * self.heads)).transpose(0, 2, 1, 3)
        query, key, value = ops.split(qkv, self.heads, 1)
        scores = ops.matmul(query * self.scale, key.transpose(0, 1, 3, 2))
        # Mixed precision casts neither what `gather` returns nor a constant.
        scores = ops.add(scores, bias.astype(scores.dtype))
        if mask is not None:
            scores = scores.reshape(-1, mask.shape[0], self.heads, area, area)
            scores = ops.add(scores, mask.astype(scores.dtype))
            scores = scores.reshape(windows, self.heads, area, area)
        attended = ops.matmul(ops.softmax(scores, -1), value).transpose(0, 2, 1, 3)
        return attended.reshape(windows, area, channels // 3)


class Block(nn.Cell):
    """Attention within (shifted) windows, then an MLP, each on normalized tokens and with a residual (figure 3b)."""

    def __init__(self, channels: int, heads: int, shifted: bool, drops: tuple[nn.Cell, nn.Cell]):
        super().__init__()
        self.shifted = shifted
        self.norm1 = LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.norm2 = LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.drop_path1, self.drop_path2 = drops

    def construct(self, x):
        x = ops.add(x, self.drop_path1(self.attend(self.norm1(x))))
        return ops.add(x, self.drop_path2(self.mlp(self.norm2(x))))

    def attend(self, x: Tensor) -> Tensor:
        """Return attended tokens: (batch, rows, columns, channels) to the same shape."""
        batch, rows, columns, channels = x.shape
        (height, down), (width, right) = window_of(rows), window_of(columns)
        if not self.shifted:
            down, right = 0, 0
        mask = _mask(rows, columns) if down or right else None
        index = _index(height, width)
        if custom_operators.in_use(x.dtype):
            order, inverse = _orders(rows, columns, down, right)
            x = custom_operators.take_rows(x.reshape(batch, rows * columns, channels), order, inverse)
            x = self.attn(x.reshape(-1, height * width, channels), index, mask)
            x = custom_operators.take_rows(x.reshape(batch, -1, channels), inverse, order)
            return x.reshape(batch, rows, columns, channels)
        x = _roll(x, down, right)
        down_windows, right_windows = -(-rows // height), -(-columns // width)
        x = _pad(x, down_windows * height, right_windows * width)
        x = x.reshape(batch, down_windows, height, right_windows, width, channels).transpose(0, 1, 3, 2, 4, 5)
        x = self.attn(x.reshape(-1, height * width, channels), index, mask)
        x = x.reshape(batch, down_windows, right_windows, height, width, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, down_windows * height, right_windows * width, channels)[:, :rows, :columns]
        return _roll(x, rows - down if down else 0, columns - right if right else 0)


class PatchMerging(nn.Cell):
    """2×2 tokens to one token with twice the channels; an odd side is padded with zeros."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = LayerNorm(4 * channels)
        self.reduction = nn.Dense(4 * channels, 2 * channels, has_bias=False)

    def construct(self, x):
        batch, height, width, channels = x.shape
        rows, columns = -(-height // 2), -(-width // 2)
        if custom_operators.in_use(x.dtype):
            order, inverse = _merge_orders(height, width)
            x = custom_operators.take_rows(x.reshape(batch, height * width, channels), order, inverse)
        else:
            x = _pad(x, 2 * rows, 2 * columns)
            x = x.reshape(batch, rows, 2, columns, 2, channels).transpose(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, rows, columns, 4 * channels)))


class Stage(nn.Cell):
    """[Patch merging], then blocks; every other block shifts its windows."""

    def __init__(self, channels: int, heads: int, merge: bool, drops: Sequence[tuple[nn.Cell, nn.Cell]]):
        super().__init__()
        self.downsample = PatchMerging(channels // 2) if merge else nn.Identity()
        self.blocks = nn.SequentialCell([Block(channels, heads, i % 2 == 1, drop) for i, drop in enumerate(drops)])

    def construct(self, x):
        return self.blocks(self.downsample(x))


class PatchEmbedding(nn.Cell):
    """Images (batch, 3, height, width) to tokens (batch, height / 4, width / 4, channels)."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj = conv(3, channels, 4, 4, bias=True, padding=0)
        self.norm = LayerNorm(channels)

    def construct(self, images):
        return self.norm(self.proj(images).transpose(0, 2, 3, 1))


def _heads(channels: int, multiplier: float) -> list[int]:
    """Return the heads of each stage for an embedding of `channels` channels."""
    heads = [max(1, round(n * multiplier)) for n in HEADS]
    for i, n in enumerate(heads):
        if channels * 2**i % n:
            problem = f"stage {i + 1} would have {channels * 2**i} channels, not divisible by its {n} heads"
            fits = max(1, round(3 * multiplier)) / 3
            raise ValueError(f"model.width_multiplier={multiplier:g}: {problem}\nuse model.width_multiplier={fits:.3g}")
    return heads


class Swin(Backbone):
    """Normalized float32 images (batch, 3, height, width), sides multiples of 4, to features (batch, channels, h, w).

    Section 3 of the paper, Swin-T; 768 channels unless multiplied.  The reference fixes the input size when it is
    built.  Here the same weights take every size: windows are cut to the side of a smaller feature map, as in timm.

    Args:
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 in the first.
        width_multiplier: factor for all channels.  The heads of each stage scale with it (nearest integer, a half to
            even, at least 1) and keep about 32 channels each, exactly 32 at multiples of 1/3.
        depth_multiplier: factor for every stage's blocks (nearest integer, a half up, at least 1).  A stage of one
            block has no shifted windows, so its tokens attend only within a window.

    Raises:
        ValueError: the heads of a stage do not divide its channels.
    """

    num_stages = 1 + len(DEPTHS)
    smallest_input = 32
    input_multiple = 4
    dense_std = 0.02  # deviation of the initial weights, as in the authors' code

    def __init__(self, drop_path_rate: float = 0.0, width_multiplier: float = 1.0, depth_multiplier: float = 1.0):
        super().__init__()
        channels, depths = scaled(CHANNELS, width_multiplier), [scaled(n, depth_multiplier) for n in DEPTHS]
        self.num_features = channels * 2 ** (len(DEPTHS) - 1)
        self.patch_embed = PatchEmbedding(channels)
        rates = np.linspace(0.0, drop_path_rate, sum(depths))
        drops = [(drop_path(rate), drop_path(rate)) for rate in rates]
        stages, first = [], 0
        for i, (depth, heads) in enumerate(zip(depths, _heads(channels, width_multiplier), strict=True)):
            stages.append(Stage(channels * 2**i, heads, i > 0, drops[first : first + depth]))
            first += depth
        self.layers = nn.SequentialCell(stages)
        self.norm = LayerNorm(self.num_features)

    def parts(self):
        return [(self.patch_embed,), *((stage,) for stage in self.layers.cell_list)]

    def run(self, x, first, last):
        if first == 0:
            x = self.patch_embed(x)
        for stage in self.layers.cell_list[max(first - 1, 0) : last - 1]:
            x = stage(x)
        if first <= self.num_stages < last:
            x = self.norm(x).transpose(0, 3, 1, 2)
        return x

    def final_norm(self):
        return None
