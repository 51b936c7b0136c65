import gc
import math
import threading
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.aug.augmentation import Augmentation
from rp2k_lab.aug.color import ColorJitter
from rp2k_lab.aug.erase.cutout import Cutout
from rp2k_lab.aug.geometry import HorizontalFlip, RandomResizedCrop
from rp2k_lab.aug.mix.mixup import Mixup
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.image import letterbox, read_image
from rp2k_lab.dataset.image_cache import ImageCache
from rp2k_lab.dataset.loader import (
    ImageViews,
    ResizedImages,
    TrainingBatches,
    balanced_order,
    evaluation_batches,
    view_batches,
)
from rp2k_lab.dataset.mindspore_dataset import mindspore_dataset

COUNT, SIZE = 11, (32, 40)
CROP = RandomResizedCrop(SIZE, (0.25, 1.0))
AUG = Augmentation(CROP, (HorizontalFlip(0.5), ColorJitter(0.4), Cutout(9, (128, 128, 128))), None)
PLAIN = Augmentation(None, (), None)


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_photo):
    root = tmp_path_factory.mktemp("photos")
    for i in range(COUNT):
        write_photo(root / f"照片{i}.png", 20 + i, 30, seed=i)
    return root


@pytest.fixture
def rows():
    """Return rows whose labels are their numbers, so that a batch shows its rows."""
    return pd.DataFrame({"path": [f"照片{i}.png" for i in range(COUNT)], "row": range(COUNT), "label": range(COUNT)})


@pytest.fixture
def resized(root, rows):
    """Return resized(...), which makes the images of the rows."""

    def make(table=rows, size=SIZE, resize="letterbox", cache=None):
        return ResizedImages(SimpleNamespace(root=root, table=table), size, resize, cache)

    return make


@pytest.fixture
def batches(resized, rows):
    """Return batches(...), which makes training batches of 3, 3 steps an epoch and 2 images left out."""

    def make(table=rows, source=None, aug=AUG, batch_size=3, seed=0, num_threads=2, **options):
        arguments = (source or resized(table), table, aug, SIZE, batch_size, seed, COUNT)
        return TrainingBatches(*arguments, num_threads=num_threads, **options)

    return make


def run(training, epochs=1):
    """Return every (images, labels) of some epochs."""
    return [batch for _ in range(epochs) for batch in training]


def assert_equal(one, other):
    assert len(one) == len(other)
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(images, other_images)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("photos")]


class TestTraining:
    def test_types_and_shapes(self, batches):
        training = batches()
        assert training.steps_per_epoch == 3
        for images, labels in training:
            assert (images.dtype, images.shape) == (np.uint8, (3, *SIZE, 3))
            assert (labels.dtype, labels.shape) == (np.int32, (3,))

    @pytest.mark.parametrize("num_threads", [1, 4])
    def test_any_number_of_threads_gives_the_same_batches(self, batches, num_threads):
        assert_equal(run(batches(num_threads=num_threads), 2), run(batches(num_threads=2), 2))

    @pytest.mark.parametrize("num_threads", [1, 2, 4])
    def test_a_cache_changes_nothing_during_and_after_filling(self, batches, resized, tmp_path, num_threads):
        whole = run(batches(), 3)
        for start_step in (0, 4):
            cache = ImageCache(tmp_path / "cache", COUNT, SIZE, capacity=COUNT - 2)
            training = batches(source=resized(cache=cache), num_threads=num_threads, start_step=start_step)
            assert_equal(run(training, 3)[: 9 - start_step], whole[start_step:])
        assert cache.filled == COUNT - 2

    @pytest.mark.parametrize(("world_size", "start_step"), [(2, 0), (2, 1), (4, 3)])
    def test_batches_of_all_ranks_concatenate_to_those_of_one_process(self, batches, world_size, start_step):
        """Images, labels and random numbers."""
        whole = batches(batch_size=4, start_step=start_step)
        options = {"batch_size": 4 // world_size, "start_step": start_step, "world_size": world_size}
        each = [batches(rank=rank, **options) for rank in range(world_size)]
        assert {b.steps_per_epoch for b in each} == {whole.steps_per_epoch}
        assert {b.images_per_step for b in each} == {whole.images_per_step} == {4}
        joined = [
            tuple(np.concatenate(parts) for parts in zip(*step, strict=True))
            for step in zip(*(run(b, 3) for b in each), strict=True)
        ]
        assert_equal(joined, run(whole, 3))

    @pytest.mark.parametrize("start_step", [1, 2, 3, 4, 6, 8])
    def test_start_at_any_step_gives_the_remaining_batches(self, batches, start_step):
        whole = run(batches(), 3)
        assert_equal(run(batches(start_step=start_step), 3)[: 9 - start_step], whole[start_step:])

    def test_epochs_differ_in_order(self, batches):
        training = batches()
        assert np.concatenate([b[1] for b in training]).tolist() != np.concatenate([b[1] for b in training]).tolist()

    def test_epochs_differ_in_augmentation(self, batches):
        training = batches()
        first, second = (
            {int(label): image for batch in training for image, label in zip(*batch, strict=True)} for _ in range(2)
        )
        both = first.keys() & second.keys()
        assert len(both) >= 7
        assert all((first[label] != second[label]).any() for label in both)

    def test_one_image_at_one_position_is_augmented_differently_each_epoch(self, batches, rows):
        training = batches(rows[:1], batch_size=1)
        assert len({images.tobytes() for _ in range(3) for images, _ in training}) == 3

    def test_images_of_one_batch_are_augmented_independently(self, batches, resized, rows):
        same = pd.DataFrame({"row": [0] * 3, "label": [0] * 3})
        images, _ = next(iter(batches(same, resized(rows))))
        assert len({image.tobytes() for image in images}) == 3

    def test_an_epoch_visits_a_row_at_most_once(self, batches):
        training = batches()
        for _ in range(4):
            visited = np.concatenate([labels for _, labels in training]).tolist()
            assert len(set(visited)) == len(visited) == 9

    def test_rows_left_out_change_from_epoch_to_epoch(self, batches):
        training = batches()
        assert {int(label) for _ in range(6) for _, labels in training for label in labels} == set(range(COUNT))

    def test_another_seed_gives_another_order(self, batches):
        one, other = run(batches(seed=0)), run(batches(seed=1))
        assert [b[1].tolist() for b in one] != [b[1].tolist() for b in other]

    def test_order_is_a_permutation_that_depends_on_seed_and_epoch(self, batches):
        orders = [tuple(batches(seed=seed).order(epoch)) for seed in (0, 1) for epoch in (0, 1)]
        assert len(set(orders)) == 4
        assert all(sorted(order) == list(range(COUNT)) for order in orders)

    def test_labels_belong_to_their_images(self, root, batches):
        for images, labels in batches(aug=PLAIN):
            for image, label in zip(images, labels, strict=True):
                np.testing.assert_array_equal(image, letterbox(read_image(root / f"照片{label}.png"), SIZE))

    def test_batch_as_large_as_the_rows(self, batches):
        training = batches(batch_size=COUNT)
        assert training.steps_per_epoch == 1
        assert sorted(run(training)[0][1]) == list(range(COUNT))


class TestMixing:
    AUG = Augmentation(None, (), Mixup(1.0))

    def test_images_and_targets_are_mixed_with_the_same_weights(self, batches):
        """Each row of the targets has the weights of the two mixed images."""
        plain = {int(label): image for image, label in zip(*run(batches(aug=PLAIN, batch_size=11))[0], strict=True)}
        images, targets = run(batches(aug=self.AUG, batch_size=11))[0]
        assert (targets.dtype, targets.shape) == (np.float32, (11, COUNT))
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        for image, target in zip(images, targets, strict=True):
            expected = sum(weight * plain[label] for label, weight in enumerate(target) if weight)
            assert np.abs(image - expected).max() <= 1

    def test_start_and_threads_change_nothing(self, batches):
        whole = run(batches(aug=self.AUG), 2)
        assert_equal(run(batches(aug=self.AUG, num_threads=4, start_step=2), 2)[:4], whole[2:])

    def test_each_image_draws_its_weight(self, batches):
        weights = [target.max() for _, targets in run(batches(aug=self.AUG), 2) for target in targets]
        assert len(set(weights)) > len(weights) // 2


class TestClassBalanced:
    def test_classes_are_drawn_equally_often(self):
        labels = np.repeat([0, 1, 3, 7], [100, 9, 3, 1])
        drawn = balanced_order(labels, np.random.default_rng(0))
        assert len(drawn) == len(labels) == 113
        assert sorted(np.bincount(labels[drawn], minlength=8)[[0, 1, 3, 7]]) == [28, 28, 28, 29]
        assert np.bincount(labels[drawn])[[2, 4, 5, 6]].sum() == 0

    def test_a_class_repeats_a_row_only_after_all_were_drawn(self):
        labels = np.repeat([0, 1], [100, 9])
        times = np.bincount(balanced_order(labels, np.random.default_rng(0)), minlength=109)
        assert times[:100].max() == 1
        assert times[100:].max() - times[100:].min() <= 1

    def test_classes_of_one_row_each(self):
        assert sorted(balanced_order(np.arange(50), np.random.default_rng(0))) == list(range(50))

    def test_batches_of_the_class_balanced_sampler(self, batches, rows):
        skewed = rows.assign(label=[0] * 9 + [1] * 2)
        labels = np.concatenate([labels for _, labels in run(batches(skewed, sampler="class_balanced"), 4)])
        assert 12 <= labels.sum() <= 24  # of 36; uniform sampling would give 6.5
        assert_equal(
            run(batches(skewed, sampler="class_balanced", start_step=4), 2)[:2],
            run(batches(skewed, sampler="class_balanced"), 2)[4:],
        )


class TestEvaluation:
    @pytest.fixture
    def all_batches(self, resized, rows):
        return lambda batch_size, num_threads=2, size=SIZE: list(
            evaluation_batches(resized(size=size), rows, SIZE, batch_size, num_threads)
        )

    @pytest.mark.parametrize(("batch_size", "lengths"), [(4, [4, 4, 3]), (11, [11]), (64, [11]), (1, [1] * 11)])
    def test_last_smaller_batch_is_kept(self, all_batches, batch_size, lengths):
        assert [len(images) for images in all_batches(batch_size)] == lengths

    @pytest.mark.parametrize("num_threads", [1, 2, 4])
    def test_every_image_in_order(self, root, rows, all_batches, num_threads):
        images = np.concatenate(all_batches(4, num_threads))
        expected = [letterbox(read_image(root / path), SIZE) for path in rows["path"]]
        np.testing.assert_array_equal(images, expected)

    def test_center_crop_keeps_its_fraction(self, root, rows, all_batches):
        image = all_batches(1, size=(40, 50))[0][0]
        whole = letterbox(read_image(root / rows["path"][0]), (40, 50))
        np.testing.assert_array_equal(image, whole[4:36, 5:45])


class TestViews:
    # (size, resize, crop) of each view
    RESIZES = (((40, 50), "letterbox", SIZE), ((24, 24), "stretch", (20, 24)))

    @pytest.fixture
    def caches(self, tmp_path):
        return [ImageCache(tmp_path / str(i), COUNT, size, COUNT) for i, (size, _, _) in enumerate(self.RESIZES)]

    def views(self, resized, rows, caches=(None, None)):
        return ImageViews([resized(rows, s, r, c) for (s, r, _), c in zip(self.RESIZES, caches, strict=True)])

    def test_batches_of_each_view_equal_those_of_the_view_alone(self, resized, rows):
        crops = [(size, crop) for size, _, crop in self.RESIZES]
        batches = list(view_batches(self.views(resized, rows), range(COUNT), crops, 4, 2))
        for i, (size, resize, crop) in enumerate(self.RESIZES):
            alone = list(evaluation_batches(resized(rows, size, resize), rows, crop, 4))
            for batch, expected in zip(batches, alone, strict=True):
                np.testing.assert_array_equal(batch[i], expected)

    def test_each_view_has_a_cache_whose_images_are_not_read_again(self, resized, rows, caches):
        first = [self.views(resized, rows, caches)(row) for row in range(2)]
        second = self.views(resized, rows, caches)
        for source in second.sources:
            source.paths = ["/no/such/file"] * COUNT
        for row, expected in enumerate(first):
            for image, original in zip(second(row), expected, strict=True):
                np.testing.assert_array_equal(image, original)
        with pytest.raises(DataError):
            second(2)

    def test_only_missing_views_are_read(self, resized, rows, caches):
        expected = self.views(resized, rows)(0)
        caches[1].put(0, np.full((24, 24, 3), 7, np.uint8))
        images = self.views(resized, rows, caches)(0)
        np.testing.assert_array_equal(images[0], expected[0])
        assert (images[1] == 7).all()


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_without_augmentation_training_and_evaluation_images_are_equal(batches, resized, rows, resize):
    source = resized(size=(40, 50), resize=resize)
    images, labels = next(iter(batches(source=source, aug=PLAIN, batch_size=COUNT)))
    (evaluated,) = evaluation_batches(source, rows, SIZE, COUNT)
    np.testing.assert_array_equal(images, evaluated[labels])


class TestUnreadableImage:
    @pytest.fixture
    def broken(self, root, rows, tmp_path):
        (tmp_path / "坏.jpg").write_text("no image")
        rows.loc[5, "path"] = str(tmp_path / "坏.jpg")
        return rows

    def test_training_names_it_and_keeps_the_failure(self, batches, broken):
        training = batches(broken, batch_size=COUNT)
        assert training.failure is None
        with pytest.raises(DataError, match=r"坏\.jpg") as error:
            run(training)
        assert training.failure is error.value

    def test_earlier_batches_are_yielded(self, resized, broken):
        iterator = evaluation_batches(resized(broken), broken, SIZE, 2, 4)
        assert len(list(islice(iterator, 2))) == 2
        with pytest.raises(DataError, match=r"坏\.jpg"):
            next(iterator)

    def test_leaves_no_thread(self, resized, broken):
        with pytest.raises(DataError):
            list(evaluation_batches(resized(broken), broken, SIZE, 2, 4))
        assert_no_loader_threads()


def assert_no_loader_threads():
    for thread in loader_threads():
        thread.join(timeout=10)
    assert loader_threads() == []


@pytest.mark.parametrize("end", ["close", "drop"])
def test_abandoned_iterator_leaves_no_thread_and_no_failure(batches, end):
    training = batches(num_threads=4, batch_size=1)
    iterator = iter(training)
    list(islice(iterator, 2))
    assert loader_threads()
    if end == "close":
        iterator.close()
    del iterator
    gc.collect()
    assert_no_loader_threads()
    assert training.failure is None
    assert_equal(run(training, 2), run(batches(batch_size=1), 2))  # the dropped epoch comes again


def test_finished_iterator_leaves_no_thread(batches):
    run(batches(num_threads=4))
    assert_no_loader_threads()


def test_reads_at_most_two_batches_ahead_per_thread(rows):
    """Memory must not grow with the set."""
    read = []

    class Source:
        size = (1, 1)

        def __call__(self, row):
            read.append(row)
            return np.zeros((1, 1, 3), np.uint8)

    many = pd.concat([rows] * 10)
    iterator = evaluation_batches(Source(), many, (1, 1), 1, num_threads=1)
    next(iterator)
    assert len(read) <= 3 + 1
    iterator.close()


def test_closing_cancels_pending_work(rows):
    read, resume = [], threading.Event()

    class Source:
        size = (1, 1)

        def __call__(self, row):
            read.append(row)
            if len(read) > 1:
                resume.wait(10)
            return np.zeros((1, 1, 3), np.uint8)

    iterator = evaluation_batches(Source(), rows, (1, 1), 1, num_threads=1)
    next(iterator)
    iterator.close()
    resume.set()
    assert_no_loader_threads()
    assert len(read) <= 2


class TestMindsporeDataset:
    def test_gives_the_same_arrays_over_two_epochs(self, batches):
        dataset = mindspore_dataset(batches())
        iterator = dataset.create_tuple_iterator(num_epochs=2, output_numpy=True)
        piped = [tuple(batch) for _ in range(2) for batch in iterator]
        assert_equal(piped, run(batches(), 2))
        assert piped[0][0].dtype == np.uint8
        assert piped[0][1].dtype == np.int32

    def test_size_is_the_steps_of_an_epoch(self, batches):
        assert mindspore_dataset(batches()).get_dataset_size() == 3

    def test_columns(self, batches):
        assert mindspore_dataset(batches()).get_col_names() == ["images", "labels"]


class FakeQueue:
    """The queue to a device: MindSpore sends whole epochs, a sink takes batches across their borders."""

    queue_name = "fake"

    def __init__(self, dataset):
        self.dataset = dataset

    def send(self, num_epochs):
        epochs = self.dataset.create_tuple_iterator(num_epochs=num_epochs, output_numpy=True)
        self.batches = (tuple(batch) for _ in range(num_epochs) for batch in epochs)

    def __getattr__(self, name):
        return lambda *arguments: None  # stop_send and the others have nothing to do


@pytest.fixture
def sunk(monkeypatch):
    """Return sunk(batches, steps): the batches of a training with data sinking, as lists of a sink each.

    MindSpore's own code for a GPU asks the data set all that it asks there, in its order; only the queue is ours.
    """
    from mindspore.dataset import GeneratorDataset
    from mindspore.train import _utils, dataset_helper

    executor = SimpleNamespace(get_queue_name=lambda phase: None, init_dataset=lambda *arguments, **options: None)
    monkeypatch.setattr(_utils, "_cell_graph_executor", executor)
    monkeypatch.setattr(GeneratorDataset, "device_que", lambda dataset, **options: FakeQueue(dataset))

    def run_sinks(training, steps):
        dataset, size = mindspore_dataset(training), training.sink_size
        epochs = math.ceil(steps / training.steps_per_epoch)  # as in Model._train_dataset_sink_process
        sinks = dataset_helper._DatasetIterMSLoopSink(dataset, size, epochs)
        for _ in range(steps // size):
            next(iter(sinks))
            yield list(islice(dataset.__transfer_dataset__.batches, size))

    return run_sinks


@pytest.mark.parametrize(("batch_size", "sink_steps"), [(3, 1), (3, 3), (2, 3), (1, 4), (11, 1), (5, 1)])
def test_sinks_have_the_epochs_in_order_from_every_sink_on_and_nothing_is_read_twice(
    batches, sunk, monkeypatch, batch_size, sink_steps
):
    """Three epochs of 1 to 9 steps, resumed at the start and after every sink of the first two."""
    whole = batches(batch_size=batch_size, aug=PLAIN, sink_steps=sink_steps)
    epoch, size, expected = whole.steps_per_epoch, whole.sink_size, run(whole, 3)
    read, batch = [], TrainingBatches.batch
    monkeypatch.setattr(
        TrainingBatches, "batch", lambda self, e, order, i: read.append(e * epoch + i) or batch(self, e, order, i)
    )
    for start in range(0, 2 * epoch + 1, size):
        training = batches(batch_size=batch_size, aug=PLAIN, sink_steps=sink_steps, start_step=start)
        sinks = list(sunk(training, 3 * epoch - start))
        assert {len(sink) for sink in sinks} == {size}
        assert_equal([batch for sink in sinks for batch in sink], expected[start:])
        assert sorted(read) == list(range(start, 3 * epoch))
        read.clear()
