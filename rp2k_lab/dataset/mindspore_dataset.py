"""Training batches as a MindSpore data set."""

import mindspore.dataset

from rp2k_lab.dataset.loader import EpochBatches


class _Unsized:
    """Hide everything but iteration: MindSpore checks a source's `__len__` as a number of rows."""

    def __init__(self, batches: EpochBatches):
        self._batches = batches

    def __iter__(self):
        return iter(self._batches)


def mindspore_dataset(batches: EpochBatches) -> mindspore.dataset.Dataset:
    """Return a pipeline of whole batches, columns images (uint8) and labels (int32), in the order of `batches`."""
    dataset = mindspore.dataset.GeneratorDataset(
        _Unsized(batches), ["images", "labels"], shuffle=False, num_parallel_workers=1, python_multiprocessing=False
    )
    dataset.dataset_size = batches.steps_per_epoch  # MindSpore would read a source without length to count it
    return dataset
