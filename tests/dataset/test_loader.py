import gc
import threading
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.aug import build_augmentation
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.image import letterbox, read_image
from rp2k_lab.dataset.image_cache import PhotoCache
from rp2k_lab.dataset.loader import (
    PhotoViews,
    ResizedPhotos,
    TrainingBatches,
    balanced_order,
    evaluation_batches,
    view_batches,
)
from rp2k_lab.dataset.mindspore_dataset import mindspore_dataset

AUG = SimpleNamespace(name="cutout", crop=(0.25, 1.0), flip=0.5, color=0.4, length=60)
PLAIN = SimpleNamespace(name="none", crop=None, flip=0.0, color=0.0)
PHOTOS, SIZE = 11, (32, 40)


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_photo):
    root = tmp_path_factory.mktemp("photos")
    for i in range(PHOTOS):
        write_photo(root / f"照片{i}.png", 20 + i, 30, seed=i)
    return root


@pytest.fixture
def rows():
    """A row's label is its number, so that a batch tells which rows it holds."""
    return pd.DataFrame({"path": [f"照片{i}.png" for i in range(PHOTOS)], "row": range(PHOTOS), "label": range(PHOTOS)})


@pytest.fixture
def resized(root, rows):
    """resized(...): the photos of the rows."""

    def make(table=rows, size=SIZE, resize="letterbox", cache=None):
        return ResizedPhotos(SimpleNamespace(root=root, table=table), size, resize, cache)

    return make


@pytest.fixture
def batches(resized, rows):
    """batches(...): training batches of 3, 3 steps an epoch and 2 photos left out."""

    def make(table=rows, photos=None, aug=AUG, batch_size=3, seed=0, workers=2, **options):
        augmentation = build_augmentation(aug, SIZE, (0.5, 0.5, 0.5))
        return TrainingBatches(
            photos or resized(table), table, augmentation, SIZE, batch_size, seed, PHOTOS, workers=workers, **options
        )

    return make


def run(training, epochs=1):
    """Every (images, labels) of some epochs."""
    return [batch for _ in range(epochs) for batch in training]


def assert_equal(one, other):
    assert len(one) == len(other)
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        np.testing.assert_array_equal(images, other_images)


def photo_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("photos")]


class TestTraining:
    def test_types_and_shapes(self, batches):
        training = batches()
        assert training.steps_per_epoch == 3
        for images, labels in training:
            assert (images.dtype, images.shape) == (np.uint8, (3, *SIZE, 3))
            assert (labels.dtype, labels.shape) == (np.int32, (3,))

    @pytest.mark.parametrize("workers", [1, 4])
    def test_any_number_of_threads_gives_the_same(self, batches, workers):
        assert_equal(run(batches(workers=workers), 2), run(batches(workers=2), 2))

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_a_cache_changes_nothing_while_it_fills_and_after(self, batches, resized, tmp_path, workers):
        whole = run(batches(), 3)
        for start_step in (0, 4):
            cache = PhotoCache(tmp_path / "cache", PHOTOS, SIZE, room=PHOTOS - 2)
            training = batches(photos=resized(cache=cache), workers=workers, start_step=start_step)
            assert_equal(run(training, 3)[: 9 - start_step], whole[start_step:])
        assert cache.filled == PHOTOS - 2

    @pytest.mark.parametrize(("together", "start_step"), [(2, 0), (2, 1), (4, 3)])
    def test_the_batches_of_all_workers_are_one_behind_the_other_those_of_one_process(
        self, batches, together, start_step
    ):
        """Photos, labels and random numbers."""
        whole = batches(batch_size=4, start_step=start_step)
        options = {"batch_size": 4 // together, "start_step": start_step, "workers_together": together}
        each = [batches(worker=worker, **options) for worker in range(together)]
        assert {b.steps_per_epoch for b in each} == {whole.steps_per_epoch}
        assert {b.photos_per_step for b in each} == {whole.photos_per_step} == {4}
        joined = [
            tuple(np.concatenate(parts) for parts in zip(*step, strict=True))
            for step in zip(*(run(b, 3) for b in each), strict=True)
        ]
        assert_equal(joined, run(whole, 3))

    @pytest.mark.parametrize("start_step", [1, 2, 3, 4, 6, 8])
    def test_start_at_any_step_gives_the_rest(self, batches, start_step):
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

    def test_one_photo_at_one_position_is_augmented_anew_each_epoch(self, batches, rows):
        training = batches(rows[:1], batch_size=1)
        assert len({images.tobytes() for _ in range(3) for images, _ in training}) == 3

    def test_photos_of_one_batch_are_augmented_apart(self, batches, resized, rows):
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
        assert {int(label) for _ in range(6) for _, labels in training for label in labels} == set(range(PHOTOS))

    def test_other_seed_other_order(self, batches):
        one, other = run(batches(seed=0)), run(batches(seed=1))
        assert [b[1].tolist() for b in one] != [b[1].tolist() for b in other]

    def test_order_is_a_permutation_that_depends_on_seed_and_epoch(self, batches):
        orders = [tuple(batches(seed=seed).order(epoch)) for seed in (0, 1) for epoch in (0, 1)]
        assert len(set(orders)) == 4
        assert all(sorted(order) == list(range(PHOTOS)) for order in orders)

    def test_labels_belong_to_their_photos(self, root, batches):
        for images, labels in batches(aug=PLAIN):
            for image, label in zip(images, labels, strict=True):
                np.testing.assert_array_equal(image, letterbox(read_image(root / f"照片{label}.png"), SIZE))

    def test_batch_as_large_as_the_rows(self, batches):
        training = batches(batch_size=PHOTOS)
        assert training.steps_per_epoch == 1
        assert sorted(run(training)[0][1]) == list(range(PHOTOS))


class TestMixing:
    AUG = SimpleNamespace(name="mixup", crop=None, flip=0.0, color=0.0, alpha=1.0)

    def test_images_and_targets_are_mixed_alike(self, batches):
        """Each row of the targets tells how the two photos make the image."""
        plain = {int(label): image for image, label in zip(*run(batches(aug=PLAIN, batch_size=11))[0], strict=True)}
        images, targets = run(batches(aug=self.AUG, batch_size=11))[0]
        assert (targets.dtype, targets.shape) == (np.float32, (11, PHOTOS))
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        for image, target in zip(images, targets, strict=True):
            expected = sum(share * plain[label] for label, share in enumerate(target) if share)
            assert np.abs(image - expected).max() <= 1

    def test_start_and_threads_change_nothing(self, batches):
        whole = run(batches(aug=self.AUG), 2)
        assert_equal(run(batches(aug=self.AUG, workers=4, start_step=2), 2)[:4], whole[2:])

    def test_shares_are_drawn_anew_for_each_image(self, batches):
        shares = [target.max() for _, targets in run(batches(aug=self.AUG), 2) for target in targets]
        assert len(set(shares)) > len(shares) // 2


class TestClassBalanced:
    def test_every_class_comes_as_often_as_any_other(self):
        labels = np.repeat([0, 1, 3, 7], [100, 9, 3, 1])
        drawn = balanced_order(labels, np.random.default_rng(0))
        assert len(drawn) == len(labels) == 113
        assert sorted(np.bincount(labels[drawn], minlength=8)[[0, 1, 3, 7]]) == [28, 28, 28, 29]
        assert np.bincount(labels[drawn])[[2, 4, 5, 6]].sum() == 0

    def test_a_class_repeats_none_before_all_have_come(self):
        labels = np.repeat([0, 1], [100, 9])
        times = np.bincount(balanced_order(labels, np.random.default_rng(0)), minlength=109)
        assert times[:100].max() == 1
        assert times[100:].max() - times[100:].min() <= 1

    def test_classes_of_one_row_each(self):
        assert sorted(balanced_order(np.arange(50), np.random.default_rng(0))) == list(range(50))

    def test_batches_draw_so(self, batches, rows):
        skewed = rows.assign(label=[0] * 9 + [1] * 2)
        labels = np.concatenate([labels for _, labels in run(batches(skewed, sampler="class_balanced"), 4)])
        assert 12 <= labels.sum() <= 24  # of 36; uniform sampling would give 6.5
        assert_equal(
            run(batches(skewed, sampler="class_balanced", start_step=4), 2)[:2],
            run(batches(skewed, sampler="class_balanced"), 2)[4:],
        )


class TestEvaluation:
    @pytest.fixture
    def all_of(self, resized, rows):
        return lambda batch_size, workers=2, size=SIZE: list(
            evaluation_batches(resized(size=size), rows, SIZE, batch_size, workers)
        )

    @pytest.mark.parametrize(("batch_size", "lengths"), [(4, [4, 4, 3]), (11, [11]), (64, [11]), (1, [1] * 11)])
    def test_last_smaller_batch_is_kept(self, all_of, batch_size, lengths):
        assert [len(images) for images in all_of(batch_size)] == lengths

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_every_photo_in_order(self, root, rows, all_of, workers):
        images = np.concatenate(all_of(4, workers))
        expected = [letterbox(read_image(root / path), SIZE) for path in rows["path"]]
        np.testing.assert_array_equal(images, expected)

    def test_center_crop_keeps_its_share(self, root, rows, all_of):
        image = all_of(1, size=(40, 50))[0][0]
        whole = letterbox(read_image(root / rows["path"][0]), (40, 50))
        np.testing.assert_array_equal(image, whole[4:36, 5:45])


class TestViews:
    WAYS = (((40, 50), "letterbox", SIZE), ((24, 24), "stretch", (20, 24)))

    @pytest.fixture
    def caches(self, tmp_path):
        return [PhotoCache(tmp_path / str(i), PHOTOS, size, PHOTOS) for i, (size, _, _) in enumerate(self.WAYS)]

    def views(self, resized, caches=(None, None)):
        return PhotoViews([resized(None, s, r, c) for (s, r, _), c in zip(self.WAYS, caches, strict=True)])

    @pytest.fixture
    def resized(self, resized, rows):
        return lambda table, *way: resized(rows if table is None else table, *way)

    def test_batches_of_each_way_are_those_of_the_way_alone(self, resized, rows):
        crops = [(size, crop) for size, _, crop in self.WAYS]
        found = list(view_batches(self.views(resized), range(PHOTOS), crops, 4, 2))
        for i, (size, resize, crop) in enumerate(self.WAYS):
            alone = list(evaluation_batches(resized(None, size, resize), rows, crop, 4))
            for batch, expected in zip(found, alone, strict=True):
                np.testing.assert_array_equal(batch[i], expected)

    def test_each_way_has_its_cache_and_what_is_in_it_is_not_read_again(self, resized, caches, monkeypatch):
        first, second = [self.views(resized, caches)(row) for row in range(2)], self.views(resized, caches)
        for photos in second.photos:
            photos.paths = ["/no/such/file"] * PHOTOS
        for row, expected in enumerate(first):
            for found, photo in zip(second(row), expected, strict=True):
                np.testing.assert_array_equal(found, photo)
        with pytest.raises(DataError):
            second(2)

    def test_what_one_cache_lacks_is_read_for_it_alone(self, resized, caches):
        expected = self.views(resized)(0)
        caches[1].put(0, np.full((24, 24, 3), 7, np.uint8))
        found = self.views(resized, caches)(0)
        np.testing.assert_array_equal(found[0], expected[0])
        assert (found[1] == 7).all()


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_training_sees_what_evaluation_sees_when_nothing_is_augmented(batches, resized, rows, resize):
    photos = resized(size=(40, 50), resize=resize)
    images, labels = next(iter(batches(photos=photos, aug=PLAIN, batch_size=PHOTOS)))
    (seen,) = evaluation_batches(photos, rows, SIZE, PHOTOS)
    np.testing.assert_array_equal(images, seen[labels])


class TestUnreadablePhoto:
    @pytest.fixture
    def broken(self, root, rows, tmp_path):
        (tmp_path / "坏.jpg").write_text("no picture")
        rows.loc[5, "path"] = str(tmp_path / "坏.jpg")
        return rows

    def test_training_names_it_and_keeps_the_failure(self, batches, broken):
        training = batches(broken, batch_size=PHOTOS)
        assert training.failure is None
        with pytest.raises(DataError, match=r"坏\.jpg") as error:
            run(training)
        assert training.failure is error.value

    def test_batches_before_it_still_come(self, resized, broken):
        iterator = evaluation_batches(resized(broken), broken, SIZE, 2, 4)
        assert len(list(islice(iterator, 2))) == 2
        with pytest.raises(DataError, match=r"坏\.jpg"):
            next(iterator)

    def test_leaves_no_thread(self, resized, broken):
        with pytest.raises(DataError):
            list(evaluation_batches(resized(broken), broken, SIZE, 2, 4))
        assert_no_photo_threads()


def assert_no_photo_threads():
    for thread in photo_threads():
        thread.join(timeout=10)
    assert photo_threads() == []


@pytest.mark.parametrize("end", ["close", "drop"])
def test_abandoned_iterator_leaves_no_thread_and_no_failure(batches, end):
    training = batches(workers=4, batch_size=1)
    iterator = iter(training)
    list(islice(iterator, 2))
    assert photo_threads()
    if end == "close":
        iterator.close()
    del iterator
    gc.collect()
    assert_no_photo_threads()
    assert training.failure is None


def test_finished_iterator_leaves_no_thread(batches):
    run(batches(workers=4))
    assert_no_photo_threads()


def test_reads_ahead_but_boundedly(rows):
    """At most two batches ahead for each thread: memory does not grow with the set."""
    made = []

    class Photos:
        size = (1, 1)

        def __call__(self, row):
            made.append(row)
            return np.zeros((1, 1, 3), np.uint8)

    many = pd.concat([rows] * 10)
    iterator = evaluation_batches(Photos(), many, (1, 1), 1, workers=1)
    next(iterator)
    assert len(made) <= 3 + 1
    iterator.close()


def test_closing_cancels_the_work_that_waits(rows):
    made, may_go_on = [], threading.Event()

    class Photos:
        size = (1, 1)

        def __call__(self, row):
            made.append(row)
            if len(made) > 1:
                may_go_on.wait(10)
            return np.zeros((1, 1, 3), np.uint8)

    iterator = evaluation_batches(Photos(), rows, (1, 1), 1, workers=1)
    next(iterator)
    iterator.close()
    may_go_on.set()
    assert_no_photo_threads()
    assert len(made) <= 2


class TestMindsporeDataset:
    def test_gives_the_same_arrays_over_two_epochs(self, batches):
        dataset = mindspore_dataset(batches())
        iterator = dataset.create_tuple_iterator(num_epochs=2, output_numpy=True)
        given = [tuple(batch) for _ in range(2) for batch in iterator]
        assert_equal(given, run(batches(), 2))
        assert given[0][0].dtype == np.uint8
        assert given[0][1].dtype == np.int32

    def test_size_is_the_steps_of_an_epoch(self, batches):
        assert mindspore_dataset(batches()).get_dataset_size() == 3

    def test_columns(self, batches):
        assert mindspore_dataset(batches()).get_col_names() == ["images", "labels"]
