"""dataset=subfolders: `<class>/<view>/<image>`, of which one view is read."""

from typing import Literal

from pydantic import Field

from rp2k_lab import register
from rp2k_lab.dataset.options import OwnPhotos, Scan, title_of


@register("dataset")
class Subfolders(OwnPhotos):
    """Options of the data set: those of photos without a split, and the view."""

    name: Literal["subfolders"]
    view: str = Field(description="name of the folder within each class")

    @property
    def title(self) -> str:
        """Name of the data in run names and on pages."""
        return title_of(self.root) if self.root else self.name

    def scan(self):
        """List the images without opening them; val and test are drawn."""
        files = sorted(file for file in self.root.glob(f"*/{self.view}/*") if file.suffix.lower() in (".jpg", ".png"))
        images = [(file.relative_to(self.root).as_posix(), file.parts[-3], None) for file in files]
        return Scan(self.root, images, [], labels_in_paths=True)
