"""The products on the shelf: brand × flavor × size × pack, and their class names.

Two classes are look-alikes when they share the brand: they then differ in the flavor patch alone, or, within a size
group, only in the height/width ratio.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count, islice

import numpy as np

from rp2k_lab.dataset.shelf.options import ShelfOptions

OTHERS = "others"
SHAPES = ("bottle", "can", "carton", "pouch", "jar", "box", "cup", "flask")
MARKS = (
    "star", "ring", "triangle", "peaks", "disc", "cross", "diamond", "crescent", "hexagon", "waves", "A", "M", "R",
)  # fmt: skip
LAYOUTS = 4
# (base, accent, light) of the label, RGB.  Neighbors in the list are similar on purpose.
PALETTES = (
    ((196, 30, 44), (245, 196, 66), (255, 244, 226)), ((170, 24, 60), (240, 150, 150), (255, 236, 236)),
    ((22, 84, 160), (240, 240, 245), (214, 232, 250)), ((30, 118, 176), (252, 214, 80), (236, 246, 252)),
    ((24, 124, 84), (236, 226, 120), (238, 248, 232)), ((74, 146, 60), (250, 250, 236), (226, 244, 206)),
    ((238, 150, 34), (150, 40, 24), (255, 242, 214)), ((246, 196, 54), (40, 96, 60), (255, 250, 224)),
    ((96, 52, 130), (226, 186, 76), (242, 232, 250)), ((136, 74, 156), (244, 244, 250), (246, 226, 246)),
    ((92, 58, 36), (222, 176, 110), (250, 238, 220)), ((38, 38, 44), (206, 166, 84), (236, 230, 218)),
    ((240, 238, 230), (30, 90, 150), (206, 222, 238)), ((244, 240, 236), (190, 36, 48), (250, 222, 218)),
    ((24, 150, 158), (248, 248, 244), (216, 244, 242)), ((226, 96, 128), (255, 236, 200), (255, 232, 238)),
)  # fmt: skip


@dataclass(frozen=True)
class Brand:
    name: str
    shape: str
    palette: int
    mark: str
    layout: int


@dataclass(frozen=True)
class Flavor:
    name: str
    color: tuple[int, int, int]
    icon: str


FLAVORS = tuple(
    Flavor(*fields)
    for fields in (
        ("草莓", (228, 44, 84), "triangle"), ("蓝莓", (58, 70, 176), "disc"), ("青柠", (150, 206, 50), "ring"),
        ("芒果+百香果", (255, 172, 28), "crescent"), ("薄荷", (46, 182, 150), "cross"),
        ("葡萄", (124, 50, 150), "peaks"),
        ("白桃", (250, 160, 160), "disc"), ("原味", (246, 246, 246), "star"), ("咖啡", (102, 62, 34), "diamond"),
        ("冰炫", (110, 196, 240), "hexagon"), ("红枣", (150, 30, 36), "crescent"), ("茉莉", (226, 232, 196), "hexagon"),
        ("海盐", (70, 132, 206), "waves"), ("蜂蜜", (236, 196, 60), "star"), ("椰子", (236, 222, 200), "ring"),
        ("百年浓香", (60, 54, 50), "waves"),
    )
)  # fmt: skip

FLAVOR_BY_NAME = {flavor.name: flavor for flavor in FLAVORS}

# Rare characters, so that a brand of two of them is invented.
_FIRST = "岚霁泠砚槿屿翎榆蘅澜皓梵岑沅鸢芷绛筱黛荻漪茗峣汐骊菀琚旻桉璟笙溟"
_SECOND = "汀笺鹭渡梧舟砂桐峦笛苇棠坞岫畔榭蓑樨垣葭潭藜碛砧麓隈浔埠埂陂隅圃"
_CATEGORY = {
    "bottle": "瓶装", "flask": "瓶装", "can": "罐装", "carton": "盒装",
    "pouch": "袋装", "jar": "罐头", "box": "盒装", "cup": "杯装",
}  # fmt: skip
_LIQUID = {"bottle", "flask", "can", "carton"}
_AMOUNTS = {True: ("250ml", "500ml", "1.5L"), False: ("100g", "230g", "480g")}
# Brands outside the catalog, shown only in `others`.
_FOREIGN_BRANDS = 200


@dataclass(frozen=True)
class ProductClass:
    """A class.  `size` counts from 1 (lowest ratio) within a group of `sizes`; 0 outside of groups."""

    name: str
    brand: Brand | None
    flavor: Flavor | None
    product: int
    size: int
    sizes: int
    multipack: bool


@dataclass(frozen=True)
class Catalog:
    """A set's classes by falling number of images, `others` last, and the brands in and outside of them."""

    classes: tuple[ProductClass, ...]
    brands: tuple[Brand, ...]
    foreign_brands: tuple[Brand, ...]

    @cached_property
    def brand_by_name(self) -> dict[str, Brand]:
        return {brand.name: brand for brand in self.brands + self.foreign_brands}


def look_alikes(catalog: Catalog) -> list[np.ndarray]:
    """Return for each class the indices (int64) of the other classes of its brand; none for `others`."""
    by_brand: dict[Brand | None, list[int]] = {}
    for index, product_class in enumerate(catalog.classes):
        if product_class.brand is not None:
            by_brand.setdefault(product_class.brand, []).append(index)
    return [
        np.array([i for i in by_brand.get(product_class.brand, ()) if i != index], np.int64)
        for index, product_class in enumerate(catalog.classes)
    ]


def _brands(seed: int) -> Iterator[Brand]:
    """Yield distinct brands without end; each second one shares shape or palette with its predecessor."""
    rng = np.random.default_rng([seed, 101])
    names = rng.permutation([a + b for a in _FIRST for b in _SECOND])
    # Three different digits and no round number, to avoid real brands.
    numbers = rng.permutation([n for n in range(100, 1000) if n % 10 and len(set(str(n))) == 3])
    used: set[tuple] = set()
    previous = (0, 0)  # shape and palette; the first brand has no predecessor
    for index in count():
        name = str(numbers[index // 5]) if index % 5 == 3 else str(names[index - (index + 1) // 5])
        while True:
            shape, palette, mark, layout = (
                int(rng.integers(len(kinds))) for kinds in (SHAPES, PALETTES, MARKS, range(LAYOUTS))
            )
            if index % 4 == 1:
                shape = previous[0]
            elif index % 4 == 3:
                palette = previous[1]
            looks = (shape, palette, mark, layout)
            if looks not in used:
                break
        used.add(looks)
        previous = (shape, palette)
        yield Brand(name, SHAPES[shape], palette, MARKS[mark], layout)


def _products(brands: Iterator[Brand], count: int, seed: int) -> list[tuple[Brand, Flavor]]:
    """Return the first `count` products: two to five flavors of one brand, then the next brand."""
    rng = np.random.default_rng([seed, 102])
    products: list[tuple[Brand, Flavor]] = []
    while len(products) < count:
        brand = next(brands)
        flavors = rng.permutation(len(FLAVORS))[: rng.integers(2, 6)]
        products += [(brand, FLAVORS[index]) for index in flavors]
    return products[:count]


def _group_sizes(options: ShelfOptions, product_classes: int) -> list[int]:
    """Return how many sizes each product has: mostly 1, some 2, every fourth group 3; they sum to `product_classes`."""
    left = round(options.size_fraction * product_classes) if options.size_cue else 0
    groups: list[int] = []
    while left >= 2:
        groups.append(3 if left == 3 or (len(groups) % 4 == 3 and left >= 5) else 2)
        left -= groups[-1]
    return groups + [1] * (product_classes - sum(groups))


def _class_name(brand: Brand, flavor: Flavor, size: int) -> str:
    """Return a name in RP2K's style: `555（冰炫）`, `黄金叶_百年浓香`, `伊利 安慕希瓶装芒果+百香果230g`."""
    amounts = _AMOUNTS[brand.shape in _LIQUID]
    if size:
        return f"{brand.name} {_CATEGORY[brand.shape]}{flavor.name}{amounts[size - 1]}"
    if brand.name.isdigit():
        return f"{brand.name}（{flavor.name}）"
    if brand.layout % 2:
        return f"{brand.name}_{flavor.name}"
    return f"{brand.name} {_CATEGORY[brand.shape]}{flavor.name}{amounts[1]}"


@lru_cache(maxsize=4)
def build_catalog(options: ShelfOptions) -> Catalog:
    """Return the classes of a set, a pure function of the options."""
    rng = np.random.default_rng([options.seed, 103])
    product_classes = options.classes - (options.others_fraction > 0)
    sizes = rng.permutation(_group_sizes(options, product_classes))
    brand_sequence = _brands(options.seed)
    products = _products(brand_sequence, len(sizes), options.seed)
    multipacks = set(rng.permutation(len(products))[: round(options.multipack_class_fraction * len(products))].tolist())
    classes = []
    for product in rng.permutation(len(products)).tolist():
        brand, flavor = products[product]
        product_sizes = int(sizes[product])
        # In random order, so that neither the small nor the tall size is always more frequent.
        order = rng.permutation(product_sizes) + 1 if product_sizes > 1 else [0]
        for size in map(int, order):
            name = _class_name(brand, flavor, size)
            classes.append(ProductClass(name, brand, flavor, product, size, product_sizes, product in multipacks))
    if options.others_fraction > 0:
        classes.append(ProductClass(OTHERS, None, None, -1, 0, 1, False))
    brands = tuple(dict.fromkeys(brand for brand, _ in products))
    return Catalog(tuple(classes), brands, tuple(islice(brand_sequence, _FOREIGN_BRANDS)))
