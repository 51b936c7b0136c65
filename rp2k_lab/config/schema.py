"""Schema of the configuration: every key with its type, unit and range.  All defaults are in `conf/`.

`parse` turns a composed configuration into frozen objects; a run passes on what it needs from them as arguments.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rp2k_lab.config.ablation import Ablation, Scale, Seed
from rp2k_lab.config.thresholds import Rules
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.shelf.options import ShelfOptions

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=32, le=2048)]
Multiplier = Annotated[float, Field(gt=0, le=4)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Split = Literal["train", "val", "test"]
# A single split needs no brackets; an empty list is refused.
Splits = Annotated[
    tuple[Split, ...],
    Field(strict=False),
    BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) and value else (value,)),
]
Tta = Literal["none", "hflip"]
Average = Literal["probabilities", "logits"]
MAX_RUNS = 1000
# A relative path starts at the shell's folder.
AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(lambda path: Path(os.path.abspath(path)))]


class Group(BaseModel):
    """A frozen group of keys; an unknown key is an error."""

    # Strict: "40" is no integer, true is no number.  Tuples and paths have strict=False: YAML has only lists and text.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Task(Group):
    """A task.

    Attributes:
        reads_images: whether it reads the dataset.
        earlier_runs: the possible numbers of earlier runs (`runs=`).
    """

    reads_images: ClassVar[bool]
    earlier_runs: ClassVar[Sequence[int]]


class ChanceGuard(Group):
    """The reaction to a loss that stays at chance level, that is of guessing by the class frequencies."""

    epochs: Count | None = Field(
        description="consecutive epochs with the loss at chance level before `action`; null: no guard"
    )
    action: Literal["stop", "warn"] = Field(description="stop: end the run; warn: log a warning and continue")


class TrainingTask(Task):
    """A task that trains."""

    chance_guard: ChanceGuard
    checkpoint_epochs: Count = Field(description="epochs between two checkpoints; the last epoch always has one")
    checkpoint_minutes: PositiveFloat | None = Field(
        description="minutes since the last checkpoint that cause another within an epoch; null: never"
    )
    checkpoints_kept: Count = Field(
        description="number of checkpoints kept, the newest; each holds the best weights so far too"
    )


class Train(TrainingTask):
    name: Literal["train"]
    test: bool = Field(description="evaluate on test once, at the end of the run; trials of a search never do")
    resume: Literal["never", "auto", "continue"] = Field(
        description="never: start a new run; auto: resume the unfinished run of this configuration, if there is one; "
        "continue: resume the run given by runs="
    )
    verify: bool = Field(description="train the run given by runs= again from its record and compare all metrics")
    reads_images = True

    @property
    def earlier_runs(self) -> Sequence[int]:
        return (1,) if self.verify or self.resume == "continue" else (0,)

    @model_validator(mode="after")
    def _check_verify_without_resume(self):
        if self.verify and self.resume != "never":
            raise RequestError(
                f"task.verify=true: trains from the first step, so task.resume={self.resume} does not apply\n"
                "leave out one of the two"
            )
        return self


class Evaluate(Task):
    name: Literal["evaluate"]
    split: Splits = Field(description="train, val or test, or a list of them; a study optimizes the top-1 of the first")
    tta: Tta = Field(
        description="test-time augmentation; hflip: average the probabilities of each image and its mirror image"
    )
    reads_images = True
    earlier_runs = (1,)


class Ensemble(Task):
    name: Literal["ensemble"]
    tta: Tta = Field(description="test-time augmentation of every member; hflip: each image and its mirror image")
    average: Average = Field(description="average probabilities or logits over members and views")
    reads_images = True
    earlier_runs = range(2, MAX_RUNS)


class FixRes(TrainingTask):
    name: Literal["fixres"]
    tune: Literal["classifier", "classifier_bn"] = Field(
        description="classifier: train the last dense layer; classifier_bn: and the batch norm before it"
    )
    reads_images = True
    earlier_runs = (1,)


class Predict(Task):
    name: Literal["predict"]
    input: AbsolutePath | None = Field(
        description="an image, a folder of images with its subfolders, or a list of images (.txt, .csv)"
    )
    output: AbsolutePath | None = Field(
        description="file for the predictions, .csv or .parquet; null: predictions.csv in the run folder"
    )
    top_k: Count = Field(description="number of classes listed for each image, the most probable first")
    tta: Tta = Field(description="test-time augmentation; hflip: average each image and its mirror image")
    average: Average = Field(description="average probabilities or logits over runs and views")
    reads_images = False
    earlier_runs = range(1, MAX_RUNS)

    @model_validator(mode="after")
    def _check_files(self):
        if self.input is None:
            raise RequestError("task.input: task=predict needs photos\nadd task.input=<photo, folder or list>")
        if not self.input.exists():
            raise RequestError(f"task.input={self.input}: there is no such file or folder")
        if self.output and self.output.suffix not in (".csv", ".parquet"):
            raise RequestError(f"task.output={self.output}: neither .csv nor .parquet\nuse task.output=<name>.csv")
        if self.output == self.input:
            raise RequestError(f"task.output={self.output}: is the input\nuse another file")
        return self


class Export(Task):
    name: Literal["export"]
    output: AbsolutePath | None = Field(description="folder for the exported graphs; null: the run folder")
    batch_size: Count = Field(description="images per call, a constant of the exported graph")
    reads_images = False
    earlier_runs = (1,)


class Convert(Task):
    name: Literal["convert"]
    input: AbsolutePath | None = Field(description="PyTorch weights: .pth, .pt, .bin or .safetensors")
    output: AbsolutePath | None = Field(description="file for the MindSpore weights, .ckpt; null: in the run folder")
    with_classifier: bool = Field(
        description="false: leave out the classifier, for a dataset with another number of classes"
    )
    reads_images = False
    earlier_runs = (0,)

    @model_validator(mode="after")
    def _check_files(self):
        if self.input is None:
            raise RequestError("task.input: task=convert needs a file\nadd task.input=<name>.pth")
        if self.output and self.output.suffix != ".ckpt":
            raise RequestError(f"task.output={self.output}: not a .ckpt file\nuse task.output=<name>.ckpt")
        return self


class Inspect(Task):
    name: Literal["inspect"]
    what: Literal["data", "models", "cache"] = Field(
        description="data: a page about the dataset; models: a table of the networks; cache: resize all images once"
    )
    models: tuple[str, ...] | None = Field(strict=False, description="models: names of networks, as a list; null: all")
    size: Side = Field(description="models: side of the input [pixels]")
    batch_size: Count = Field(description="models: images per batch")
    seconds: NonNegativeFloat = Field(description="models: seconds to time each network; 0: no timing")
    earlier_runs = (0,)

    @property
    def reads_images(self) -> bool:
        return self.what != "models"


class Errors(Task, Rules):
    name: Literal["errors"]
    split: Split | None = Field(description="split whose errors are analyzed; null: val, or train with `folds`")
    folds: Annotated[int, Field(ge=2, le=100)] | None = Field(
        description="folds of train: as many networks each predict the part they were not trained on; null: none"
    )
    reads_images = True
    earlier_runs = (1, 2)

    @property
    def analyzed_split(self) -> Split:
        """The split whose errors are analyzed."""
        return self.split or ("train" if self.folds else "val")

    @model_validator(mode="after")
    def _check_folds_split(self):
        if self.folds and self.analyzed_split != "train":
            raise RequestError(
                f"task.folds={self.folds}: folds predict photos of train, but task.split is {self.split}\n"
                "leave out one of the two"
            )
        return self


class Report(Task):
    name: Literal["report"]
    output: AbsolutePath | None = Field(
        description="folder; null: experiments/<ablation>/<scale> for a table, the run folder for two runs"
    )
    study: str | None = Field(
        description="Optuna study whose trials are the cells of the table; null: <ablation>_<scale>"
    )
    storage: str | None = Field(
        description="database of studies, an address; null: sqlite in the clone (mlruns/optuna.db)"
    )
    reads_images = False
    earlier_runs = (0, 2)


class Sync(Task):
    name: Literal["sync"]
    reads_images = False
    earlier_runs = range(MAX_RUNS)


class Source(Group):
    """A dataset: its folder, its normalization, and how train is split and sampled."""

    if TYPE_CHECKING:
        name: str  # each choice declares its own

    root: AbsolutePath | None = Field(description="folder of the dataset; null (shelf only): drawn once under data/")
    mean: tuple[Fraction, Fraction, Fraction] = Field(
        strict=False, description="mean of R, G and B over train, after resizing (0 to 1)"
    )
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        strict=False, description="standard deviation of R, G and B over train, after resizing (0 to 1)"
    )
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="fraction of train held out as val, stratified; not used if the dataset has its own val"
    )
    val_seed: Natural = Field(description="seed of the held-out part; separate from `seed`, so that runs share one val")
    catch_all_class: str | None = Field(description="name of the catch-all class; null: none")
    drop_catch_all: bool = Field(description="true: leave the catch-all class out of every split")
    min_images_per_class: Count = Field(
        description="smallest number of training images of a class; smaller classes are left out of every split"
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="fraction of each class's training images to use; a smaller one is a subset; val is unchanged"
    )
    fraction_seed: Natural = Field(description="seed of the subset that `fraction` selects; separate from `seed`")
    fold: str | None = Field(
        description="i/k: train without the i-th of k stratified parts, as folds of task=errors; null: all of train"
    )
    relabel: AbsolutePath | None = Field(
        description="reviewed label errors to fix in train: .csv with path, given, suggested[, decision]; null: none"
    )
    sampler: Literal["uniform", "class_balanced"] = Field(
        description="sampling of training images; class_balanced: every class equally often"
    )
    on_bad_image: Literal["error", "skip"] = Field(
        description="unreadable images; error: end the run; skip: list and leave out (decodes every image once)"
    )
    cache_gb: NonNegativeFloat = Field(
        description="largest size of the cache of resized images under data/cache [10⁹ bytes]; 0: no cache"
    )

    @field_validator("fold")
    @classmethod
    def _check_fold(cls, fold):
        if fold is not None:
            match = re.fullmatch(r"(\d+)/(\d+)", fold)
            if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
                raise ValueError("needs i/k with 1 <= i <= k and k >= 2, for example 1/3")
        return fold

    @model_validator(mode="after")
    def _check_dropped_class(self):
        if self.drop_catch_all and self.catch_all_class is None:
            raise RequestError(
                f"dataset.drop_catch_all=true: {self.name} has no catch-all class\nadd dataset.catch_all_class=<class>"
            )
        return self


class Shelf(Source, ShelfOptions):
    name: Literal["shelf"]


class Rp2k(Source):
    name: Literal["rp2k"]


class GroceryStore(Source):
    name: Literal["grocery_store"]


def _weights(pretrained: str) -> str:
    return pretrained if pretrained == "imagenet" else os.path.abspath(pretrained)


class Model(Group):
    """A network.  The wider variants are separate choices, so that run names differ."""

    width_multiplier: Multiplier = Field(description="factor of the backbone's channels, including final_width")
    depth_multiplier: Multiplier = Field(description="factor of the number of blocks in each stage")
    head_width: Count | None = Field(description="channels of a 1×1 convolution before the classifier; null: none")
    drop_rate: Rate = Field(description="dropout probability before the classifier")
    freeze: Literal["none", "backbone"] = Field(
        description="none: train all layers; backbone: train only the classifier"
    )
    pretrained: Annotated[str, Field(min_length=1), AfterValidator(_weights)] | None = Field(
        description="imagenet (efficientnet_lite0) or a file: .ckpt (task=convert), .pth, .safetensors; null: none"
    )


DropPathRate = Annotated[
    Rate, Field(description="stochastic depth: drop probability of the last block; earlier blocks linearly less")
]


class ResNet(Model):
    name: Literal[
        "resnet18",
        "resnet50",
        "resnet101",
        "resnet50_bam",
        "resnet50_bam_wider",
        "resnet50_cbam",
        "seresnet50",
        "seresnext50",
        "seresnext50_wider",
    ]
    cardinality: Count = Field(description="number of groups of the 3×3 convolutions")
    base_width: Count = Field(description="channels of each group in the first stage (64 planes)")
    final_width: Count = Field(description="features before the classifier, at width_multiplier=1")
    drop_path_rate: DropPathRate


class EfficientNet(Model):
    name: Literal["efficientnet_b0", "efficientnet_lite0"]
    drop_path_rate: DropPathRate


class Swin(Model):
    name: Literal["swin_tiny"]
    drop_path_rate: DropPathRate


class InceptionResNetV2(Model):
    name: Literal["inception_resnet_v2", "inception_resnet_v2_wider"]
    final_width: Count = Field(description="features before the classifier, at width_multiplier=1")


class NoAug(Group):
    name: Literal["none"]
    crop: tuple[PositiveFloat, PositiveFloat] | None = Field(
        strict=False, description="area of RandomResizedCrop, smallest and largest fraction of the image; null: no crop"
    )
    flip: Fraction = Field(description="probability of a horizontal flip")
    color: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="jitter of brightness, contrast and saturation, each by a factor in 1 ± this value"
    )

    @field_validator("crop", "area", check_fields=False)
    @classmethod
    def _check_order(cls, bounds):
        if bounds is not None and not bounds[0] <= bounds[1] <= 1:
            raise ValueError("needs smallest <= largest <= 1")
        return bounds


class Cutout(NoAug):
    name: Literal["cutout"]
    length: Annotated[int, Field(ge=1, le=224)] = Field(
        description="side of the square [pixels] in a 224×224 image; scaled with the image's size"
    )


class RandomErasing(NoAug):
    name: Literal["random_erasing"]
    p: Fraction = Field(description="probability that a rectangle of an image is erased")
    area: tuple[PositiveFloat, PositiveFloat] = Field(
        strict=False, description="area of the rectangle, smallest and largest fraction of the image"
    )
    ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest height / width of the rectangle; the largest is its inverse"
    )
    fill: Literal["random", "mean", "black", "white"] = Field(
        description="pixels of the rectangle; random: each value uniform in 0 to 255; mean: of the dataset"
    )


class AutoAugment(NoAug):
    name: Literal["autoaugment"]


class RandAugment(NoAug):
    name: Literal["randaugment"]
    operations: Literal["paper", "timm"] = Field(
        description="set to draw from; paper: 14, one of them the identity; timm: 15, with invert and solarize-add"
    )
    num_ops: Annotated[int, Field(ge=1, le=16)] = Field(description="number of transformations drawn per image")
    p: Fraction = Field(description="probability that a drawn transformation is applied")
    magnitude: Annotated[float, Field(ge=0, le=30)] = Field(
        description="strength; 10: the end of AutoAugment's ranges, extrapolated above"
    )
    magnitude_std: NonNegativeFloat = Field(description="standard deviation of the drawn magnitudes; 0: all equal")
    magnitude_max: Annotated[float, Field(gt=0, le=30)] = Field(
        description="upper limit of the drawn magnitudes; the lower limit is 0"
    )
    increasing: bool = Field(
        description="magnitude of the identity; true: always 0; false: 5 for the enhancements, as released"
    )

    @model_validator(mode="after")
    def _check_magnitude(self):
        if self.magnitude > self.magnitude_max:
            raise ValueError(f"magnitude={self.magnitude:g}: above aug.magnitude_max={self.magnitude_max:g}")
        return self


class Mixup(NoAug):
    name: Literal["mixup"]
    alpha: PositiveFloat = Field(
        description="the fraction of the second image is drawn from Beta(alpha, alpha); 1: uniform"
    )


class CutMix(Mixup):
    name: Literal["cutmix"]
    p: Fraction = Field(description="probability that a rectangle of an image is replaced by another image's")


class CrossEntropy(Group):
    name: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="probability moved from the label to the uniform distribution over all classes"
    )


class LogitAdjusted(CrossEntropy):
    name: Literal["logit_adjusted"]
    tau: NonNegativeFloat = Field(
        description="weight of the log class frequencies; 1: consistent with balanced accuracy; 0: cross_entropy"
    )


class Sgd(Group):
    name: Literal["sgd"]
    lr: PositiveFloat = Field(description="peak learning rate")
    lr_end: NonNegativeFloat = Field(description="learning rate of the last update, where the cosine ends")
    warmup_epochs: NonNegativeFloat = Field(description="epochs of linear warm-up, may be fractional; 0: none")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(description="momentum of the gradient; 0: none")
    weight_decay: NonNegativeFloat = Field(
        description="L2 penalty on weights of convolutions and dense layers; norms and biases have none"
    )
    lr_batch_size: Count | None = Field(
        description="images per update for which lr is given; lr grows with batch_size · accumulate_steps; null: no"
    )
    accumulate_steps: Count = Field(description="number of batches whose mean gradient makes one update")
    clip_norm: PositiveFloat | None = Field(
        description="largest L2 norm of the whole gradient of an update; null: no clipping"
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="decay of the moving average of weights, for evaluation and best checkpoint; null: no average"
    )


class Device(Group):
    name: Literal["cpu", "gpu", "ascend"]
    precision: Literal["float32", "O2", "O3"] = Field(
        description="MindSpore's mixed-precision level; float32 is its O0"
    )
    loss_scale: PositiveFloat = Field(description="fixed loss scale; 1: none")
    sink_steps: Natural = Field(
        description="steps per data sink, between which metrics, checkpoints and signals act; 0: none (CPU: always)"
    )
    parallel: Literal["none", "data"] = Field(
        description="none: one process; data: one process per device, started by msrun; batch_size is per process"
    )
    num_threads: Count | None = Field(description="number of threads that read images; null: one per core")

    @model_validator(mode="after")
    def _check_sink_steps(self):
        if self.name == "cpu" and self.sink_steps:  # MindSpore would count each sink as an epoch
            raise RequestError(f"device.sink_steps={self.sink_steps}: a CPU has no data sinks\nuse device.sink_steps=0")
        return self


class Tracking(Group):
    name: Literal["mlflow", "offline"] = Field(
        description="mlflow: upload during the run; offline: upload later, by task=sync"
    )
    uri: str | None = Field(
        description="MLflow store: http://host:port or sqlite:///file; null: sqlite and a folder in the clone (mlruns/)"
    )
    experiment: Annotated[str, Field(min_length=1)] = Field(description="MLflow experiment of the run")
    run_name: Annotated[str, Field(min_length=1)] | None = Field(
        description="name of the run; null: <model>_<dataset>_<aug>_seed<seed>"
    )
    flush_seconds: PositiveFloat = Field(description="seconds between two uploads of the journal")


if TYPE_CHECKING:  # which one it is, the module of the task knows; a checker would ask for all of them to have a key
    AnyTask = Any
else:
    AnyTask = Annotated[
        Train | Evaluate | Ensemble | FixRes | Predict | Export | Convert | Inspect | Errors | Report | Sync,
        Field(discriminator="name"),
    ]


class Config(Group):
    """The configuration of a run."""

    seed: Seed = Field(description="seed of initial weights, order of the images and augmentation")
    epochs: Count = Field(description="passes over the training images")
    batch_size: Count = Field(description="images per step, in each process")
    size: tuple[int, int] = Field(description="input of the network [pixels], 32 to 2048: one side, or [height,width]")
    resize: Literal["letterbox", "stretch"] = Field(
        description="letterbox: keep height / width and pad; stretch: ignore height / width"
    )
    crop_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        description="fraction of the resized side that the center crop of evaluation keeps; 1: no crop"
    )
    scale: Scale = Field(description="size of the experiment of an ablation: paper, laptop or smoke")
    recipe: Literal["none", "giantpanda"] = Field(
        description="name of a recipe, which sets keys of several groups; the command line overrides them"
    )
    runs: tuple[str, ...] = Field(
        description="earlier runs to start from, each an id, name, folder or checkpoint file; null: none"
    )
    debug: bool = Field(description="true: print the traceback of an error")
    task: AnyTask
    dataset: Annotated[Shelf | Rp2k | GroceryStore, Field(discriminator="name")]
    model: Annotated[ResNet | EfficientNet | Swin | InceptionResNetV2, Field(discriminator="name")]
    aug: Annotated[
        NoAug | Cutout | RandomErasing | AutoAugment | RandAugment | Mixup | CutMix, Field(discriminator="name")
    ]
    loss: Annotated[CrossEntropy | LogitAdjusted, Field(discriminator="name")]
    optimizer: Sgd
    device: Device
    tracking: Tracking
    ablation: Ablation = Field(description="a table of runs: levels × seeds; none: a single run")

    @field_validator("size", mode="before")
    @classmethod
    def _parse_size(cls, size):
        sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else ()
        if len(sides) != 2 or not all(type(side) is int and 32 <= side <= 2048 for side in sides):
            raise ValueError("needs one side in pixels from 32 to 2048, or [height,width]")
        return sides

    @field_validator("runs", mode="before")
    @classmethod
    def _parse_runs(cls, runs):
        references = [] if runs is None else runs if isinstance(runs, (list, tuple)) else [runs]
        references = [str(run) if type(run) is int else run for run in references]  # an id may start with digits
        if not all(isinstance(run, str) and run for run in references):
            raise ValueError("each is an id, a name or a checkpoint file; quote a name that reads as a number")
        return tuple(references)

    @model_validator(mode="after")
    def _check_balancing(self):
        if self.loss.name == "logit_adjusted" and self.dataset.sampler == "class_balanced":
            raise RequestError(
                "loss=logit_adjusted: dataset.sampler=class_balanced already balances the classes\n"
                "use dataset.sampler=uniform or loss=cross_entropy"
            )
        return self

    @model_validator(mode="after")
    def _check_dataset_files(self):
        name, root = self.dataset.name, self.dataset.root
        if self.task.reads_images and root is None and name != "shelf":  # the shelf is drawn if it is missing
            raise RequestError(f"dataset.root: {name} needs its folder\nadd dataset.root=<folder>")
        if self.task.reads_images and root is not None and not root.is_dir():
            raise RequestError(f"dataset.root={root}: there is no such folder")
        relabels = self.dataset.relabel
        if self.task.reads_images and relabels is not None and not relabels.is_file():
            raise RequestError(f"dataset.relabel={relabels}: there is no such file")
        return self

    @model_validator(mode="after")
    def _check_number_of_runs(self):
        allowed = self.task.earlier_runs
        if len(self.runs) not in allowed:
            ways_out = {
                (0,): "leave out runs=",
                (1,): "use runs=<id, name or checkpoint file>",
                (0, 2): "use runs=[a,b]",
                (1, 2): "use runs=<id, name or checkpoint file>, or two to compare: runs=[a,b]",
            }
            if isinstance(allowed, range):
                numbers = f"{allowed.start} or more earlier runs"
            else:
                numbers = (
                    f"{' or '.join(str(number or 'no') for number in allowed)} earlier run{'s' * (allowed[-1] > 1)}"
                )
            given = ",".join(self.runs) or "null"
            if self.task.name == "train" and self.runs:
                ways_out[0,] = "add task.resume=continue or task.verify=true, or leave out runs="
            way_out = ways_out.get(allowed, "use runs=[a,b]; each is an id, a name or a checkpoint file")
            raise RequestError(f"runs={given}: task={self.task.name} takes {numbers}\n{way_out}")
        if self.task.name == "errors" and self.task.folds and len(self.runs) > 1:
            raise RequestError(
                f"task.folds={self.task.folds}: folds repeat the training of one run\nuse runs=<one of them>"
            )
        if self.task.name == "report" and bool(self.runs) == (self.ablation.name != "none"):
            given = f"ablation={self.ablation.name}" + (f" and runs={','.join(self.runs)}" if self.runs else "")
            raise RequestError(
                f"{given}: task=report takes either a table or two runs\nuse ablation=<table> or runs=[a,b]"
            )
        return self


def parse(composed: dict[str, Any]) -> Config:
    """Return the frozen configuration of a composed one (plain containers).

    Raises:
        RequestError: an unknown key, or a value of the wrong type or out of range; it names the first one.
    """
    try:
        return Config.model_validate(composed)
    except ValidationError as error:
        raise RequestError(_first_problem(error)) from None


def _first_problem(error: ValidationError) -> str:
    """Return `optimizer.lr=-1: input should be greater than 0`, with the number of further problems."""
    problems = error.errors(include_url=False)
    first, more = problems[0], f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    group, *rest = first["loc"]
    if rest and isinstance(Config.model_fields[str(group)].annotation, UnionType):
        rest = rest[1:]  # the choice of the group that was tried
    key = ".".join(part for part in (group, *rest) if isinstance(part, str))  # without indices of lists
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    if first["type"] == "union_tag_invalid":
        context = first.get("ctx", {})
        tag, choices = context["tag"], context["expected_tags"].replace("'", "")
        return f"{key}.name={tag}: there is no such choice\nchoose one of {choices}"
    if first["type"] == "missing":
        return f"{key}={_as_typed(first['input'])}: has too few values{more}"
    if isinstance(first["input"], dict) and "name" in first["input"]:  # two keys of a group contradict each other
        return f"{key}.{reason}{more}"
    return f"{key}={_as_typed(first['input'])}: {reason[0].lower()}{reason[1:].replace('tuple', 'list')}{more}"


def _as_typed(value: Any) -> str:
    """Return a value in the command line's syntax: null, true, [0.1,0.9]."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_as_typed, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
