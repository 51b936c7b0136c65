"""Training batches as a MindSpore data set."""

import mindspore.dataset
import numpy as np

from rp2k_lab.dataset.loader import EpochBatches


class _Unsized:
    """Hide everything but iteration: MindSpore checks a source's `__len__` as a number of rows."""

    def __init__(self, batches: EpochBatches):
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)


def mindspore_dataset(batches: EpochBatches) -> mindspore.dataset.Dataset:
    """Return a pipeline of whole batches, columns images and labels, in the order of `batches`."""
    dataset = mindspore.dataset.GeneratorDataset(
        _Unsized(batches), ["images", "labels"], shuffle=False, num_parallel_workers=1, python_multiprocessing=False
    )
    dataset.dataset_size = batches.steps_per_epoch  # MindSpore would read a source without length to count it
    # Data sinking asks for types and shapes.  MindSpore 2.10 would begin an epoch for each, let its threads read ahead,
    # and drop what they read.
    dataset.saved_output_types = [np.dtype(dtype) for dtype, _ in batches.columns()]
    dataset.saved_output_shapes = [list(shape) for _, shape in batches.columns()]
    return dataset
