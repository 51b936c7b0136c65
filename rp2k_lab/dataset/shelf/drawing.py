"""Draw products as RGBA art of one fixed size.

All drawing happens on a canvas of one shape, 2.25 times as high as wide (RP2K's median ratio is about 2.4), and only
the finished crop is scaled to its height and width.  Marks thus scale with the pack, and two sizes of one product look
the same once both are stretched to the same square.
"""

from functools import lru_cache

import cv2
import numpy as np

from rp2k_lab.dataset.shelf.catalog import PALETTES, Brand, Flavor

HEIGHT, WIDTH = 216, 96
YAW_STEPS = 7
_SCALE = 2  # art is drawn twice as large and scaled down: smooth edges
_H, _W = HEIGHT * _SCALE, WIDTH * _SCALE

# Half of the pack's width at heights from top (0) to bottom (1), as a fraction of the canvas's width.
_PROFILES = {
    "bottle": ((0, 0.15), (0.075, 0.15), (0.08, 0.12), (0.17, 0.13), (0.33, 0.42), (0.38, 0.45), (1, 0.45)),
    "flask": ((0, 0.20), (0.07, 0.20), (0.075, 0.16), (0.12, 0.18), (0.2, 0.42), (0.55, 0.37), (0.95, 0.45), (1, 0.43)),
    "can": ((0, 0.37), (0.05, 0.46), (0.95, 0.46), (1, 0.37)),
    "jar": ((0, 0.40), (0.11, 0.40), (0.115, 0.35), (0.19, 0.46), (0.96, 0.46), (1, 0.42)),
    "cup": ((0, 0.48), (0.045, 0.48), (0.05, 0.45), (1, 0.34)),
    "pouch": ((0, 0.45), (0.05, 0.45), (0.1, 0.41), (0.45, 0.47), (0.85, 0.45), (0.95, 0.41), (1, 0.45)),
    "box": ((0, 0.47), (1, 0.47)),
    "carton": ((0, 0.26), (0.05, 0.26), (0.17, 0.47), (1, 0.47)),
}  # fmt: skip
_LABEL = {
    "bottle": (0.40, 0.90), "flask": (0.24, 0.86), "can": (0.07, 0.93), "jar": (0.24, 0.90), "cup": (0.08, 0.94),
    "pouch": (0.06, 0.94), "box": (0.0, 1.0), "carton": (0.17, 1.0),
}  # fmt: skip
_CAP_END = {"bottle": 0.078, "flask": 0.073, "jar": 0.113, "cup": 0.048}
_ROUND = {"bottle", "flask", "can", "jar", "cup"}
_METAL = (198, 202, 208)
_PAPER, _INK = (252, 252, 252), (70, 40, 30)
Color = tuple[int, int, int]  # RGB


def _polygon(canvas: np.ndarray, points: np.ndarray, color: Color) -> None:
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], color, cv2.LINE_AA, shift=4)


def _regular(corners: int, start: float, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    angles = start + 2 * np.pi * np.arange(corners) / corners
    return np.resize(radii, corners)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


_UP = -np.pi / 2
_OUTLINES = {
    "star": _regular(10, _UP, (1.0, 0.45)),
    "triangle": _regular(3, _UP),
    "diamond": _regular(4, _UP, (1.0, 0.7)),
    "hexagon": _regular(6, _UP),
    "cross": np.array([
        (-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1),
    ]) / 3,
    "peaks": np.array([(-10, 7), (-4, -8), (0, 0), (4, -5), (10, 7)]) / 10,
}  # fmt: skip


def draw_mark(
    canvas: np.ndarray, kind: str, center: tuple[float, float], radius: float, color: Color, ground: Color
) -> None:
    """Draw a mark of catalog.MARKS in place; `ground` is the color behind it, used to cut holes."""
    x, y = center
    spot = (round(x), round(y))
    if kind in _OUTLINES:
        _polygon(canvas, _OUTLINES[kind] * radius + center, color)
    elif kind in ("disc", "ring", "crescent"):
        cv2.circle(canvas, spot, round(radius), color, -1, cv2.LINE_AA)
        if kind != "disc":
            aside = radius * 0.45 if kind == "crescent" else 0
            hole = radius * (0.75 if kind == "crescent" else 0.55)
            cv2.circle(canvas, (round(x + aside), spot[1]), round(hole), ground, -1, cv2.LINE_AA)
    elif kind == "waves":
        across = np.linspace(-1, 1, 17)
        for offset in (-0.6, 0.0, 0.6):
            points = np.stack([across, offset + 0.22 * np.sin(2 * np.pi * across)], 1) * radius + center
            thickness = max(2, round(radius * 0.3))
            cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, color, thickness, cv2.LINE_AA)
    else:
        size = radius / 11
        cv2.putText(
            canvas, kind, (round(x - radius * 0.85), round(y + radius * 0.9)), cv2.FONT_HERSHEY_DUPLEX, size, color,
            max(2, round(radius / 4)), cv2.LINE_AA,
        )  # fmt: skip


def _panel(canvas: np.ndarray, layout: int, top: float, bottom: float, accent: Color, light: Color) -> None:
    """Draw the brand's stripes over the whole texture (two widths of the pack, since it wraps around round packs)."""
    high, wide, middle = bottom - top, canvas.shape[1], canvas.shape[1] / 2
    if layout == 0:
        for y in (top + 0.03 * high, bottom - 0.11 * high):
            cv2.rectangle(canvas, (0, round(y)), (wide, round(y + 0.08 * high)), accent, -1)
    elif layout == 1:
        slanted = np.array([(0, bottom), (0, top + 0.75 * high), (wide, top + 0.35 * high), (wide, bottom)])
        _polygon(canvas, slanted, light)
        cv2.line(canvas, tuple(slanted[1].astype(int)), tuple(slanted[2].astype(int)), accent, 9, cv2.LINE_AA)
    elif layout == 2:
        for x in (middle - 0.44 * _W, middle + 0.30 * _W):
            cv2.rectangle(canvas, (round(x), round(top)), (round(x + 0.14 * _W), round(bottom)), accent, -1)
    else:
        spot = (round(middle), round(top + 0.30 * high))
        cv2.ellipse(canvas, spot, (round(0.43 * _W), round(0.27 * high)), 0, 0, 360, light, -1, cv2.LINE_AA)
        cv2.ellipse(canvas, spot, (round(0.43 * _W), round(0.27 * high)), 0, 0, 360, accent, 6, cv2.LINE_AA)


def _lettering(canvas: np.ndarray, brand: Brand, top: float, high: float, ink: Color) -> None:
    """Draw strokes that resemble the brand's name and small print; a function of the name, not of the flavor."""
    rng = np.random.default_rng([ord(character) for character in brand.name])
    middle, unit = canvas.shape[1] / 2, 0.15 * _W
    for column in range(-1, 2):
        x0, y0 = middle + (column - 0.42) * unit * 1.25, top + 0.46 * high
        for _ in range(4):
            a, b = rng.uniform(0, unit, (2, 2))
            a[rng.integers(2)] = b[0]
            start, end = (a[0] + x0, a[1] * 0.9 + y0), (b[0] + x0, b[1] * 0.9 + y0)
            cv2.line(canvas, tuple(map(round, start)), tuple(map(round, end)), ink, 5, cv2.LINE_AA)
    for line in range(3):
        y = round(top + (0.86 + 0.035 * line) * high)
        length = rng.uniform(0.16, 0.34) * _W
        cv2.line(canvas, (round(middle - length), y), (round(middle + length), y), ink, 2, cv2.LINE_AA)


def _flavor_patch(canvas: np.ndarray, layout: int, flavor: Flavor, top: float, high: float) -> None:
    """Draw the part that differs between flavors of a brand: about a fifth of the visible label."""
    middle = canvas.shape[1] / 2
    x, y = middle + (0.0, 0.16, -0.0, -0.14)[layout] * _W, top + 0.73 * high
    half_width, half_height = 0.31 * _W, min(0.15 * high, 0.3 * _W)
    icon = _INK if sum(flavor.color) > 560 else _PAPER
    if layout % 2:
        axes = (round(half_width), round(half_height))
        cv2.ellipse(canvas, (round(x), round(y)), axes, 0, 0, 360, flavor.color, -1, cv2.LINE_AA)
        cv2.ellipse(canvas, (round(x), round(y)), axes, 0, 0, 360, icon, 3, cv2.LINE_AA)
    else:
        corners = [round(v) for v in (x - half_width, y - half_height, x + half_width, y + half_height)]
        cv2.rectangle(canvas, corners[:2], corners[2:], flavor.color, -1)
        cv2.rectangle(canvas, corners[:2], corners[2:], icon, 3)
    draw_mark(canvas, flavor.icon, (x, y), 0.62 * half_height, icon, flavor.color)


def _readable(ground: Color, *candidates: Color) -> Color:
    """Return the first color with enough contrast to the ground, or else the one with the most."""
    contrasts = [sum(abs(a - b) for a, b in zip(ground, color, strict=True)) for color in candidates]
    return next((c for c, contrast in zip(candidates, contrasts, strict=True) if contrast > 180),
                candidates[int(np.argmax(contrasts))])  # fmt: skip


def _texture(brand: Brand, flavor: Flavor) -> np.ndarray:
    """Return the unrolled wrapping: uint8 RGB, as high as the pack and twice as wide, its front in the middle."""
    base, accent, light = PALETTES[brand.palette]
    top, bottom = (fraction * _H for fraction in _LABEL[brand.shape])
    high = bottom - top
    clear = tuple(int(0.45 * c + 0.55 * 235) for c in accent)
    canvas = np.full((_H, 2 * _W, 3), _METAL if brand.shape == "can" else clear, np.uint8)
    cv2.rectangle(canvas, (0, round(top)), (2 * _W, round(bottom)), base, -1)
    _panel(canvas, brand.layout, top, bottom, accent, light)
    cap_end = round(_CAP_END.get(brand.shape, 0) * _H)
    canvas[:cap_end] = accent
    if brand.shape == "carton":
        canvas[: round(0.05 * _H)] = light
        canvas[round(0.05 * _H) : round(top)] = base
    # The oval of layout 3 is light; elsewhere the mark stands on the base color.
    ground = light if brand.layout == 3 else base
    mark_color = _readable(ground, accent, base, light)
    draw_mark(canvas, brand.mark, (_W, top + 0.26 * high), min(0.24 * _W, 0.16 * high), mark_color, ground)
    _lettering(canvas, brand, top, high, _readable(ground, light, accent, _INK))
    _flavor_patch(canvas, brand.layout, flavor, top, high)
    return canvas


def _half_width(shape: str) -> np.ndarray:
    heights, halves = np.array(_PROFILES[shape]).T
    return np.interp((np.arange(_H) + 0.5) / _H, heights, halves)[:, None]


def _unrolled_x(shape: str, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's position in the texture (in widths, 0 the front's middle) and its brightness."""
    x = (np.arange(_W) + 0.5) / _W - 0.5
    if shape in _ROUND:
        angle = np.arcsin(np.clip(x / 0.48, -0.999, 0.999))
        return 0.48 * angle + 0.22 * turn, 0.62 + 0.42 * np.cos(angle + 0.45) ** 2
    if shape == "pouch":
        return x + 0.06 * turn, 0.94 + 0.08 * np.cos(9 * x + 2 * turn) * np.cos(np.pi * x)
    # A box or carton shows a darker side, opposite to the turn.
    edge = 0.5 - 0.24 * abs(turn)
    aside = x * np.sign(turn) > edge - 0.03
    shift = np.sign(turn) * (0.47 - edge) / 2
    return np.where(aside, x + 0.35 * np.sign(turn), (x + shift) / (1 - 0.12 * abs(turn))), np.where(aside, 0.62, 1.0)


def _single(brand: Brand, flavor: Flavor, yaw: int) -> np.ndarray:
    turn = yaw / (YAW_STEPS - 1) * 2 - 1
    columns, brightness = _unrolled_x(brand.shape, turn)
    map_x = np.tile(((columns + 1) * _W - 0.5).astype(np.float32), (_H, 1))
    map_y = np.tile(np.arange(_H, dtype=np.float32)[:, None], (1, _W))
    color = cv2.remap(_texture(brand, flavor), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    x = np.abs((np.arange(_W) + 0.5) / _W - 0.5)[None]
    alpha = np.clip((_half_width(brand.shape) - x) * _W + 0.5, 0, 1)
    light = (brightness[None] * np.linspace(1.06, 0.9, _H)[:, None]).astype(np.float32)
    art = np.empty((_H, _W, 4), np.float32)
    np.minimum(color * light[..., None], 255, out=art[..., :3])
    art[..., :3] *= alpha.astype(np.float32)[..., None]
    art[..., 3] = 255 * alpha
    return art


def _multipack(single: np.ndarray, pack: int) -> np.ndarray:
    """Return two, four or six items in one or two rows under a shrink wrap."""
    rows, columns = {2: (1, 2), 4: (2, 2), 6: (2, 3)}[pack]
    high, wide = _H // rows, _W // columns
    item = cv2.resize(single, (wide, high), interpolation=cv2.INTER_AREA)
    sheet = np.tile(item, (rows, columns, 1))
    wrap = 0.16 * np.cos(np.linspace(0, 5 * np.pi, _W)) ** 8 + 0.05
    sheet[..., :3] = sheet[..., :3] * (1 - wrap[None, :, None]) + 255 * wrap[None, :, None] * sheet[..., 3:] / 255
    return sheet


@lru_cache(maxsize=512)
def product_art(brand: Brand, flavor: Flavor, yaw: int, pack: int) -> np.ndarray:
    """Draw a product without background: read-only uint8 HEIGHT × WIDTH × 4, colors premultiplied by alpha.

    `yaw` is a step of range(YAW_STEPS), the middle one straight ahead; `pack` the number of items (1, 2, 4, 6).
    Size is no argument on purpose: two sizes differ only in their ratio.
    """
    art = _single(brand, flavor, yaw)
    if pack > 1:
        art = _multipack(art, pack)
    art = np.round(cv2.resize(art, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)).astype(np.uint8)
    art.setflags(write=False)
    return art
