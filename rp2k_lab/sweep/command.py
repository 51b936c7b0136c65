"""Run a study from the command line of a sweep."""

import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rp2k_lab import COMMAND
from rp2k_lab.config.choices import plain
from rp2k_lab.config.migrations import migrate_params
from rp2k_lab.config.overrides import check_overrides
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import RequestError, StudyIncomplete
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.device.msrun import check_launch
from rp2k_lab.evaluation.metric_registry import metrics
from rp2k_lab.sweep.progress import Display, failure_table
from rp2k_lab.sweep.space import AblationGrid, Params, Search, parse_search, parse_seeds
from rp2k_lab.sweep.storage import exclusive, open_storage
from rp2k_lab.sweep.study import check_same_study, open_study
from rp2k_lab.sweep.worker import StudyWorker, missing
from rp2k_lab.tracking.tracker import StudyTracker


class Options(BaseModel):
    """Options of `hydra.sweeper`; conf/hydra/sweeper/optuna.yaml explains each key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: Annotated[str, Field(pattern=r"^[\w.+-]{1,200}$")] | None
    storage: str | None
    n_trials: Annotated[int, Field(ge=1)]
    pruner: Literal["median", "halving", "none"]
    retries: Annotated[int, Field(ge=0)]
    reuse: bool
    devices: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] | None
    heartbeat_seconds: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]


def run_study(arguments: list[str], options: dict[str, Any], config: DictConfig) -> None:
    """Start or resume the study of a command line.

    Args:
        arguments: overrides of the command line, including `key=a,b`.
        options: the composed `hydra.sweeper`, without `_target_`.
        config: composed configuration of the sweep, with `hydra`.

    Raises:
        RequestError: the request is wrong, or differs from the existing study.
        StudyIncomplete: points failed more often than `retries`.
        Interrupted: a signal arrived; the running trials were stopped.
    """
    settings = _parse_options(options)
    # The parser of Hydra's own sweepers and of its example of a sweeper plugin; there is no function for it.
    plan = _plan(OverridesParser.create().parse_overrides(arguments), config)
    first = _check(plan, config.hydra.job.config_name)
    n_trials = len(plan.points) if isinstance(plan, AblationGrid) else int(min(settings.n_trials, plan.size))
    name = settings.study or plan.name
    default_experiment = not any(argument.startswith("tracking.experiment=") for argument in arguments)
    tracking = first.tracking.model_copy(update={"experiment": name}) if default_experiment else first.tracking
    with open_storage(settings.storage, settings.heartbeat_seconds) as storage:
        with StopSignal() as signals:
            with exclusive(storage, name):
                check_same_study(storage, plan, name)
                facts = {"command": shlex.join(sys.argv), "storage": storage.url}
                facts = {key: redact(value) for key, value in facts.items()}
                tracker = StudyTracker(tracking, name, facts, plan.factor, _charts(plan))
                study = open_study(storage, plan, name, settings.pruner, settings.seed)
            if not missing(study, plan, n_trials):
                print(f"study {name}: nothing to run, all {n_trials} are finished")
            extra = [f"tracking.experiment={name}"] if default_experiment else []
            try:
                with Display(study, plan, n_trials) as display:
                    link = partial(_link, tracker, name, plan, settings.reuse)
                    folder, stop = Path(config.hydra.sweep.dir).absolute(), lambda: signals.signum
                    worker = StudyWorker(
                        study, storage, plan, n_trials, extra, folder, settings.retries, link, stop, display
                    )
                    _work(worker, settings.devices)
            except BaseException:
                tracker.close("FAILED")
                raise
            left = missing(study, plan, n_trials)
            tracker.close("KILLED" if signals.signum else "FAILED" if left else "FINISHED")
            signals.check()
        _print_next(plan, study, tracker)
    if left:
        raise StudyIncomplete(
            f"study {name}: {left} of {n_trials} are not finished\n"
            f"run the same command again with hydra.sweeper.retries above {settings.retries}"
        )


def _charts(plan: AblationGrid | Search) -> list[str]:
    """Return the metrics that the study's page shows: the plan's, and those of installed packages."""
    split = plan.metrics[0].partition("/")[0]
    added = [m.name for m in metrics().values() if m.in_tables and not m.compute.__module__.startswith("rp2k_lab.")]
    return [*plan.metrics, *(f"{split}/{name}" for name in added)]


def _link(
    tracker: StudyTracker, study: str, plan: AblationGrid | Search, reuse: bool, trial: optuna.Trial, point: Params
) -> dict[str, Any]:
    """Return name and tags for the run of a trial, and what may replace it."""
    tags = {"study": study, "trial": trial.number, **{key: str(value) for key, value in trial.params.items()}}
    parent = {"mlflow.parentRunId": tracker.run_id} if tracker.run_id else {}
    return {"name": plan.label(point), "tags": tags | parent, "reuse": plan.reuse(point) if reuse else ""}


def _work(worker: StudyWorker, devices: tuple[int, ...] | None) -> None:
    """Run one trial at a time, on each of the devices if there are any."""
    if devices is None:
        worker.work()
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(worker.work, devices))


def _plan(overrides: list[Override], config: DictConfig) -> AblationGrid | Search:
    """Return the table of `ablation=…`, or the search over the keys with several values."""
    for override in overrides:
        if override.get_key_element() == "task" and override.value() != "train":
            raise RequestError(f"{override.input_line}: the trials of a study train\nleave out task=")
        if override.get_key_element() in ("task.resume", "task.verify"):
            raise RequestError(f"{override.input_line}: a study resumes its interrupted trials by itself\nleave it out")
    if config.ablation.name == "none":
        return parse_search(overrides)
    parsed = parse(_settings(config))
    ablation, seeds = parsed.ablation, None
    if not ablation.levels:
        raise RequestError(f"ablation=all: a study runs one table\nname it: {COMMAND} -m ablation=resize")
    extra = []
    for override in overrides:
        key = override.get_key_element()
        if key == "seed":
            seeds = parse_seeds(override)
        elif override.is_sweep_override():
            raise RequestError(
                f"{override.input_line}: ablation={ablation.name} has its own levels\n"
                "give one value, or leave out ablation= to search"
            )
        elif key not in ("ablation", "scale"):
            extra.append(override.input_line)
    return AblationGrid(ablation, parsed.scale, seeds, tuple(extra))


def _check(plan: AblationGrid | Search, config_name: str) -> Config:
    """Compose a run of every level, or at every bound, before the first one starts; return the first configuration."""
    configs = []
    for point in _corners(plan):
        runs = [f"run{i}" for i, _ in enumerate(plan.sources(point))]  # placeholders: the runs do not exist yet
        overrides = plan.overrides(point, runs)
        check_overrides(overrides)  # those of a table are not in the command
        configs.append(parse(_settings(compose(config_name, overrides))))
        check_launch(configs[-1], sweep=True)
    return configs[0]


def _corners(plan: AblationGrid | Search) -> Iterator[Params]:
    if isinstance(plan, AblationGrid):
        yield from ({"level": level, "seed": 0} for level in plan.ablation.level_names(plan.scale.name))
        return
    ends = {key: _ends(distribution) for key, distribution in plan.space.items()}
    first = {key: values[0] for key, values in ends.items()}
    yield first
    yield from (first | {key: value} for key, values in ends.items() for value in values[1:])


def _ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low, distribution.high


def _settings(composed: DictConfig) -> dict[str, Any]:
    """Return the composed configuration without `hydra`, as plain containers."""
    return plain(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]), resolve=True)


def _parse_options(options: dict[str, Any]) -> Options:
    try:
        return Options.model_validate(plain(OmegaConf.create(options)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"][:1]))
        raise RequestError(
            f"hydra.sweeper.{key}={first['input']}: {first['msg'][0].lower()}{first['msg'][1:]}"
        ) from None


def _print_next(plan: AblationGrid | Search, study: optuna.Study, tracker: StudyTracker) -> None:
    """Print the closing lines."""
    if failed := failure_table(study, plan):
        print(failed)
    done = [t for t in study.get_trials(deepcopy=False) if t.state == optuna.trial.TrialState.COMPLETE]
    print(f"study       {study.study_name}: {len(done)} finished")
    if tracker.run_id:
        print(f"run         {tracker.run_id}, the parent of the trials' runs")
    if isinstance(plan, AblationGrid):
        print(f"next        {COMMAND} task=report ablation={plan.ablation.name} scale={plan.scale.name}")
    elif done:
        best = study.best_trial
        run_id = best.user_attrs.get("run_id")
        print(f"best        val top-1 {100 * study.best_value:.1f} %, trial {best.number}, run {run_id}")
        params = [f"{key}={value}" for key, value in migrate_params(best.params).items()]
        print(f"next        {COMMAND} {shlex.join([*plan.fixed, *params])}")
    print(f"            {tracker.page or f'{COMMAND} task=sync'}")
