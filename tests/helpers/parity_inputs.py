"""Weights and inputs that both sides of the parity tests draw with NumPy, so that no weights need storing."""

import zlib

import numpy as np

SQUARE, TALL = (224, 224), (256, 224)
TRAINING_CLASSES, TRAINING_BATCH, SMOOTHING = 10, 4, 0.1


def draw_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a parameter, float32 of `shape`, by its name in the reference.

    The spread lets the image reach the logits and saturates no gate.  The last norm of a ResNet's residual branch is
    small, as in a trained network: with large norms the gradients grow over a hundred layers until PyTorch's float32
    and float64 differ by a tenth after one step.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        values = rng.uniform(0.4, 0.6, shape) if name.startswith("blocks.") else rng.uniform(0.5, 1.5, shape)
    elif leaf in ("running_mean", "bias"):
        values = rng.normal(0, 0.03, shape)
    elif leaf in ("relative_position_bias_table", "pos_embed", "cls_token"):
        values = rng.normal(0, 0.5, shape)
    elif name.startswith("layer") and name.endswith("bn3.weight"):
        values = rng.uniform(0.05, 0.2, shape)
    elif len(shape) == 1:
        values = rng.uniform(0.4, 1.0, shape)
    else:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    return values.astype(np.float32)


def draw_images(count: int, size: tuple[int, int]) -> np.ndarray:
    """Draw normalized images, float32 (count, 3, height, width): patches of color at four scales."""
    rng = np.random.default_rng(sum(size))
    images = np.zeros((count, 3, *size))
    for side in (1, 4, 16, 64):
        grid = rng.normal(size=(count, 3, -(-size[0] // side), -(-size[1] // side)))
        images += np.kron(grid, np.ones((side, side)))[:, :, : size[0], : size[1]]
    return (images / 2).astype(np.float32)


def draw_labels() -> np.ndarray:
    """Draw the labels of the training batch, int32."""
    return np.random.default_rng(1).integers(0, TRAINING_CLASSES, TRAINING_BATCH).astype(np.int32)


def evaluation_sizes(model: str) -> tuple[tuple[int, int], ...]:
    """Return the (height, width) at which the logits are compared: square, then taller.

    ViT-S has its own grid of positions first, then another; DINOv2's table is always resized.
    """
    sizes = {"convnext_tiny": ((64, 64), (96, 64)), "vit_small": (SQUARE, (96, 64))}
    return (sizes | {"vit_small_dinov2": ((70, 70), (98, 70))}).get(model, (SQUARE, TALL))


def training_size(model: str) -> tuple[int, int]:
    """Return the smallest size that leaves the last batch norms more than one value a channel."""
    sizes = {"inception_resnet_v2": (107, 107), "swin_tiny": SQUARE, "vit_small_dinov2": (70, 70)}
    return sizes.get(model, (64, 64))


def learning_rate(model: str) -> float:
    """Return a learning rate whose step shows in the weights, but without PyTorch's rounding errors."""
    return {"inception_resnet_v2": 0.005, "swin_tiny": 0.05}.get(model, 0.01)


def first_weight(names: list[str]) -> str:
    """Return the parameter near the images whose step is compared, of the names of matrices: a position table if any.

    At the training size it is resized inside the network.
    """
    return "pos_embed" if "pos_embed" in names else names[0]


def probe(values: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` evenly spaced elements."""
    flat = np.asarray(values, np.float32).ravel()
    return flat[np.linspace(0, len(flat) - 1, min(count, len(flat))).astype(int)]
