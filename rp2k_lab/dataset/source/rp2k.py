"""dataset=rp2k: RP2K (arXiv 2006.12634), `train/<class>/<image>` and `test/<class>/<image>`."""

from pathlib import Path
from typing import Literal

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.options import Scan, Source
from rp2k_lab.dataset.source.folder import FolderReader
from rp2k_lab.plugins import register


@register("dataset")
class Rp2k(Source):
    """RP2K, 2388 classes of products cut from photos of shelves."""

    name: Literal["rp2k"]
    long_tail_limits = (20, 100)
    compared_with_rp2k = True

    def scan(self) -> Scan:
        """List the images (`scan_release`)."""
        self.check_files()
        assert self.root is not None
        return scan_release(self.root)


def scan_release(root: Path) -> Scan:
    """List `<split>/<class>/<image>`: `train` must exist, `val` and `test` may, also by their other names.

    Raises:
        RequestError: no folder `train` in `root`, or two folders for one split.
        DataError: see `FolderReader`.
    """
    reader = FolderReader(root, nested=False)
    folders = reader.splits()
    if "train" not in folders:
        raise RequestError(
            f"dataset.root={escape_controls(root)}: has no folder 'train'\n"
            "use a folder with train/<class>/<image> and test/<class>/<image>"
        )
    reader.read_splits(folders)
    return reader.scan(labels_in_paths=True)
