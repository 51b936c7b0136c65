"""Errors' pages of random images."""

import re
import zlib

import numpy as np

from rp2k_lab.analysis.error_page import Content, Review, write_page

HOSTILE = ['</script><script>alert("1")</script>', "a\"'><img src=x onerror=alert(1)>", "伊利安慕希 500g", "\u202e<!--"]
NAMES = [*HOSTILE, *(f"class {i}" for i in range(5))]
FACTS = {"run": "seresnext50 <b>", "top-1": "60.0 %"}


class RandomThumbnails:
    """Random images without files, which do not compress well."""

    method = "Grad-CAM"

    def __init__(self, names, side=104):
        self.names, self.side = names, side

    def _draw(self, key):
        small = np.random.default_rng(zlib.crc32(str(key).encode())).integers(0, 256, (13, 13, 3), np.uint8)
        return small.repeat(self.side // 13, 0).repeat(self.side // 13, 1)

    def image(self, row):
        return self._draw(row)

    def example(self, class_name):
        return None if class_name == "class 4" else self._draw(class_name)

    def explanation(self, row):
        return self._draw(-row)

    def class_of(self, row):
        return self.names[row]

    def large(self, row):
        return self._draw(row).repeat(2, 0).repeat(2, 1)

    def large_example(self, class_name):
        return None if class_name == "class 4" else self._draw(class_name).repeat(2, 0).repeat(2, 1)


REVIEW = Review("a run/train", "train", "python run.py dataset.relabel=reviewed_labels.csv")


def write(file, tables, names, with_pairs=False):
    content = Content(FACTS, tables, REVIEW, tables.pairs if with_pairs else None)
    return write_page(file, content, RandomThumbnails(names))


def count(page):
    """Return the number of errors that a page shows."""
    return int(re.match(r"[\d,]+", page.locator("#count").inner_text())[0].replace(",", ""))
