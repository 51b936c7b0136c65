"""Parts of a set's images that its truth tells apart, by which a table is split."""

from collections import Counter
from functools import lru_cache

import numpy as np

from rp2k_lab.dataset.shelf.catalog import OTHERS, build_catalog
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.shelf.plan import NUISANCES, plan


@lru_cache(maxsize=64)
def image_parts(options: ShelfOptions, paths: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return named parts of a set's images, bool (images,), without empty ones; none if an image is not of the set.

    Args:
        paths: of the images, as truth.parquet has them.
    """
    truth = plan(options).set_index("path").reindex(paths)
    if truth["true_class"].isna().any():
        return {}
    products = {product.name: product for product in build_catalog(options).classes}
    flavors = Counter(brand for brand, _ in {(product.brand, product.product) for product in products.values()})
    is_product = (truth["true_class"] != OTHERS).to_numpy()
    has_size = truth["size"].to_numpy() > 0
    has_flavors = is_product & truth["true_class"].map(lambda name: flavors[products[name].brand] > 1).to_numpy(bool)
    nuisances = truth[list(NUISANCES)].to_numpy() > 0
    parts = {
        "size mates": has_size,
        "look-alikes of one size": has_flavors & ~has_size,
        "others": ~is_product,
        "multipack": truth["pack"].to_numpy() > 1,
        "no nuisance": ~nuisances.any(axis=1),
    }
    parts |= {name.replace("_", " "): nuisances[:, i] for i, name in enumerate(NUISANCES)}
    return {name: part for name, part in parts.items() if part.any()}
