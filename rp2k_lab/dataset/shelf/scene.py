"""Draw the image of a truth row, and encode it as a file."""

from collections.abc import Collection, Mapping
from typing import Any

import cv2
import numpy as np

from rp2k_lab.dataset.shelf import nuisance
from rp2k_lab.dataset.shelf.catalog import FLAVOR_BY_NAME, FLAVORS, Catalog, build_catalog
from rp2k_lab.dataset.shelf.drawing import HEIGHT, WIDTH, YAW_STEPS, product_art
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.shelf.plan import NUISANCES

# Random streams of an image, keyed by draw_key and position here: append only, so that earlier streams stay.
_STREAMS = ("pose", "background", *NUISANCES, "copy")
_SHELF_RAILS = ((226, 60, 52), (250, 214, 60), (235, 238, 240), (70, 110, 170))
_AFTER_PLACING = {
    "reflection": nuisance.reflect,
    "brightness": nuisance.expose,
    "color_cast": nuisance.cast_color,
    "blur": nuisance.blur,
}


def draw_image(row: Mapping[str, Any], catalog: Catalog, without: Collection[str] = ()) -> np.ndarray:
    """Draw the image of a truth row: uint8 RGB, the row's height × width × 3.

    Nuisances named in `without` are left out; each has separate random numbers, so the rest does not change.
    """
    strength = {name: 0.0 if name in without else row[name] for name in NUISANCES}
    scene = _background(_stream(row, "background"))
    corners, art, yaw_light = _pose(row, catalog)
    if strength["neighbor"]:
        neighbor, neighbor_corners = _neighbor(catalog, strength["neighbor"], _stream(row, "neighbor"))
        scene = _place(scene, neighbor, neighbor_corners)
    if strength["angle"]:
        corners = nuisance.tilt(corners, strength["angle"], _stream(row, "angle"))
    scene = _place(scene, art, corners, yaw_light)
    for name, apply in _AFTER_PLACING.items():
        if strength[name]:
            scene = apply(scene, strength[name], _stream(row, name))
    if row["near_key"]:
        scene = nuisance.recapture(scene, np.random.default_rng([row["near_key"], _STREAMS.index("copy")]))
    return _to_crop(scene, int(row["height"]), int(row["width"]))


def encode(image: np.ndarray, row: Mapping[str, Any]) -> bytes:
    """Encode the image (uint8 RGB) as the row's file: JPEG of its quality, or PNG, about half with opaque alpha."""
    if row["jpeg_quality"]:
        parameters = [cv2.IMWRITE_JPEG_QUALITY, int(row["jpeg_quality"])]
        return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)[1].tobytes()
    order = cv2.COLOR_RGB2BGRA if row["draw_key"] % 2 else cv2.COLOR_RGB2BGR
    return cv2.imencode(".png", cv2.cvtColor(image, order))[1].tobytes()


def redraw(options: ShelfOptions, truth_row: Mapping[str, Any], without: Collection[str] = ()) -> np.ndarray:
    """Draw the image of a row of truth.parquet without some nuisances: uint8 RGB, height × width × 3.

    Args:
        without: some of "angle", "blur", "reflection", "brightness", "color_cast", "neighbor", "jpeg"; all else stays
            the same.  With none, the result equals the decoded file.

    Raises:
        ValueError: `without` has another name.
    """
    unknown = set(without) - {*NUISANCES, "jpeg"}
    if unknown:
        raise ValueError(f"without={sorted(unknown)}: no such nuisance\nuse some of {', '.join(NUISANCES)}, jpeg")
    image = draw_image(truth_row, build_catalog(options), without)
    if "jpeg" in without or not truth_row["jpeg_quality"]:
        return image
    file = np.frombuffer(encode(image, truth_row), np.uint8)
    decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def _stream(row: Mapping[str, Any], name: str) -> np.random.Generator:
    return np.random.default_rng([row["draw_key"], _STREAMS.index(name)])


def _background(rng: np.random.Generator) -> np.ndarray:
    """Draw the back of a shelf, darker towards the top, and the board's edge with its price rail."""
    wall = rng.uniform(70, 200) + rng.uniform(-12, 12, 3)
    light = np.linspace(rng.uniform(0.5, 0.9), rng.uniform(0.95, 1.15), HEIGHT)
    scene = np.tile((light[:, None] * wall)[:, None, :], (1, WIDTH, 1)).astype(np.float32)
    board = round(HEIGHT * (1 - rng.uniform(0.0, 0.06)))
    scene[board:] = _SHELF_RAILS[rng.integers(len(_SHELF_RAILS))]
    # The pack's shadow on the wall, on either side.
    side = 1 if rng.random() < 0.5 else -1
    scene *= (1 - 0.3 * np.clip(side * np.linspace(-1, 1, WIDTH), 0, 1))[None, :, None].astype(np.float32)
    return np.minimum(scene, 255)


def _pose(row: Mapping[str, Any], catalog: Catalog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the product's corners (pixels), its art, and the light's gain for each of the art's columns."""
    rng = _stream(row, "pose")
    yaw = int(rng.binomial(YAW_STEPS - 1, 0.5))
    left, right = rng.uniform(-0.01, 0.07, 2) * WIDTH
    top, bottom = rng.uniform((0.0, 0.0), (0.06, 0.04)) * HEIGHT
    corners = _corners(left, top, WIDTH - right, HEIGHT - bottom)
    gain = 1 + rng.uniform(-0.22, 0.22) * np.linspace(-1, 1, WIDTH)
    brand, flavor = catalog.brand_by_name[row["brand"]], FLAVOR_BY_NAME[row["flavor"]]
    return corners, product_art(brand, flavor, yaw, int(row["pack"])), gain.astype(np.float32)


def _neighbor(catalog: Catalog, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return art and corners of a random product that reaches 8 to 24 % into the crop from one side."""
    brand = catalog.brands[rng.integers(len(catalog.brands))]
    art = product_art(brand, FLAVORS[rng.integers(len(FLAVORS))], YAW_STEPS // 2, 1)
    visible = 0.24 * strength * WIDTH
    left = visible - 0.97 * WIDTH if rng.random() < 0.5 else WIDTH - visible
    top = rng.uniform(-0.05, 0.1) * HEIGHT
    return art, _corners(left, top, left + 0.97 * WIDTH, HEIGHT)


def _corners(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _place(scene: np.ndarray, art: np.ndarray, corners: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
    """Draw art (premultiplied RGBA) over the scene with its corners at `corners`."""
    matrix = cv2.getPerspectiveTransform(_corners(0, 0, WIDTH, HEIGHT).astype(np.float32), corners.astype(np.float32))
    placed = cv2.warpPerspective(art, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR).astype(np.float32)
    color = placed[..., :3] if gain is None else placed[..., :3] * gain[None, :, None]
    return np.minimum(scene * (1 - placed[..., 3:] / 255) + color, 255)


def _to_crop(scene: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale the canvas to the crop: first down, both axes equally, then one axis up.

    The remaining detail thus depends on the crop's resolution, not on its ratio.
    """
    coarse = (min(width, round(height * WIDTH / HEIGHT)), min(height, round(width * HEIGHT / WIDTH)))
    scene = cv2.resize(scene, coarse, interpolation=cv2.INTER_AREA if coarse[0] < WIDTH else cv2.INTER_LINEAR)
    # Cubic: linear interpolation would blur the stretched axis.
    scene = cv2.resize(scene, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.round(scene), 0, 255).astype(np.uint8)
