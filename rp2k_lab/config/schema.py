"""Schema of the configuration: every key with its type, unit and range.  All defaults are in `conf/`.

`parse` turns a composed configuration into frozen objects; a run passes on what it needs from them as arguments.  The
options of a choice are beside its code, in the class that `rp2k_lab.plugins` has registered for it.
"""

import math
from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model, field_validator, model_serializer, model_validator

from rp2k_lab import plugins
from rp2k_lab.config import tasks
from rp2k_lab.config.ablation import Ablation, Scale
from rp2k_lab.config.choices import choices
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.options import Count, Group, Natural, PositiveFloat, Seed
from rp2k_lab.core.text import escape_controls

if TYPE_CHECKING:
    from rp2k_lab.aug.options import Aug
    from rp2k_lab.dataset.options import Source
    from rp2k_lab.model.family import Model
    from rp2k_lab.tracking.options import Tracking
    from rp2k_lab.train.loss import Loss
    from rp2k_lab.train.optimizer import Optimizer
    from rp2k_lab.train.optional_callbacks import CallbackOptions
    from rp2k_lab.train.schedule import Schedule


# A message names so many choices, the most similar ones.
_MOST_NAMES = 15


class Device(Group):
    name: Literal["cpu", "gpu", "ascend"]
    precision: Literal["float32", "tf32", "O2", "O2_half_bn", "O3"] = Field(
        description="float32; tf32: float32 with TF32 in a GPU's convolutions; float16 but for batch and layer norms "
        "(O2), for layer norms (O2_half_bn), for nothing (O3); parameters and statistics are always float32"
    )
    loss_scale: PositiveFloat | Literal["dynamic"] = Field(
        description="dynamic: steps whose gradients overflow are skipped and halve the scale (none in float32 and "
        "tf32); a number: fixed, without overflow checks; 1: none"
    )
    deterministic: bool = Field(
        description="true: only kernels that give the same bits every time, slower; no effect on a CPU, whose kernels "
        "all do"
    )
    sink_steps: Natural = Field(
        description="steps per data sink, between which metrics, checkpoints and signals act; 0: none (CPU: always)"
    )
    parallel: Literal["none", "data"] = Field(
        description="none: one process; data: one process per device, started by msrun; batch_size is per process"
    )
    num_threads: Count | None = Field(description="number of threads that read images; null: one per core")

    @field_validator("loss_scale", mode="before")
    @classmethod
    def _check_loss_scale(cls, scale):
        if scale == "dynamic" or (type(scale) in (int, float) and 0 < scale < math.inf):
            return scale
        raise ValueError("needs a number above 0, or dynamic")

    @model_validator(mode="after")
    def _check_precision(self):
        if self.precision == "tf32" and self.name != "gpu":  # a record must not name what did not run
            raise RequestError(
                f"device.precision=tf32: device={self.name} has no TF32\nuse device.precision=float32, or device=gpu"
            )
        return self

    @model_validator(mode="after")
    def _check_sink_steps(self):
        if self.name == "cpu" and self.sink_steps:  # MindSpore would count each sink as an epoch
            raise RequestError(f"device.sink_steps={self.sink_steps}: a CPU has no data sinks\nuse device.sink_steps=0")
        return self


class ChosenCallbacks(Group):
    """The options of each chosen callback, under its name; the other callbacks are None."""

    @model_serializer(mode="wrap")
    def _leave_out_others(self, serialize):
        return {name: options for name, options in serialize(self).items() if options is not None}

    def chosen(self) -> "list[CallbackOptions]":
        """Return the options of the chosen callbacks."""
        return [options for _, options in self if options is not None]


if TYPE_CHECKING:  # which one it is, the module of the task knows; a checker would ask for all of them to have a key
    AnyTask = Any
    Callbacks = ChosenCallbacks
else:
    AnyTask = Annotated[
        tasks.Train
        | tasks.Evaluate
        | tasks.Ensemble
        | tasks.FixRes
        | tasks.Predict
        | tasks.Embed
        | tasks.Extend
        | tasks.Export
        | tasks.Convert
        | tasks.Inspect
        | tasks.Errors
        | tasks.Report
        | tasks.Clean
        | tasks.Sync,
        Field(discriminator="name"),
    ]
    _slots = {slot.title(): plugins.union(f"aug/{slot}") for slot in ("policy", "erase", "mix")}
    for _options in plugins.options_of("aug").values():
        _options.model_rebuild(force=True, _types_namespace=_slots)
    Aug, Source, Model = plugins.union("aug"), plugins.union("dataset"), plugins.union("model")
    Loss, Optimizer, Schedule = plugins.union("loss"), plugins.union("optimizer"), plugins.union("schedule")
    Tracking = plugins.union("tracking")
    Callbacks = create_model(
        "Callbacks",
        __base__=ChosenCallbacks,
        **{
            name: (options | None, Field(None, description="options of the callback; it is chosen by callback=[…]"))
            for name, options in plugins.options_of("callback").items()
        },
    )


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
    scale: Scale = Field(description="size of the runs of an ablation")
    recipe: Literal["none", "giantpanda", "grocery_store", "grozi120"] = Field(
        description="name of a recipe, which sets keys of several groups; the command line overrides them"
    )
    runs: tuple[str, ...] = Field(
        description="earlier runs to start from, each an id, name, folder, checkpoint file, last or best; null: none"
    )
    debug: bool = Field(description="true: print the traceback of an error")
    task: AnyTask
    dataset: Source
    model: Model
    aug: Aug
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    callback: Callbacks = Field(default_factory=lambda: Callbacks())
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

    @field_validator("aug", mode="before")
    @classmethod
    def _check_combination(cls, aug):
        name = aug.get("name") if isinstance(aug, dict) else aug.name  # any file of conf/aug/ is a combination
        if name not in choices("aug"):
            raise RequestError(f"aug.name={name}: there is no such choice\nchoose one of {', '.join(choices('aug'))}")
        return aug

    @model_validator(mode="after")
    def _check_balancing(self):
        if self.loss.balances and self.dataset.sampler == "class_balanced":
            raise RequestError(
                f"loss={self.loss.name}: dataset.sampler=class_balanced already balances the classes\n"
                "use dataset.sampler=uniform or loss=cross_entropy"
            )
        return self

    @property
    def kept_views(self) -> int:
        """Views of each image for which a training keeps the outputs of its frozen stages; 0: none are kept."""
        if self.task.name != "train" or self.model.freeze == "none" or self._keeps_no_outputs():
            return 0
        if self.model.num_stages == 0 and self.model.kept_stages is not None:  # the backbone does not run in parts
            return 0
        return 1 if self.aug.is_none else self.model.freeze_views or 0

    def _keeps_no_outputs(self) -> tuple[str, str] | None:
        """Return why outputs of frozen stages cannot be kept, and a way out; None: they can."""
        if self.aug.mix.name != "none":
            return f"aug/mix={self.aug.mix.name} mixes images", "use aug/mix=none"
        if self.loss.distillation:
            return "loss.distillation shows the images to teachers", "leave out loss.distillation"
        if self.device.parallel != "none":
            return f"device.parallel={self.device.parallel} has several processes", "use device.parallel=none"
        if self.dataset.sampler == "class_balanced" and not self.aug.is_none:
            return (
                "dataset.sampler=class_balanced shows an image several times an epoch, each another view",
                "use dataset.sampler=uniform",
            )
        return None

    @model_validator(mode="after")
    def _check_kept_outputs(self):
        views = self.model.freeze_views
        if views is not None and self.task.name == "train" and (reason := self._keeps_no_outputs()):
            raise RequestError(f"model.freeze_views={views}: {reason[0]}\n{reason[1]}, or leave out model.freeze_views")
        return self

    @model_validator(mode="after")
    def _check_dataset_files(self):
        if self.task.reads_images:
            self.dataset.check_files()
        return self

    @property
    def teachers(self) -> tuple[str, ...]:
        """The runs that teach a training (`loss.distillation`): all of `runs` but one to resume or verify."""
        if self.task.name != "train" or not self.loss.distillation:
            return ()
        return self.runs[1:] if self.task.trains_earlier_run else self.runs

    @model_validator(mode="after")
    def _check_number_of_runs(self):
        allowed = self.task.earlier_runs
        if self.task.name == "train" and self.loss.distillation:
            allowed = range(1, tasks.MAX_RUNS)
            if not self.runs and not self.task.trains_earlier_run:
                raise RequestError(
                    f"loss.distillation={self.loss.distillation:g}: needs trained networks as teachers\n"
                    "add runs=<id, name or checkpoint file>, or leave out loss.distillation"
                )
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
                ways_out[0,] = "add task.resume=continue, task.verify=true or loss.distillation=0.5, or leave out runs="
            way_out = ways_out.get(allowed, "use runs=[a,b]; each is an id, a name or a checkpoint file")
            raise RequestError(f"runs={given}: task={self.task.name} takes {numbers}\n{way_out}")
        if self.task.name == "errors" and self.task.folds and len(self.runs) > 1:
            raise RequestError(
                f"task.folds={self.task.folds}: folds repeat the training of one run\nuse runs=<one of them>"
            )
        if self.task.name == "report":
            self._check_report(self.task)
        return self

    def _check_report(self, task: tasks.Report) -> None:
        is_table, is_search = self.ablation.name != "none", self.ablation.name == "none" and task.study is not None
        if is_table + is_search + bool(self.runs) != 1:
            given = [f"ablation={self.ablation.name}"] * (not is_search)
            given += [f"task.study={task.study}"] * is_search + [f"runs={','.join(self.runs)}"] * bool(self.runs)
            raise RequestError(
                f"{' and '.join(given)}: task=report takes either a table, a search or two runs\n"
                "use ablation=<table>, task.study=<name of a search> or runs=[a,b]"
            )


def parse(composed: dict[str, Any]) -> Config:
    """Return the frozen configuration of a composed one (plain containers).

    Raises:
        RequestError: an unknown key, or a value of the wrong type or out of range; it names the first one.
    """
    try:
        return Config.model_validate(composed)
    except ValidationError as error:
        raise RequestError(_first_problem(error, composed)) from None


def _first_problem(error: ValidationError, composed: dict[str, Any]) -> str:
    """Return `optimizer.lr=-1: input should be greater than 0`, with the number of further problems."""
    problems = error.errors(include_url=False)
    first, more = problems[0], f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    key = ".".join(_keys(first["loc"], composed))
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    if first["type"] == "union_tag_invalid":
        context = first.get("ctx", {})
        tag, names = context["tag"], context["expected_tags"].replace("'", "").split(", ")
        names = get_close_matches(tag, names, _MOST_NAMES, 0.0) if len(names) > _MOST_NAMES else names
        return f"{key}.name={tag}: there is no such choice\nchoose one of {', '.join(names)}"
    if first["type"] == "missing":
        return f"{key}={_as_typed(first['input'])}: has too few values{more}"
    if isinstance(first["input"], dict) and "name" in first["input"]:  # two keys of a group contradict each other
        return f"{key}.{reason}{more}"
    return f"{key}={_as_typed(first['input'])}: {reason[0].lower()}{reason[1:].replace('tuple', 'list')}{more}"


def _keys(location: tuple[int | str, ...], composed: Any) -> Iterator[str]:
    """Yield the keys of a problem's location, without indices of lists and without the names of tried choices."""
    for part in location:
        if isinstance(part, int) or not isinstance(composed, dict):
            continue
        if part not in composed and part in ("*", composed.get("name")):
            continue
        yield part
        composed = composed.get(part)


def _as_typed(value: Any) -> str:
    """Return a value in the command line's syntax: null, true, [0.1,0.9]."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_as_typed, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), escape_controls(str(value)))
