"""The configuration's schema: every key with its type, unit and range.  Defaults stand in `conf/` and nowhere else.

`parse` turns what Hydra composed into frozen objects; whatever a run needs is passed from them by argument.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal

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

from rp2k_lab.config.ablation import Ablation, Scale
from rp2k_lab.config.thresholds import Rules
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.shelf.options import ShelfOptions

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=32, le=2048)]
Multiplier = Annotated[float, Field(gt=0, le=4)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Split = Literal["train", "val", "test"]
# One alone needs no brackets; none is no split.
Splits = Annotated[
    tuple[Split, ...],
    Field(strict=False),
    BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) and value else (value,)),
]
Tta = Literal["none", "hflip"]
Average = Literal["probabilities", "logits"]
MOST_RUNS = 1000
# Relative to the shell's folder.
AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(lambda path: Path(os.path.abspath(path)))]


class Group(BaseModel):
    """Locked after composition: an unknown key fails, nothing changes it."""

    # Strict: "40" is no integer and true is no number.  Fields that YAML can only write as a list or a text say so.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Task(Group):
    """Each task says whether it reads a data set, and how many earlier runs (`runs=`) it takes: any of these."""

    reads_photos: ClassVar[bool]
    earlier_runs: ClassVar[Sequence[int]]


class ChanceGuard(Group):
    """What happens to a training whose loss stays at chance."""

    epochs: Count | None = Field(description="consecutive epochs with a loss at chance before `action`; null: never")
    action: Literal["stop", "warn"] = Field(description="stop the run, or log a warning")


class TrainingTask(Task):
    """What the tasks that train have in common."""

    chance_guard: ChanceGuard
    checkpoint_epochs: Count = Field(description="a checkpoint every so many epochs, and after the last")
    checkpoint_minutes: PositiveFloat | None = Field(description="and so many minutes after the one before; null: none")
    checkpoints_kept: Count = Field(description="the newest that stay, each with the best weights until then")


class Train(TrainingTask):
    name: Literal["train"]
    test: bool = Field(description="read test, once, at the end; a search's trials do not")
    resume: Literal["never", "auto", "continue"] = Field(
        description="auto: go on with the unfinished run of this configuration; continue: with the run that runs= names"
    )
    verify: bool = Field(description="train what runs= names anew from its record, and compare the metrics")
    reads_photos = True

    @property
    def earlier_runs(self) -> Sequence[int]:
        return (1,) if self.verify or self.resume == "continue" else (0,)

    @model_validator(mode="after")
    def _goes_on_or_begins_anew(self):
        if self.verify and self.resume != "never":
            raise RequestError(
                f"task.verify=true: trains from the first step, and task.resume is {self.resume}\n"
                "leave one of the two out"
            )
        return self


class Evaluate(Task):
    name: Literal["evaluate"]
    split: Splits = Field(description="whose photos: train, val or test, or several of them")
    tta: Tta = Field(description="views of each photo whose probabilities are averaged; none: the photo alone")
    reads_photos = True
    earlier_runs = (1,)


class Ensemble(Task):
    name: Literal["ensemble"]
    tta: Tta = Field(description="views of each photo that every member sees; none: the photo alone")
    average: Average = Field(description="what is averaged over members and views")
    reads_photos = True
    earlier_runs = range(2, MOST_RUNS)


class FixRes(TrainingTask):
    name: Literal["fixres"]
    tune: Literal["classifier", "classifier_bn"] = Field(description="what is trained; bn: the last batch norm too")
    reads_photos = True
    earlier_runs = (1,)


class Predict(Task):
    name: Literal["predict"]
    input: AbsolutePath | None = Field(description="a photo, a folder of photos, or a list of them (.txt, .csv)")
    output: AbsolutePath | None = Field(description="a .csv or .parquet; null: in the run's own folder under outputs/")
    top_k: Count = Field(description="classes of each photo, the most probable first")
    tta: Tta = Field(description="views of each photo; none: the photo alone")
    average: Average = Field(description="what is averaged over runs and views")
    reads_photos = False
    earlier_runs = range(1, MOST_RUNS)

    @model_validator(mode="after")
    def _named(self):
        if self.input is None:
            raise RequestError("task.input: task=predict needs photos\nexample: task.input=photos/")
        if not self.input.exists():
            raise RequestError(f"task.input={self.input}: there is no such file or folder")
        if self.output and self.output.suffix not in (".csv", ".parquet"):
            raise RequestError(f"task.output={self.output}: neither .csv nor .parquet\nexample: task.output=found.csv")
        if self.output == self.input:
            raise RequestError(f"task.output={self.output}: is the input\nname another file")
        return self


class Export(Task):
    name: Literal["export"]
    output: AbsolutePath | None = Field(description="null: the run's own under outputs/")
    batch_size: Count = Field(description="photos at a time, a constant of the exported graph")
    reads_photos = False
    earlier_runs = (1,)


class Convert(Task):
    name: Literal["convert"]
    input: AbsolutePath | None = Field(description="weights of PyTorch")
    output: AbsolutePath | None = Field(description="a .ckpt; null: in the run's own folder under outputs/")
    with_classifier: bool = Field(description="false: leave it out, for another number of classes")
    reads_photos = False
    earlier_runs = (0,)

    @model_validator(mode="after")
    def _named(self):
        if self.input is None:
            raise RequestError("task.input: task=convert needs a file\nexample: task.input=resnet50.pth")
        if self.output and self.output.suffix != ".ckpt":
            raise RequestError(f"task.output={self.output}: a checkpoint's name ends in .ckpt")
        return self


class Inspect(Task):
    name: Literal["inspect"]
    what: Literal["data", "models", "cache"] = Field(description="the data set's page, the zoo, or fill the cache")
    models: tuple[str, ...] | None = Field(strict=False, description="which of the zoo; null: all")
    size: Side = Field(description="the zoo's input side in pixels")
    batch_size: Count = Field(description="the zoo's images at a time")
    seconds: NonNegativeFloat = Field(description="how long to time each network; 0: not at all")
    earlier_runs = (0,)

    @property
    def reads_photos(self) -> bool:
        return self.what != "models"


class Errors(Task, Rules):
    name: Literal["errors"]
    split: Split | None = Field(description="whose photos: train, val or test; null: val, with folds train")
    folds: Annotated[int, Field(ge=2, le=100)] | None = Field(
        description="networks that predict the training photos, each trained without its part of them; null: none"
    )
    reads_photos = True
    earlier_runs = (1, 2)

    @property
    def analyzed(self) -> Split:
        """Whose photos."""
        return self.split or ("train" if self.folds else "val")

    @model_validator(mode="after")
    def _folds_hold_out_train(self):
        if self.folds and self.analyzed != "train":
            raise RequestError(
                f"task.folds={self.folds}: folds predict photos of train, and task.split is {self.split}\n"
                "leave one of the two out"
            )
        return self


class Report(Task):
    name: Literal["report"]
    output: AbsolutePath | None = Field(description="folder; null: a table's under experiments/, of two runs outputs/")
    study: str | None = Field(description="whose trials are the table's cells; null: <ablation>_<scale>")
    storage: str | None = Field(description="the database of studies; null: sqlite in the clone")
    reads_photos = False
    earlier_runs = (0, 2)


class Sync(Task):
    name: Literal["sync"]
    reads_photos = False
    earlier_runs = range(MOST_RUNS)


class Source(Group):
    """What every data set has: where it is, its colors, and how val is taken out of train."""

    root: AbsolutePath | None = Field(description="the photos")
    mean: tuple[Share, Share, Share] = Field(strict=False, description="RGB, over train after the resize, 0 to 1")
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(strict=False, description="RGB, 0 to 1")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of train held out, where no val is given"
    )
    val_seed: Natural = Field(description="which part is held out; apart from `seed`, so that runs share one val")
    catch_all_class: str | None = Field(description="the catch-all class, or null")
    drop_catch_all: bool = Field(description="leave the catch-all class out of every split")
    min_images_per_class: Count = Field(description="classes with fewer images in train are left out of every split")
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(description="share of each class's train; nested; val stays")
    fraction_seed: Natural = Field(description="which part `fraction` takes; apart from `seed`")
    fold: str | None = Field(description="i/k: train without the i-th of k stratified parts; null: all of it")
    relabel: AbsolutePath | None = Field(description="a reviewed list of label errors (.csv) to follow in train")
    sampler: Literal["uniform", "class_balanced"] = Field(description="how training photos are drawn")
    on_bad_image: Literal["error", "skip"] = Field(description="what a photo that cannot be read does to the run")
    cache_gb: NonNegativeFloat = Field(description="room for resized photos under data/cache, 10⁹ bytes; 0: no cache")

    @field_validator("fold")
    @classmethod
    def _is_a_part(cls, fold):
        if fold is not None:
            match = re.fullmatch(r"(\d+)/(\d+)", fold)
            if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
                raise ValueError("needs i/k, as 1/3: the i-th of k parts, of at least 2")
        return fold

    @model_validator(mode="after")
    def _has_a_class_to_drop(self):
        if self.drop_catch_all and self.catch_all_class is None:
            raise RequestError(
                f"dataset.drop_catch_all=true: {self.name} has no catch-all class\n"
                "name one: dataset.catch_all_class=<class>"
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
    """What every network has.  The wider names are choices of their own, so that runs can be told apart by name."""

    width_multiplier: Multiplier = Field(description="of the backbone's channels, final_width included")
    depth_multiplier: Multiplier = Field(description="of the blocks of each stage")
    head_width: Count | None = Field(description="features widened by a 1×1 convolution before the classifier")
    drop_rate: Rate = Field(description="dropout before the classifier")
    freeze: Literal["none", "backbone"] = Field(description="what is not trained")
    pretrained: Annotated[str, Field(min_length=1), AfterValidator(_weights)] | None = Field(
        description="imagenet, or a file of weights"
    )


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
    cardinality: Count = Field(description="groups of the 3×3 convolutions")
    base_width: Count = Field(description="width of a group at 64 planes")
    final_width: Count = Field(description="features before the classifier")
    drop_path_rate: Rate = Field(description="stochastic depth of the last block")


class EfficientNet(Model):
    name: Literal["efficientnet_b0", "efficientnet_lite0"]
    drop_path_rate: Rate = Field(description="stochastic depth of the last block")


class Swin(Model):
    name: Literal["swin_tiny"]
    drop_path_rate: Rate = Field(description="stochastic depth of the last block")


class InceptionResNetV2(Model):
    name: Literal["inception_resnet_v2", "inception_resnet_v2_wider"]
    final_width: Count = Field(description="features before the classifier")


class NoAug(Group):
    name: Literal["none"]
    crop: tuple[PositiveFloat, PositiveFloat] | None = Field(
        strict=False, description="RandomResizedCrop's area range, or null"
    )
    flip: Share = Field(description="probability of a horizontal flip")
    color: Annotated[float, Field(ge=0, lt=1)] = Field(description="brightness, contrast, saturation jitter")

    @field_validator("crop", "area", check_fields=False)
    @classmethod
    def _ordered(cls, shares):
        if shares is not None and not shares[0] <= shares[1] <= 1:
            raise ValueError("needs smallest <= largest <= 1")
        return shares


class Cutout(NoAug):
    name: Literal["cutout"]
    length: Annotated[int, Field(ge=1, le=224)] = Field(description="side in pixels at 224; in proportion")


class RandomErasing(NoAug):
    name: Literal["random_erasing"]
    p: Share = Field(description="probability that an image is erased")
    area: tuple[PositiveFloat, PositiveFloat] = Field(strict=False, description="the rectangle's share of the image")
    ratio: Annotated[float, Field(gt=0, le=1)] = Field(description="smallest height / width; the largest is 1 / this")
    fill: Literal["random", "mean", "black", "white"] = Field(description="random: each value from 0 to 255")


class AutoAugment(NoAug):
    name: Literal["autoaugment"]


class RandAugment(NoAug):
    name: Literal["randaugment"]
    operations: Literal["paper", "timm"] = Field(description="the set to draw from")
    num_ops: Annotated[int, Field(ge=1, le=16)] = Field(description="transformations drawn for an image")
    p: Share = Field(description="probability that a drawn transformation is applied")
    magnitude: Annotated[float, Field(ge=0, le=30)] = Field(description="strength; 10: the end of AutoAugment's ranges")
    magnitude_std: NonNegativeFloat = Field(description="standard deviation of the magnitude")
    magnitude_max: Annotated[float, Field(gt=0, le=30)] = Field(description="where a drawn magnitude is cut off")
    increasing: bool = Field(description="whether more magnitude is more change in every transformation")

    @model_validator(mode="after")
    def _within_its_limit(self):
        if self.magnitude > self.magnitude_max:
            raise ValueError(f"magnitude={self.magnitude:g}: is above aug.magnitude_max={self.magnitude_max:g}")
        return self


class Mixup(NoAug):
    name: Literal["mixup"]
    alpha: PositiveFloat = Field(description="the share is drawn from Beta(alpha, alpha)")


class CutMix(Mixup):
    name: Literal["cutmix"]
    p: Share = Field(description="probability that an image gets a part of another")


class CrossEntropy(Group):
    name: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class LogitAdjusted(CrossEntropy):
    name: Literal["logit_adjusted"]
    tau: NonNegativeFloat = Field(description="weight of the log shares; 1: for balanced accuracy, 0: cross_entropy")


class Sgd(Group):
    name: Literal["sgd"]
    lr: PositiveFloat = Field(description="peak learning rate")
    lr_end: NonNegativeFloat = Field(description="learning rate of the last step of the cosine")
    warmup_epochs: NonNegativeFloat = Field(description="epochs of linear warm-up")
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat = Field(description="on weights of convolutions and dense layers alone")
    lr_batch_size: Count | None = Field(description="photos an update that lr is meant for; null: lr as it stands")
    accumulate_steps: Count = Field(description="batches whose mean gradient makes one update")
    clip_norm: PositiveFloat | None = Field(description="largest norm of an update's gradient; null: no clipping")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(description="of averaged weights; null: none")


class Device(Group):
    name: Literal["cpu", "gpu", "ascend"]
    precision: Literal["float32", "O2", "O3"] = Field(description="MindSpore's mixed-precision level; float32 is O0")
    loss_scale: PositiveFloat = Field(description="fixed loss scale; 1 is none")
    sink_steps: Natural = Field(description="steps a data sink; metrics and signals once a sink; 0: no sinking")
    parallel: Literal["none", "data"] = Field(description="data: a process a device, started by msrun")
    num_threads: Count | None = Field(description="threads that read photos; null: one a core")

    @model_validator(mode="after")
    def _sinks_where_it_can(self):
        if self.name == "cpu" and self.sink_steps:  # MindSpore would take each sink for a whole epoch
            raise RequestError(
                f"device.sink_steps={self.sink_steps}: a CPU takes no data sinks\nuse device.sink_steps=0"
            )
        return self


class Tracking(Group):
    name: Literal["mlflow", "offline"] = Field(description="offline: nothing is sent before task=sync")
    uri: str | None = Field(description="the tracking server; null: sqlite and a folder in the clone")
    experiment: Annotated[str, Field(min_length=1)]
    run_name: Annotated[str, Field(min_length=1)] | None = Field(description="null: model, data set, aug and seed")
    flush_seconds: PositiveFloat = Field(description="the journal is sent this often")


class Config(Group):
    """A whole run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    epochs: Count
    batch_size: Count
    size: tuple[int, int] = Field(description="the network's input in pixels: one side, or [height,width]")
    resize: Literal["letterbox", "stretch"]
    crop_ratio: Annotated[float, Field(gt=0, le=1)] = Field(description="side kept by evaluation's center crop")
    scale: Scale = Field(description="of an ablation's runs")
    recipe: Literal["none", "giantpanda"] = Field(description="what overlaid several groups; here its name alone")
    runs: tuple[str, ...] = Field(description="earlier runs to start from: id, name or checkpoint file; null: none")
    debug: bool
    task: Annotated[
        Train | Evaluate | Ensemble | FixRes | Predict | Export | Convert | Inspect | Errors | Report | Sync,
        Field(discriminator="name"),
    ]
    dataset: Annotated[Shelf | Rp2k | GroceryStore, Field(discriminator="name")]
    model: Annotated[ResNet | EfficientNet | Swin | InceptionResNetV2, Field(discriminator="name")]
    aug: Annotated[
        NoAug | Cutout | RandomErasing | AutoAugment | RandAugment | Mixup | CutMix, Field(discriminator="name")
    ]
    loss: Annotated[CrossEntropy | LogitAdjusted, Field(discriminator="name")]
    optimizer: Sgd
    device: Device
    tracking: Tracking
    ablation: Ablation = Field(description="a table of runs, or none")

    @field_validator("size", mode="before")
    @classmethod
    def _two_sides(cls, size):
        sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else ()
        if len(sides) != 2 or not all(type(side) is int and 32 <= side <= 2048 for side in sides):
            raise ValueError("needs one side in pixels from 32 to 2048, or [height,width]")
        return sides

    @field_validator("runs", mode="before")
    @classmethod
    def _listed(cls, runs):
        listed = [] if runs is None else runs if isinstance(runs, (list, tuple)) else [runs]
        listed = [str(run) if type(run) is int else run for run in listed]  # an id's first characters may be digits
        if not all(isinstance(run, str) and run for run in listed):
            raise ValueError("each is an id, a name or a checkpoint file; what reads as a number stands in quotes")
        return tuple(listed)

    @model_validator(mode="after")
    def _balances_once(self):
        if self.loss.name == "logit_adjusted" and self.dataset.sampler == "class_balanced":
            raise RequestError(
                "loss=logit_adjusted: dataset.sampler=class_balanced balances the classes already\n"
                "use dataset.sampler=uniform or loss=cross_entropy"
            )
        return self

    @model_validator(mode="after")
    def _has_what_the_task_reads(self):
        name, root = self.dataset.name, self.dataset.root
        if self.task.reads_photos and root is None and name != "shelf":  # the one that can be made here
            raise RequestError(f"dataset.root: {name} needs its folder\nexample: dataset.root=/data/{name}")
        if self.task.reads_photos and root is not None and not root.is_dir():
            raise RequestError(f"dataset.root={root}: there is no such folder")
        relabels = self.dataset.relabel
        if self.task.reads_photos and relabels is not None and not relabels.is_file():
            raise RequestError(f"dataset.relabel={relabels}: there is no such file")
        return self

    @model_validator(mode="after")
    def _has_the_runs_that_the_task_takes(self):
        wanted = self.task.earlier_runs
        if len(self.runs) not in wanted:
            ways_out = {
                (0,): "leave runs= out",
                (1,): "name it: runs=<id, name or checkpoint file>",
                (0, 2): "name both: runs=[a,b]",
                (1, 2): "name it: runs=<id, name or checkpoint file>, or two to compare: runs=[a,b]",
            }
            if isinstance(wanted, range):
                numbers = f"{wanted.start} or more earlier runs"
            else:
                numbers = f"{' or '.join(str(number or 'no') for number in wanted)} earlier run{'s' * (wanted[-1] > 1)}"
            given = ",".join(self.runs) or "null"
            if self.task.name == "train" and self.runs:
                ways_out[0,] = "add task.resume=continue or task.verify=true, or leave runs= out"
            way_out = ways_out.get(wanted, "name them: runs=[a,b]; each is an id, a name or a checkpoint file")
            raise RequestError(f"runs={given}: task={self.task.name} takes {numbers}\n{way_out}")
        if self.task.name == "errors" and self.task.folds and len(self.runs) > 1:
            raise RequestError(
                f"task.folds={self.task.folds}: folds are trained as one run was, and runs= names two\nname one of them"
            )
        if self.task.name == "report" and bool(self.runs) == (self.ablation.name != "none"):
            given = f"ablation={self.ablation.name}" + (f" and runs={','.join(self.runs)}" if self.runs else "")
            raise RequestError(
                f"{given}: task=report is about a table or about two runs\nname one: ablation=resize or runs=[a,b]"
            )
        return self


def parse(composed: dict[str, Any]) -> Config:
    """The frozen configuration of what Hydra composed (plain containers).

    Raises:
        RequestError: a key that does not exist, a value of another type or out of range; names the first one.
    """
    try:
        return Config.model_validate(composed)
    except ValidationError as error:
        raise RequestError(_first_problem(error)) from None


def _first_problem(error: ValidationError) -> str:
    """`optimizer.lr=-1: input should be greater than 0`; more problems are counted."""
    problems = error.errors(include_url=False)
    first, more = problems[0], f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    group, *rest = first["loc"]
    if rest and isinstance(Config.model_fields[group].annotation, UnionType):
        rest = rest[1:]  # which choice of the group was tried
    key = ".".join(part for part in (group, *rest) if isinstance(part, str))  # of a list, the list's
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    if first["type"] == "union_tag_invalid":
        tag, choices = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "")
        return f"{key}.name={tag}: there is no such choice\nchoose one of {choices}"
    if first["type"] == "missing":
        return f"{key}={_as_typed(first['input'])}: has too few values{more}"
    if isinstance(first["input"], dict) and "name" in first["input"]:  # two keys of a group contradict each other
        return f"{key}.{reason}{more}"
    return f"{key}={_as_typed(first['input'])}: {reason[0].lower()}{reason[1:].replace('tuple', 'list')}{more}"


def _as_typed(value: Any) -> str:
    """A value as a command line has it: null, true, [0.1,0.9]."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_as_typed, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
