"""dataset=shelf: the embedded synthetic data set, drawn once under `data/`."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.options import Scan, Source
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.source.rp2k import scan_release
from rp2k_lab.plugins import register


@register("dataset")
class Shelf(Source, ShelfOptions):
    """A synthetic RP2K with known answers."""

    name: Literal["shelf"]
    needs_root = False
    long_tail_limits = (20, 100)
    compared_with_rp2k = True

    def scan(self) -> Scan:
        """Draw the set if it is missing, and list its images.

        Raises:
            RequestError: the options contradict each other.
            DataError: see `scan_release`.
        """
        from rp2k_lab.dataset.shelf.generate import OPTIONS_FILE, TRUTH_FILE

        scan = scan_release(self.root or self._draw())
        return replace(scan, other_files=[file for file in scan.other_files if file not in (OPTIONS_FILE, TRUTH_FILE)])

    def find_root(self) -> Path | None:
        """Return the set's folder if it is drawn."""
        from rp2k_lab.dataset import photo_index

        root = self.root or photo_index.DATA_FOLDER / f"shelf-{self._options().fingerprint()}"
        return root if root.is_dir() else None

    def _options(self) -> ShelfOptions:
        return ShelfOptions(**{key: getattr(self, key) for key in ShelfOptions.model_fields})

    def _draw(self) -> Path:
        from rp2k_lab.dataset import photo_index
        from rp2k_lab.dataset.shelf.generate import make_shelf

        try:
            return make_shelf(self._options(), photo_index.DATA_FOLDER)
        except ValueError as error:
            raise RequestError(f"dataset: {error}") from None
