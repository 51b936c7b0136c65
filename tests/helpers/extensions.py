"""Extensions of no real network, for tests of what is done with them."""

import numpy as np

from rp2k_lab.extension.extension_file import Extension, no_images
from rp2k_lab.extension.gallery import Gallery, Whitening


def extension_of(
    classes: tuple[str, ...], gallery: Gallery, whitening: Whitening | None = None, **changes
) -> Extension:
    """Return the extension of a base with these classes and centers, without enrolled images.

    Args:
        whitening: None: none.
        changes: other values of the extension's attributes.
    """
    width, empty = gallery.centers.shape[1], np.empty(0, np.float32)
    values = {
        "base": "a" * 32,
        "base_sha256": "b" * 64,
        "base_classes": classes,
        "classes": classes,
        "head_labels": tuple(range(len(classes))),
        "whitening": whitening or Whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32)),
        "base_gallery": gallery,
        "enrolled": no_images(width),
        "old": "head",
        "scale": 7.5,
        "head_temperature": 1.25,
        "val_scores": empty,
        "val_hidden": empty,
    }
    return Extension(**(values | changes))
