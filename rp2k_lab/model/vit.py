"""Vision Transformer (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929); parameter names are timm's.

ViT-S is the size that DeiT introduced (Touvron et al., ICML 2021, arXiv 2012.12877, table 1) and DINOv2 also has.
"""

import itertools
import math

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops import constexpr

from rp2k_lab.model import custom_operators
from rp2k_lab.model.backbone import Backbone
from rp2k_lab.model.dropout import drop_path
from rp2k_lab.model.layers import Dense, LayerNorm, LayerScale, Mlp, conv
from rp2k_lab.model.scaling import scaled

DEPTH, HEADS, CHANNELS = 12, 6, 384  # ViT-S
EPS = 1e-6  # of all norms, as in the authors' code


def resize_matrix(old: int, new: int) -> np.ndarray:
    """Return float32 (new, old): the weights of `old` equally spaced values in each of `new` ones, bicubic.

    Keys' kernel with a = -0.5, widened where the number shrinks (antialiasing), its weights adding up to 1: the rule
    by which timm resizes position tables (PyTorch's `interpolate` with mode="bicubic", antialias=True).
    """
    scale = old / new
    stretch = max(scale, 1.0)
    centers = (np.arange(new) + 0.5) * scale
    distance = np.abs((np.arange(old) + 0.5 - centers[:, None]) / stretch)
    near, far = 1.5 * distance**3 - 2.5 * distance**2 + 1, -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize_table(table: np.ndarray, side: int) -> np.ndarray:
    """Return a position table for a grid of side · side patches: float32 (1, 1 + area, channels), class token first.

    A table that is not one of a square grid with a class token is returned as it is.
    """
    old = math.isqrt(table.shape[1] - 1) if table.ndim == 3 and table.shape[1] > 1 else 0
    if old == 0 or old**2 != table.shape[1] - 1 or old == side:
        return table
    grid, matrix = table[0, 1:].reshape(old, old, -1), resize_matrix(old, side)
    resized = np.einsum("yY,xX,YXc->yxc", matrix, matrix, grid, optimize=True).reshape(1, side**2, -1)
    return np.concatenate((table[:, :1], resized), 1, dtype=np.float32)


@constexpr
def _matrix(old: int, new: int) -> Tensor:
    return Tensor(resize_matrix(old, new))


class Attention(nn.Cell):
    """Multi-head self-attention; tokens (batch, tokens, channels) to the same shape (Vaswani et al., 2017)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.qkv = Dense(channels, 3 * channels)
        self.proj = Dense(channels, channels)

    def construct(self, x):
        batch, tokens, channels = x.shape
        qkv = self.qkv(x)
        if custom_operators.in_use(qkv.dtype):
            no_bias, no_mask = ops.zeros((self.heads, 1, 1), qkv.dtype), ops.zeros((1, 1, 1), qkv.dtype)
            return self.proj(custom_operators.attention(qkv, no_bias, no_mask))
        qkv = qkv.reshape(batch, tokens, 3 * self.heads, channels // self.heads).transpose(0, 2, 1, 3)
        query, key, value = ops.split(qkv, self.heads, 1)
        scores = ops.matmul(query * self.scale, key.transpose(0, 1, 3, 2))
        attended = ops.matmul(ops.softmax(scores, -1), value).transpose(0, 2, 1, 3)
        return self.proj(attended.reshape(batch, tokens, channels))


class Block(nn.Cell):
    """Attention, then an MLP, each on normalized tokens, with [layer scale] and a residual (figure 1 of the paper)."""

    def __init__(self, channels: int, heads: int, layer_scale: float | None, drops: tuple[nn.Cell, nn.Cell]):
        super().__init__()
        self.norm1 = LayerNorm(channels, EPS)
        self.attn = Attention(channels, heads)
        self.ls1 = LayerScale(channels, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = LayerNorm(channels, EPS)
        self.mlp = Mlp(channels, 4 * channels)
        self.ls2 = LayerScale(channels, layer_scale) if layer_scale else nn.Identity()
        self.drop_path1, self.drop_path2 = drops

    def construct(self, x):
        x = ops.add(x, self.drop_path1(self.ls1(self.attn(self.norm1(x)))))
        return ops.add(x, self.drop_path2(self.ls2(self.mlp(self.norm2(x)))))


class PatchEmbedding(nn.Cell):
    """Images (batch, 3, height, width) to a map of patches (batch, channels, height / patch, width / patch)."""

    def __init__(self, channels: int, patch: int):
        super().__init__()
        self.proj = conv(3, channels, patch, patch, bias=True, padding=0)

    def construct(self, images):
        return self.proj(images)


class ViT(Backbone):
    """Normalized float32 images (batch, 3, height, width), sides multiples of `patch`, to (batch, channels, 1, 1).

    Section 3.1 of the paper, ViT-S; the features are the class token's, 384 channels unless multiplied.  The position
    table belongs to a square grid; for images of another size it is resized inside the network, so that the same
    weights take every size.

    Args:
        patch: side of a patch (pixels).
        grid: side of the position table (patches).
        layer_scale: initial factor of each residual branch (arXiv 2103.17239); None: no layer scale.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 in the first.
        width_multiplier: factor for all channels.  The heads scale with it (nearest integer, a half to even, at least
            1), and the channels are their nearest multiple: about 64 for each head.
        depth_multiplier: factor for the number of blocks (nearest integer, a half up, at least 1).
            A stage, for `model.freeze`, is a quarter of them, rounded.
    """

    num_stages = 5
    dense_std = conv_std = 0.02  # deviation of the initial weights, as in timm and DeiT

    def __init__(
        self,
        patch: int = 16,
        grid: int = 14,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        width_multiplier: float = 1.0,
        depth_multiplier: float = 1.0,
    ):
        super().__init__()
        channels, heads = _widths(width_multiplier)
        self.num_features, self.grid = channels, grid
        self.smallest_input, self.input_multiple = 2 * patch, patch
        self.patch_embed = PatchEmbedding(channels, patch)
        self.cls_token = Parameter(Tensor(np.zeros((1, 1, channels), np.float32)))
        self.pos_embed = Parameter(Tensor(np.zeros((1, 1 + grid**2, channels), np.float32)))
        rates = np.linspace(0.0, drop_path_rate, scaled(DEPTH, depth_multiplier))
        drops = [(drop_path(rate), drop_path(rate)) for rate in rates]
        self.blocks = nn.SequentialCell([Block(channels, heads, layer_scale, drop) for drop in drops])
        quarters = [scaled(len(drops), i / 4) for i in (1, 2, 3, 4)]
        self.ends = (0, *quarters, quarters[-1])  # blocks up to the end of the stem, of each stage, and of the norm
        self.norm = LayerNorm(channels, EPS)

    def parts(self):
        quarters = [self.blocks.cell_list[a:b] for a, b in itertools.pairwise(self.ends[:5])]
        return [(self.patch_embed, self.cls_token, self.pos_embed), *quarters]

    def run(self, x, first, last):
        if first == 0:
            x = self.embed(x)
        for block in self.blocks.cell_list[self.ends[max(first - 1, 0)] : self.ends[last - 1]]:
            x = block(x)
        if first <= self.num_stages < last:
            x = self.norm(x[:, 0]).reshape(-1, self.num_features, 1, 1)
        return x

    def embed(self, images: Tensor) -> Tensor:
        """Return tokens (batch, 1 + patches, channels): the class token, and patches with their positions."""
        x = self.patch_embed(images)
        batch, channels, rows, columns = x.shape
        x = x.reshape(batch, channels, rows * columns).transpose(0, 2, 1)
        token = ops.add(self.cls_token, self.pos_embed[:, :1]) * ops.ones((batch, 1, 1), x.dtype)
        return ops.concat((token, ops.add(x, self.positions(rows, columns))), 1)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the position embeddings of a grid of patches, (1, rows · columns, channels)."""
        table, side, channels = self.pos_embed[:, 1:], self.grid, self.num_features
        if rows != side or columns != side:  # bicubic resizing is linear: a product with a matrix along each axis
            table = ops.matmul(_matrix(side, rows).astype(table.dtype), table.reshape(side, side * channels))
            table = ops.matmul(_matrix(side, columns).astype(table.dtype), table.reshape(rows, side, channels))
        return table.reshape(1, rows * columns, channels)

    def resized(self, name: str, value: np.ndarray) -> np.ndarray:
        """Return a parameter of a file as this network takes it: a position table for this network's grid."""
        return resize_table(value, self.grid) if name == "pos_embed" else value

    def final_norm(self):
        return None


def _widths(multiplier: float) -> tuple[int, int]:
    """Return (channels, heads): the multiple of the heads that is nearest to the multiplied channels."""
    heads = max(1, round(HEADS * multiplier))
    return heads * scaled(CHANNELS / heads, multiplier), heads
