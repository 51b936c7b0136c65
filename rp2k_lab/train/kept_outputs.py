"""Outputs of a network's frozen stages, computed once and kept on disk: a training then runs the other stages alone.

The files are those of `feature_cache`, named by all that the outputs depend on, so that the trials of a study share
them.  Stages are computed by the operators of a training step, which give the same bits.
"""

import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn

from rp2k_lab import native
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.progress import progress
from rp2k_lab.core.text import in_bytes
from rp2k_lab.dataset.loader import ResizedImages, TrainingBatches, evaluation_batches
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.evaluator import Evaluator
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.model import Front, Rest, WithPreprocessing
from rp2k_lab.model.network import first_stages
from rp2k_lab.train.build import Training, build_batches, build_training, preprocessing
from rp2k_lab.train.feature_cache import FEATURES, cache_name, cached_features
from rp2k_lab.train.features import FeatureBatches, compute_features
from rp2k_lab.train.updates import TRAINED

log = logging.getLogger(__name__)

# Tag of a run that trains on kept outputs: the number of views.
KEPT_VIEWS = "kept_views"
# An epoch reads a view in random order: a laptop's memory should hold all of them.
MAX_BYTES = 4 * 10**9
# Left free on the disk, for the run's files.
RESERVE_BYTES = 10**9
# Images of a batch that is computed, whatever a trial's batch size is: it may decide rounding.
BATCH = 32
# Part of the names; another number when the outputs would be other ones.
_VERSION = 1


def build_training_on_outputs(
    config: Config, index: Index, images: ResizedImages, batches: TrainingBatches, start_step: int
) -> "tuple[Training, KeptOutputs] | None":
    """Return (the training of the stages that are not frozen, the outputs of the others); None: they take no space.

    Args:
        images: of the index, at the size before the crop.
        batches: of the training on images, from `start_step` on.

    Raises:
        RequestError: the outputs that `model.freeze_views` asks for take too much space; or see `build_training`.
    """
    training = build_training(config, output_batches(config, batches, start_step))
    try:
        kept = KeptOutputs(config, index, images, training)
    except RequestError as error:
        if config.model.freeze_views is not None:
            raise
        log.info("no outputs of frozen stages are kept: %s", str(error).splitlines()[0])
        return None
    return replace(training, prepare=kept.prepare), kept


def output_batches(config: Config, images: TrainingBatches, start_step: int) -> FeatureBatches:
    """Return the batches of a training on kept outputs, still without them, in the order of batches of images."""
    paths = [images.path(row) for row in range(len(images.rows))]
    return FeatureBatches(
        [np.empty(0, np.float32)] * config.kept_views,
        paths,
        images.labels,
        images.batch_size,
        images.seed,
        images.num_classes,
        sampler=images.sampler,
        start_step=start_step,
        num_threads=images.num_threads,
        sink_steps=config.device.sink_steps,
    )


@dataclass(frozen=True)
class _Part:
    """The outputs of one file.

    Attributes:
        order: row of the file for each image.
        images: returns all images in batches of BATCH, uint8 (n, height, width, 3).
    """

    file: Path
    order: np.ndarray
    images: Callable[[], Iterator[np.ndarray]]

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of a kept image's output; None: it is not kept, or damaged."""
        try:
            return np.load(self.file, mmap_mode="r").shape[1:]
        except (OSError, ValueError, EOFError):
            return None


class KeptOutputs:
    """The kept outputs of one training: for train one file a view, for val one.

    Args:
        images: of the index, at the size before the crop.
        training: has `FeatureBatches` and a front.

    Raises:
        RequestError: the outputs take too much space.
    """

    def __init__(self, config: Config, index: Index, images: ResizedImages, training: Training):
        assert training.front is not None
        assert isinstance(training.batches, FeatureBatches)
        self._config, self._index, self._images = config, index, images
        self._front, self._batches, self._size = training.front, training.batches, config.size
        self._weights = weights_hash(training.front)
        self._train = [self._view(number) for number in range(len(training.batches.views))]
        self._val = self._of_val()
        self._val_outputs = np.empty(0, np.float32)
        parts = [*self._train, self._val]
        shapes = [part.shape for part in parts]
        self._shape = next(filter(None, shapes), None) or self._compute_shape()
        image_bytes = 4 * math.prod(self._shape)
        counts = [len(part.order) for part in parts]
        missing = sum(count for count, shape in zip(counts, shapes, strict=True) if shape is None)
        self._check_space(sum(counts) * image_bytes, missing * image_bytes)

    def prepare(self, check: Callable[[], None]) -> None:
        """Read the outputs, or compute and keep them.

        Args:
            check: called between batches; raises to stop.

        Raises:
            DataError: the disk is full, or the network has other frozen weights than it started with.
        """
        if weights_hash(self._front) != self._weights:
            raise DataError(
                f"model.pretrained={self._config.model.pretrained}: the run has other weights in its frozen stages\n"
                "restore the file that it was started with, or train a new run"
            )
        self._batches.views = [self._read(part, check) for part in self._train]
        self._val_outputs = self._read(self._val, check)

    def evaluator(self, member: Member, check: Callable[[], None]) -> Evaluator:
        """Return an evaluator of val that runs the stages that are not frozen; `prepare` comes first."""
        rest, size = Rest(member.network, self._front.stages), self._config.batch_size

        def batches() -> Iterator[list[np.ndarray]]:
            outputs = self._val_outputs
            return ([np.asarray(outputs[i : i + size])] for i in range(0, len(outputs), size))

        predictor = Predictor([replace(member, network=rest)], size, check=check)
        return Evaluator(predictor, self._index, "val", batches)

    def _view(self, number: int) -> _Part:
        config, rows = self._config, self._index.split("train")
        dataset = config.dataset.model_copy(update={"sampler": "uniform"})  # each image once
        changes = {"batch_size": min(BATCH, len(rows)), "dataset": dataset}
        batches = build_batches(config.model_copy(update=changes), self._index, self._images, rows)
        drawn = (config.aug.model_dump(), config.seed, config.dataset.mean, number)
        name = self._name("train", None if config.aug.is_none else drawn)
        return _Part(FEATURES / name, batches.order(number), lambda: batches.all_images(number))

    def _of_val(self) -> _Part:
        rows, threads = self._index.split("val"), self._config.device.num_threads
        return _Part(
            FEATURES / self._name("val", None),
            np.arange(len(rows)),
            lambda: evaluation_batches(self._images, rows, self._size, BATCH, threads),
        )

    def _name(self, split: str, augmentation: object) -> str:
        """Return the name of a file; the versions of the kernels decide rounding."""
        config = self._config
        normalize = self._front.network.normalize
        colors = normalize.scale.asnumpy().tobytes(), normalize.shift.asnumpy().tobytes()
        kernels = mindspore.__version__, native.state().version, config.device.name, config.device.precision
        options = {key: value for key, value in config.model.arguments().items() if key != "drop_path_rate"}
        network = config.model.name, sorted(options.items()), self._front.stages
        more = _VERSION, network, colors, augmentation, kernels
        return cache_name(self._weights, self._index, split, preprocessing(config), *more)

    def _read(self, part: _Part, check: Callable[[], None]) -> np.ndarray:
        def compute(target: np.ndarray) -> None:
            log.info("computing the frozen stages' outputs of %d photos", len(target))
            shown = progress(part.images(), len(target), "computing frozen stages", len)
            batches = ([images] for images in shown)
            compute_features(self._front, batches, BATCH, target, check, part.order)

        return cached_features(part.file, (len(part.order), *self._shape), compute)

    def _compute_shape(self) -> tuple[int, ...]:
        images = Tensor(np.zeros((BATCH, *self._size, 3), np.uint8))  # the batch that is computed later, too
        return self._front.set_train(False)(images).shape[1:]

    def _check_space(self, total: int, missing: int) -> None:
        """Raise RequestError if the outputs, or those that are not kept yet, take too many bytes."""
        folder = next(folder for folder in (FEATURES, *FEATURES.parents) if folder.is_dir())
        free = max(0, shutil.disk_usage(folder).free - RESERVE_BYTES)
        if total <= MAX_BYTES and missing <= free:
            return
        images = sum(len(part.order) for part in (*self._train, self._val))
        limit = f"at most {in_bytes(MAX_BYTES)} are kept" if total > MAX_BYTES else f"{in_bytes(free)} are free"
        each = in_bytes(4 * math.prod(self._shape))
        raise RequestError(
            f"model.freeze={self._config.model.freeze}: its outputs take {in_bytes(total)}, {each} for each of "
            f"{images} views of photos; {limit}\n{self._way_out(images, min(MAX_BYTES, free))}"
        )

    def _way_out(self, images: int, limit: int) -> str:
        """Return what a user may do: freeze more stages, or keep fewer views."""
        names = self._config.model.stage_names()
        shapes = stage_shapes(self._front, self._size)
        sizes = {name: 4 * math.prod(shape) for name, shape in zip(names, shapes, strict=False)}
        later = names[names.index(self._config.model.freeze) + 1 :]
        fits = next((name for name in later if name in sizes and images * sizes[name] <= limit), None)
        if fits is None:
            return "use a smaller model.freeze_views or size"
        return f"use model.freeze={fits}, {in_bytes(images * sizes[fits])}, or a smaller model.freeze_views or size"


def weights_hash(front: Front) -> str:
    """Return a hash of the parameters of a front and of their names without prefixes, but not of counters."""
    digest = hashlib.sha256()
    for part in first_stages(front.network.network, front.stages):
        for parameter in [part] if isinstance(part, Parameter) else part.get_parameters():
            if parameter.is_floating_point():  # stochastic depth, which is off, has a counter of steps
                digest.update(f"{parameter.name.removeprefix(TRAINED)} {parameter.shape}\n".encode())
                digest.update(parameter.asnumpy().tobytes())
    return digest.hexdigest()


class _Stages(nn.Cell):
    """uint8 images to the outputs of all stages of a backbone."""

    def __init__(self, network: WithPreprocessing):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images):
        x, outputs = self.network.normalize(images), ()
        for i in range(self.network.network.backbone.num_stages):
            x = self.network.network.backbone.run(x, i, i + 1)
            outputs += (x,)
        return outputs


def stage_shapes(front: Front, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Return the shape of each stage's output for an image of this (height, width) (pixels)."""
    images = Tensor(np.zeros((1, *size, 3), np.uint8))
    return [output.shape[1:] for output in _Stages(front.network).set_train(False)(images)]
