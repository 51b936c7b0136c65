"""Options of the tasks: `task.name` chooses one; conf/task/ has the defaults."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from rp2k_lab.config.thresholds import Rules
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.options import AbsolutePath, Count, Group, Natural, NonNegativeFloat, PositiveFloat, Side

Split = Literal["train", "val", "test"]
# A single split needs no brackets; an empty list is refused.
Splits = Annotated[
    tuple[Split, ...],
    Field(strict=False),
    BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) and value else (value,)),
]
Tta = Literal["none", "hflip"]
Average = Literal["probabilities", "logits"]
Reject = Annotated[
    float,
    Field(ge=0, lt=1, description="fraction of photos of the network's own products that may be called unknown"),
]
MAX_RUNS = 1000
# It is a method of ABCMeta, which classes without abstract methods do not need.
warnings.filterwarnings("ignore", 'Field name "register" in "Export" shadows', UserWarning)


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

    test: bool = Field(description="evaluate on test once, at the end of the run; trials of a search never do")
    chance_guard: ChanceGuard
    checkpoint_epochs: Count = Field(description="epochs between two checkpoints; the last epoch always has one")
    checkpoint_minutes: PositiveFloat | None = Field(
        description="minutes since the last checkpoint that cause another within an epoch; null: never"
    )
    checkpoints_kept: Count = Field(
        description="number of checkpoints kept, the newest; each holds the best weights so far too"
    )
    keep_state: bool = Field(
        description="true: a finished run keeps its checkpoints with the optimizer; false: its best weights alone"
    )

    @property
    def closing_splits(self) -> tuple[Split, ...]:
        """Return the splits that the best epoch's weights are evaluated on."""
        return ("val", "test") if self.test else ("val",)


class Train(TrainingTask):
    name: Literal["train"]
    resume: Literal["never", "auto", "continue"] = Field(
        description="never: start a new run; auto: resume the unfinished run of this configuration, if there is one; "
        "continue: resume the run given by runs="
    )
    verify: bool = Field(description="train the run given by runs= again from its record and compare all metrics")
    then: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = Field(
        description="a task that starts from the finished run, a list of overrides such as "
        "['task=fixres','size=224']; null: none"
    )
    reads_images = True

    @property
    def trains_earlier_run(self) -> bool:
        """Whether the first of `runs` is to be resumed or verified."""
        return self.verify or self.resume == "continue"

    @property
    def earlier_runs(self) -> Sequence[int]:
        return (1,) if self.trains_earlier_run else (0,)

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
    reject: Reject
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
    reject: Reject
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


class Embed(Task):
    name: Literal["embed"]
    input: AbsolutePath | None = Field(
        description="an image, a folder of images with its subfolders, or a list of images (.txt, .csv); or use split"
    )
    split: Split | None = Field(description="a split of the dataset, in place of input")
    output: AbsolutePath | None = Field(
        description="file for the embeddings, .parquet or .npy; null: embeddings.parquet in the run folder"
    )
    neighbors: Natural = Field(description="nearest images listed for each image in neighbors.csv; 0: no list")
    against: AbsolutePath | None = Field(
        description="file of task=embed with the images that may be neighbors; null: train of the run's dataset"
    )
    index: Literal["flat", "sq8", "ivf"] = Field(
        description="search among more than 500,000 images, by the extra faiss: flat: exact; sq8: a quarter of the "
        "memory; ivf: a small part of the images, several times as fast and not exact"
    )
    earlier_runs = (1,)

    @property
    def reads_images(self) -> bool:
        return self.split is not None or self.is_against_train

    @property
    def is_against_train(self) -> bool:
        """Whether the neighbors are training images of the run."""
        return self.neighbors > 0 and self.against is None

    @model_validator(mode="after")
    def _check_files(self):
        if (self.input is None) == (self.split is None):
            given = "needs photos" if self.input is None else f"takes no task.split={self.split} beside it"
            raise RequestError(
                f"task.input: task=embed {given}\nuse task.input=<photo, folder or list> or task.split=train"
            )
        if self.input and not self.input.exists():
            raise RequestError(f"task.input={self.input}: there is no such file or folder")
        if self.output and self.output.suffix not in (".parquet", ".npy"):
            raise RequestError(f"task.output={self.output}: neither .parquet nor .npy\nuse task.output=<name>.parquet")
        self._check_against()
        return self

    def _check_against(self) -> None:
        if self.against is None:
            return
        if not self.neighbors:
            raise RequestError(f"task.against={self.against}: task.neighbors is 0\nadd task.neighbors=5")
        if self.against.suffix not in (".parquet", ".npy"):
            raise RequestError(f"task.against={self.against}: neither .parquet nor .npy\nuse a file of task=embed")
        if not self.against.is_file():
            raise RequestError(f"task.against={self.against}: there is no such file\nuse a file of task=embed")
        if self.against == self.output:
            raise RequestError(f"task.output={self.output}: is the file of task.against\nuse another file")


class Extend(Task):
    name: Literal["extend"]
    input: AbsolutePath | None = Field(
        description="photos of new products: a folder with a folder for each, or a table with path and label"
    )
    add_images: AbsolutePath | None = Field(description="more photos of listed products, as in `input`")
    remove: AbsolutePath | None = Field(description="text file with the names of products to remove, one a line")
    rename: AbsolutePath | None = Field(description="table with the columns old and new: names of products")
    old: Literal["head", "centers"] | None = Field(
        description="head: the trained head divides the probability of the products that it knows; centers: all "
        "products by their centers alone; null: as before, of a trained network what is better on val"
    )
    reject: Reject
    reads_images = True
    earlier_runs = (1,)

    @property
    def change(self) -> tuple[str, Path]:
        """The one change that is asked for: (key, file or folder)."""
        return self._changes()[0]

    def _changes(self) -> list[tuple[str, Path]]:
        keys = ("input", "add_images", "remove", "rename")
        return [(f"task.{key}", path) for key in keys if (path := getattr(self, key)) is not None]

    @model_validator(mode="after")
    def _check_change(self):
        changes = self._changes()
        if len(changes) != 1:
            given = " and ".join(f"{key}={path}" for key, path in changes) or "task=extend"
            raise RequestError(
                f"{given}: needs exactly one of task.input, task.add_images, task.remove and task.rename\n"
                f"{'use one at a time: extensions chain' if changes else 'add task.input=<folder of new products>'}"
            )
        key, path = changes[0]
        if not path.exists():
            raise RequestError(f"{key}={path}: there is no such file or folder")
        suffix = {"task.remove": ".txt", "task.rename": ".csv"}.get(key)
        if suffix and path.suffix.lower() != suffix:
            raise RequestError(f"{key}={path}: is no {suffix} file\nuse {key}=<name>{suffix}")
        return self


class Export(Task):
    name: Literal["export"]
    output: AbsolutePath | None = Field(description="folder for the exported files; null: the run folder")
    batch_size: Count = Field(
        description="images per call of model.mindir, a constant of its graph; model.onnx takes any number"
    )
    int8: bool = Field(description="also write model_int8.onnx, with its measured loss; see `calibration`")
    calibration: AbsolutePath | None = Field(
        description="int8: folder of photos, half to calibrate with, half to measure; null: val of the run's data set"
    )
    register: str | None = Field(description="name in MLflow's model registry to register the model under; null: none")
    earlier_runs = (1,)

    @property
    def reads_images(self) -> bool:
        return self.int8 and self.calibration is None

    @model_validator(mode="after")
    def _check_options(self):
        name = self.register
        if name is not None and (not name.strip() or set(name) & set("/:'\"")):
            raise RequestError(f"task.register={name}: is no name of a model\nuse letters, digits, - and _")
        if self.calibration is not None and not self.int8:
            raise RequestError(f"task.calibration={self.calibration}: only for task.int8=true\nadd task.int8=true")
        if self.calibration is not None and not self.calibration.is_dir():
            raise RequestError(f"task.calibration={self.calibration}: there is no such folder\nname a folder of photos")
        return self


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
        description="folder; null: experiments/<ablation>/<scale> for a table, the run folder for a search or two runs"
    )
    study: str | None = Field(
        description="Optuna study of a search, or whose trials are the cells of the table; null: <ablation>_<scale>"
    )
    storage: str | None = Field(
        description="database of studies, an address; null: sqlite in the clone (mlruns/optuna.db)"
    )
    reads_images = False
    earlier_runs = (0, 2)


class Clean(Task):
    name: Literal["clean"]
    ask: bool = Field(description="ask before removing; false: remove at once")
    unused_days: NonNegativeFloat = Field(
        description="days without a read after which kept photos and features go; they are computed again when needed"
    )
    reads_images = False
    earlier_runs = (0,)


class Sync(Task):
    name: Literal["sync"]
    reads_images = False
    earlier_runs = range(MAX_RUNS)
