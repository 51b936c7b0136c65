"""Training on kept outputs of frozen stages: equal to training on images, resumable, and its space is checked."""

import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.loader import ImageViews
from rp2k_lab.dataset.mindspore_dataset import mindspore_dataset
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.model.network import first_stages
from rp2k_lab.train import kept_outputs
from rp2k_lab.train.build import build_batches, build_evaluators, build_images, build_training, preprocessing
from rp2k_lab.train.kept_outputs import build_training_on_outputs, output_batches

# 70 images: two whole batches of the training, and a rest that no epoch of one view has.
FEW = (
    "dataset.classes=4",
    "dataset.train_images=70",
    "dataset.val_images=20",
    "dataset.test_images=16",
    "dataset.min_train_images=5",
    "size=32",
    "batch_size=32",
    "epochs=3",
    "optimizer.lr=0.01",
    "schedule.warmup_epochs=0",
    "model.depth_multiplier=0.25",
)
RESNET = ("model=resnet18", "model.width_multiplier=0.125", "model.freeze=stage2", "model.drop_path_rate=0.2")
LITE = ("model=efficientnet_lite0", "model.width_multiplier=0.25", "model.freeze=stage4", "model.drop_rate=0.2")
PLAIN = ("aug=none", "aug.crop=null", "aug.flip=0", "aug.color=0")
VIT = ("model=vit_small", "model.width_multiplier=0.25", "model.freeze=stage2")
# Its last norm and convolution follow the last stage.
WHOLE = (*LITE[:2], "model.freeze=backbone")
VIEWS = ("aug=randaugment", "model.freeze_views=2", "optimizer.ema_decay=0.9")

pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.fixture
def build(compose, tmp_path, monkeypatch):
    """build(*overrides): configuration, index, images and their batches of a small network."""
    monkeypatch.setattr(kept_outputs, "FEATURES", tmp_path / "features")

    def build(*overrides, step=0):
        config = parse(compose("task=train", *FEW, *overrides))
        index = build_index(config.dataset)
        images = build_images(config, index)
        batches = build_batches(config, index, images, index.split("train"), start_step=step)
        return SimpleNamespace(config=config, index=index, images=images, batches=batches)

    return build


def on_outputs(parts, step=0):
    return build_training_on_outputs(parts.config, parts.index, parts.images, parts.batches, step)


def values(cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in cell.get_parameters()}


def train(training, epochs):
    training.model.train(epochs, mindspore_dataset(training.batches), dataset_sink_mode=False)
    return values(training.model.train_network)


def assert_equal(some, others):
    assert some.keys() == others.keys()
    for name, value in some.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)


def frozen(parts, training) -> dict[str, np.ndarray]:
    frozen_parts = first_stages(training.network.network, parts.config.model.kept_stages)
    parameters = [
        p for part in frozen_parts for p in ([part] if isinstance(part, Parameter) else part.get_parameters())
    ]
    return {p.name: p.asnumpy().copy() for p in parameters}


@pytest.mark.parametrize(
    ("network", "more"),
    [
        (RESNET, VIEWS),
        pytest.param(RESNET, PLAIN, marks=pytest.mark.soak),
        pytest.param(LITE, VIEWS, marks=pytest.mark.soak),
        pytest.param(LITE, PLAIN, marks=pytest.mark.soak),
        pytest.param(VIT, VIEWS, marks=pytest.mark.soak),
        pytest.param(WHOLE, VIEWS, marks=pytest.mark.soak),
        pytest.param((*WHOLE, "model.head_width=8"), VIEWS, marks=pytest.mark.soak),
    ],
    ids=[
        "resnet18 two views, averaged",
        "resnet18",
        "lite0 two views, averaged",
        "lite0",
        "vit_small two views",
        "all",
        "wide head",
    ],
)
def test_training_on_outputs_equals_training_on_images_bit_for_bit(build, network, more):
    parts = build(*network, *more)
    training, kept = on_outputs(parts)
    before = frozen(parts, training)
    training.prepare(lambda: None)
    epochs = parts.config.kept_views
    trained = train(training, epochs)
    if parts.config.optimizer.ema_decay is None:  # an average of equal values rounds
        assert_equal(before, frozen(parts, training))

    member, on_images = Member("m", training.network, preprocessing(parts.config)), build(*network, *more)
    predictor = Predictor([member], parts.config.batch_size)
    views = ImageViews([parts.images])
    whole = build_evaluators(parts.config, parts.index, views, predictor, ["val"])["val"].predict()
    predictions = kept.evaluator(member, lambda: None).predict()
    # The native library folds norms into the weights before them.
    np.testing.assert_allclose(predictions.top_probabilities, whole.top_probabilities, rtol=1e-4, atol=1e-5)
    assert_equal(trained, train(build_training(on_images.config, on_images.batches), epochs))


@pytest.fixture
def no_shape(monkeypatch):
    """Let every image's output have 10 numbers, without compiling a network."""
    monkeypatch.setattr(kept_outputs.KeptOutputs, "_compute_shape", lambda self: (10,))


def kept_files(kept) -> list[str]:
    return [part.file.name for part in (*kept._train, kept._val)]


@pytest.mark.usefixtures("no_shape")
def test_trials_share_files_unless_their_outputs_differ(build):
    def files(*overrides):
        return kept_files(on_outputs(build(*RESNET, "aug=randaugment", "model.freeze_views=2", *overrides))[1])

    usual = files()
    assert len(set(usual)) == 3
    others = ("optimizer.lr=0.5", "batch_size=16", "epochs=7", "model.drop_rate=0.5", "model.drop_path_rate=0")
    assert files(*others, "loss.label_smoothing=0.1") == usual
    assert files("model.freeze_views=4")[:2] == usual[:2]
    same_val = files("aug.crop=[0.6,1]"), files("aug=autoaugment")
    assert [each[2] for each in same_val] == [usual[2]] * 2
    different = (
        files("seed=1"),  # the initial weights of the frozen stages
        files("size=40"),
        files("resize=stretch"),
        files("crop_ratio=0.875"),
        files("model.freeze=stage1"),
        files("model.width_multiplier=0.25"),
        files("dataset.std=[0.3,0.3,0.3]"),
    )
    assert len({*usual, *(name for each in different for name in each)}) == 3 * (1 + len(different))
    assert not set(usual[:2]) & {name for each in same_val for name in each}


def test_an_epoch_has_its_view(build):
    batches = output_batches(build(*RESNET, *VIEWS).config, build(*RESNET, *VIEWS).batches, 0)
    batches.views = [np.full((70, 2), view, np.float32) for view in range(2)]
    assert [{float(x) for x, _ in batches for x in x.flat} for _ in range(3)] == [{0.0}, {1.0}, {0.0}]


def test_too_large_outputs_are_refused_with_a_stage_that_fits(build, monkeypatch):
    """70 images twice and 20 of val; the maps are 8·8·8 after the stem and stage 1, 16·4·4 after stage 2."""
    monkeypatch.setattr(kept_outputs, "MAX_BYTES", 160 * 4 * 300)
    refusal = (
        r"^model\.freeze=stem: its outputs take 328 kB, 2\.0 kB for each of 160 views of photos; "
        r"at most 192 kB are kept\n"
        r"use model\.freeze=stage2, 164 kB, or a smaller model\.freeze_views or size$"
    )
    with pytest.raises(RequestError, match=refusal):
        on_outputs(build(*RESNET, *VIEWS, "model.freeze=stem"))


@pytest.mark.usefixtures("no_shape")
def test_outputs_larger_than_the_free_disk_are_refused_and_unasked_ones_are_not_kept(build, monkeypatch, caplog):
    monkeypatch.setattr(kept_outputs, "stage_shapes", lambda *_: [(10,)] * 5)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=kept_outputs.RESERVE_BYTES + 3500))
    refusal = r"are free\nuse a smaller model\.freeze_views or size$"
    with pytest.raises(RequestError, match=refusal):
        on_outputs(build(*RESNET, *VIEWS))
    with caplog.at_level(logging.INFO):
        assert on_outputs(build(*RESNET, *PLAIN)) is None
    assert "no outputs of frozen stages are kept: model.freeze=stage2: its outputs take 3.6 kB" in caplog.text


def test_damaged_outputs_are_computed_again_and_other_weights_refused(build, caplog):
    parts = build(*RESNET, *PLAIN)
    training, kept = on_outputs(parts)
    training.prepare(lambda: None)
    (file, val), (view,) = (part.file for part in (*kept._train, kept._val)), training.batches.views
    before = np.array(view)
    file.write_bytes(file.read_bytes()[:-100])
    val.write_bytes(b"no array")
    again, _ = on_outputs(parts)
    with caplog.at_level(logging.WARNING):
        again.prepare(lambda: None)
    assert caplog.text.count("computed again") == 2
    np.testing.assert_array_equal(again.batches.views[0], before)

    weight = again.network.network.backbone.conv1.weight
    weight.set_data(Tensor(np.zeros(weight.shape, np.float32)))
    with pytest.raises(DataError, match="has other weights in its frozen stages\nrestore the file") as error:
        again.prepare(lambda: None)
    assert len(str(error.value).splitlines()) == 2
