import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from rp2k_lab.core.errors import DataError
from rp2k_lab.evaluation.predictor import Classifier, Logits, Member, Predictor, Preprocessing, mirror

pytestmark = pytest.mark.usefixtures("pynative")

WIDE, LARGE = Preprocessing((4, 6), "letterbox", 1.0), Preprocessing((8, 8), "stretch", 0.8)


class LeftColors(nn.Cell):
    """Logits: weight times the mean red, green and blue of the left half, after a batch norm."""

    def __init__(self, weight):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.weight = weight

    def construct(self, images):
        left = images[:, :, : images.shape[2] // 2].astype("float32") / 64
        return self.norm(ops.transpose(left, (0, 3, 1, 2))).mean((2, 3)) * self.weight


def logits(images, weight):
    left = images[:, :, : images.shape[2] // 2].astype(np.float64) / 64
    return left.mean((1, 2)) * weight / np.sqrt(1 + 1e-5)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def make_images(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.fixture
def members():
    """Three members, two preprocessings."""
    return [Member(f"w{w}", LeftColors(w), preprocessing) for w, preprocessing in ((1, WIDE), (-2, LARGE), (3, WIDE))]


@pytest.fixture
def batches():
    """Seven images in batches of three, for both preprocessings."""
    small, large = make_images(7, WIDE.size), make_images(7, LARGE.size, 1)
    return [[small[i : i + 3], large[i : i + 3]] for i in (0, 3, 6)]


def expected(batches, members, average, tta):
    """Return (members, images, classes) and (images, classes) by NumPy."""
    images_of = {key: np.concatenate([batch[i] for batch in batches]) for i, key in enumerate((WIDE, LARGE))}
    activation = softmax if average == "probabilities" else lambda x: x
    each = []
    for member in members:
        images = images_of[member.preprocessing]
        views = [images, images[:, :, ::-1]] if tta == "hflip" else [images]
        each.append(np.mean([activation(logits(view, member.network.weight)) for view in views], axis=0))
    final = softmax if average == "logits" else lambda x: x
    return final(np.array(each)), final(np.mean(each, axis=0))


@pytest.mark.parametrize("tta", ["none", "hflip"])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_members_and_average_equal_numpy(members, batches, average, tta):
    found = list(Predictor(members, 3, tta, average)(batches))
    assert [(each.shape, mean.shape) for each, mean in found] == [((3, n, 3), (n, 3)) for n in (3, 3, 1)]
    each, mean = expected(batches, members, average, tta)
    np.testing.assert_allclose(np.concatenate([part for part, _ in found], axis=1), each, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([part for _, part in found]), mean, atol=1e-5)
    assert found[0][1].dtype == np.float32


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_refused(members, batches, average, weight):
    """The order of the labels would decide: every image would be of the first class."""
    broken = [*members[:2], Member("broken", LeftColors(weight), WIDE)]
    with pytest.raises(DataError, match=r"^broken: the network's output is NaN or infinite\nuse weights of"):
        list(Predictor(broken, 3, average=average)(batches))


def test_averages_and_views_differ(members, batches):
    results = [expected(batches, members, a, t)[1] for a in ("probabilities", "logits") for t in ("none", "hflip")]
    for i, result in enumerate(results):
        assert all(np.abs(result - other).max() > 0.01 for other in results[:i])


def test_preprocessings_are_distinct_in_member_order(members):
    assert Predictor(members, 3).preprocessings == (WIDE, LARGE)
    assert WIDE.resized == (4, 6)
    assert LARGE.resized == (10, 10)


def test_one_member_equals_its_network(batches):
    member = Member("one", LeftColors(2), WIDE)
    ((each, average),) = Predictor([member], 3)([batches[0][:1]])
    expected = Classifier(member.network.set_train(False))(Tensor(batches[0][0])).asnumpy()
    np.testing.assert_array_equal(each[0], expected)
    np.testing.assert_array_equal(average, expected)


def test_padding_of_the_last_batch_changes_no_probability(batches):
    predictor = Predictor([Member("one", LeftColors(2), WIDE)], 3, "hflip")
    images = batches[0][0]
    ((_, whole),) = predictor([[images]])
    single = [average for _, average in predictor([[image[None]] for image in images])]
    np.testing.assert_array_equal(np.concatenate(single), whole)


def test_every_batch_has_the_same_shape(members, batches, monkeypatch):
    shapes = {id(member): set() for member in members}

    def construct(cell, images):
        shapes[id(cell.member)].add(images.shape)
        return ops.zeros((images.shape[0], 3))

    monkeypatch.setattr(LeftColors, "construct", construct)
    for member in members:
        member.network.member = member
    list(Predictor(members, 3, "hflip")(batches))
    assert list(shapes.values()) == [{(3, *member.preprocessing.size, 3)} for member in members]


def test_networks_restore_their_mode_after_a_stop(members, batches):
    for member, mode in zip(members, (True, False, True), strict=True):
        member.network.set_train(mode)
    before = members[0].network.norm.moving_mean.asnumpy().copy()
    iterator = Predictor(members, 3)(batches)
    next(iterator)
    assert not any(member.network.training for member in members)
    iterator.close()
    assert [member.network.training for member in members] == [True, False, True]
    np.testing.assert_array_equal(members[0].network.norm.moving_mean.asnumpy(), before)


def test_check_between_batches_may_stop(members, batches):
    calls = []

    def stop_at_second():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Predictor(members, 3, check=stop_at_second)(batches))
    assert len(calls) == 2


def test_classifier_is_the_softmax_of_float32_logits():
    network = LeftColors(1).set_train(False)
    images = make_images(5, WIDE.size)
    found = Logits(network)(Tensor(images)).asnumpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(Classifier(network)(Tensor(images)).asnumpy(), softmax(found), atol=1e-5)


def test_mirror_returns_a_contiguous_copy():
    images = make_images(3, (5, 7))
    found = mirror(images)
    np.testing.assert_array_equal(found, images[:, :, ::-1])
    assert found.flags.c_contiguous
    assert not np.shares_memory(found, images)
