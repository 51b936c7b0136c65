"""A backbone that can run a part of its stages, so that those before it can be frozen and their outputs kept."""

from collections.abc import Sequence

from mindspore import Parameter, Tensor, nn


class Backbone(nn.Cell):
    """Normalized images (batch, 3, height, width) to a feature map, stage by stage.

    A family implements `parts` and `run`; its options have the names of the stages (`Model.stages`).

    Attributes:
        num_stages: the stem, and the stages behind it.
    """

    num_stages: int

    def construct(self, images):
        return self.run(images, 0, self.num_stages + 1)

    def parts(self) -> Sequence[Sequence[nn.Cell | Parameter]]:
        """Return the cells and parameters of each stage, the stem first; not what follows the last stage."""
        raise NotImplementedError

    def run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Return the output of the stages first … last - 1.

        Args:
            x: output of the stage before `first`; for 0, normalized images.
            last: at most one more than the stages: what follows the last of them, such as a norm, counts as one.
        """
        raise NotImplementedError
