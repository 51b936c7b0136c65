"""Run a study from the command line of a sweep."""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rp2k_lab import COMMAND
from rp2k_lab.config.choices import plain
from rp2k_lab.config.migrations import migrate_params
from rp2k_lab.config.overrides import check_overrides
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import RequestError, StudyIncomplete
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.device.msrun import check_launch
from rp2k_lab.evaluation.metric_registry import metrics
from rp2k_lab.sweep import dashboard
from rp2k_lab.sweep.confirmation import (
    ConfirmedPoint,
    assignments,
    confirmation_table,
    confirmed_points,
    plan_confirmation,
)
from rp2k_lab.sweep.progress import Display, failure_table
from rp2k_lab.sweep.space import AblationGrid, Confirmation, Params, Plan, Search, parse_search, parse_seeds
from rp2k_lab.sweep.storage import exclusive, open_storage
from rp2k_lab.sweep.study import PRUNERS, check_same_study, open_study
from rp2k_lab.sweep.worker import StudyWorker, missing
from rp2k_lab.tracking.tracker import StudyTracker

Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _check_different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("seeds must be different")
    return seeds


class Options(BaseModel):
    """Options of `hydra.sweeper`; conf/hydra/sweeper/optuna.yaml explains each key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: Annotated[str, Field(pattern=r"^[\w.+-]{1,200}$")] | None
    storage: str | None
    n_trials: Annotated[int, Field(ge=1)]
    pruner: Literal["median", "halving", "wilcoxon", "none"] | None
    p_threshold: Annotated[float, Field(gt=0, lt=1)]
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1), AfterValidator(_check_different)] | None
    confirm: Annotated[int, Field(ge=0)]
    retries: Annotated[int, Field(ge=0)]
    reuse: bool
    devices: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] | None
    workers: Annotated[int, Field(ge=1)]
    heartbeat_seconds: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True)
class StudyRequest:
    """A checked command that runs a study.

    Attributes:
        first: configuration of its first run.
        tracking: of its runs; the experiment is the study's name unless the command gives another.
        extra: overrides of every trial that are not part of the experiment.
    """

    name: str
    plan: AblationGrid | Search
    settings: Options
    pruner: str
    first: Config
    tracking: Any
    extra: list[str]

    def check_existing(self, storage: optuna.storages.RDBStorage) -> None:
        """Raise a RequestError if the study, or its confirmation, exists with another definition."""
        check_same_study(storage, self.plan, self.name)
        if isinstance(self.plan, Search) and self.settings.confirm:
            confirmation = Confirmation(self.plan, self.name, (), ())
            check_same_study(storage, confirmation, confirmation.name)


def read_request(arguments: list[str], options: dict[str, Any], config: DictConfig) -> StudyRequest:
    """Check the command line of a study; arguments and errors as for `run_study`."""
    settings = _parse_options(options)
    if settings.workers > 1 and config.hydra.runtime.choices["hydra/launcher"] == "basic":
        raise RequestError(
            f"hydra.sweeper.workers={settings.workers}: needs a launcher that starts them\n"
            "add hydra/launcher=submitit_slurm or submitit_local, or run the command in several terminals"
        )
    # The parser of Hydra's own sweepers and of its example of a sweeper plugin; there is no function for it.
    plan = _plan(OverridesParser.create().parse_overrides(arguments), config, settings.seeds)
    pruner = _pruner(settings, plan)
    first = _check(plan, config.hydra.job.config_name)
    name = settings.study or plan.name
    if any(argument.startswith("tracking.experiment=") for argument in arguments):
        return StudyRequest(name, plan, settings, pruner, first, first.tracking, [])
    tracking = first.tracking.model_copy(update={"experiment": name})
    return StudyRequest(name, plan, settings, pruner, first, tracking, [f"tracking.experiment={name}"])


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
    request = read_request(arguments, options, config)
    name, plan, settings = request.name, request.plan, request.settings
    with open_storage(settings.storage, settings.heartbeat_seconds) as storage:
        with StopSignal() as signals:
            with exclusive(storage, name):
                request.check_existing(storage)
                facts = {"command": shlex.join(sys.argv), "storage": storage.url}
                facts = {key: redact(value) for key, value in facts.items()} | {
                    "mlflow.note.content": dashboard.note(redact(settings.storage or ""))
                }
                tracker = StudyTracker(request.tracking, name, facts, plan.factor, _charts(plan))
                study = open_study(storage, plan, name, request.pruner, settings.seed, settings.p_threshold)
            folder, stop = Path(config.hydra.sweep.dir).absolute(), lambda: signals.signum
            runner = _Runner(storage, tracker, settings, request.extra, folder, stop)
            try:
                left = runner.run(study, plan)
                confirmed, unconfirmed = runner.confirm(study, plan, request.first.seed)
            except BaseException:
                tracker.close("FAILED")
                raise
            left |= unconfirmed
            tracker.close("KILLED" if signals.signum else "FAILED" if left else "FINISHED")
            signals.check()
        _print_next(request, study, tracker, confirmed)
    if left:
        unfinished = "; ".join(f"study {name}: {text} are not finished" for name, text in left.items())
        raise StudyIncomplete(
            f"{unfinished}\nrun the same command again with hydra.sweeper.retries above {settings.retries}"
        )


@dataclass(frozen=True)
class _Runner:
    """What the studies of a command share.

    Attributes:
        extra: overrides of every trial that are not part of the experiment.
        folder: of the trials.
        signum: returns the signal that asks to stop, or None.
    """

    storage: optuna.storages.RDBStorage
    tracker: StudyTracker
    settings: Options
    extra: list[str]
    folder: Path
    signum: Callable[[], int | None]

    def run(self, study: optuna.Study, plan: Plan) -> dict[str, str]:
        """Run what is missing of a study; return the name of an unfinished one with how much is left of it."""
        n_trials = int(min(self.settings.n_trials, plan.size)) if isinstance(plan, Search) else len(plan.points)
        if not missing(study, plan, n_trials):
            print(f"study {study.study_name}: nothing to run, all {n_trials} are finished")
        folder = self.folder / "confirm" if isinstance(plan, Confirmation) else self.folder
        link = partial(_link, self.tracker, study.study_name, plan, self.settings.reuse)
        retries = self.settings.retries
        with Display(study, plan, n_trials) as display:
            worker = StudyWorker(
                study, self.storage, plan, n_trials, self.extra, folder, retries, link, self.signum, display
            )
            _work(worker, self.settings.devices)
        if self.signum() is None and (failed := failure_table(study, plan)):
            print(failed)
        left = missing(study, plan, n_trials)
        return {study.study_name: f"{left} of {n_trials}"} if left else {}

    def confirm(self, study: optuna.Study, plan: Plan, seed: int) -> tuple[list[ConfirmedPoint], dict[str, str]]:
        """Run the best points of a finished search on fresh seeds.

        Args:
            seed: the run seed of a search without `hydra.sweeper.seeds`.

        Returns:
            The confirmed points, best first, and what is left as from `run`; nothing if there is nothing to confirm.
        """
        confirmation = plan_confirmation(plan, study, self.settings.confirm, seed)
        if confirmation is None or self.signum() is not None:
            return [], {}
        seeds, best = ", ".join(map(str, confirmation.seeds)), len(confirmation.best)
        print(f"study {confirmation.name}: the best {f'{best} points' if best > 1 else 'point'} again, seeds {seeds}")
        with exclusive(self.storage, confirmation.name):
            again = open_study(self.storage, confirmation, confirmation.name, "none", 0)
        left = self.run(again, confirmation)
        return confirmed_points(study.get_trials(deepcopy=False), again.get_trials(deepcopy=False)), left


def _charts(plan: Plan) -> list[str]:
    """Return the metrics that the study's page shows: the plan's, and those of installed packages."""
    split = plan.metrics[0].partition("/")[0]
    added = [m.name for m in metrics().values() if m.in_tables and not m.compute.__module__.startswith("rp2k_lab.")]
    return [*plan.metrics, *(f"{split}/{name}" for name in added)]


def _link(
    tracker: StudyTracker, study: str, plan: Plan, reuse: bool, trial: optuna.Trial, point: Params
) -> dict[str, Any]:
    """Return name and tags for the run of a trial, and what may replace it.

    Args:
        point: with the run's seed, if the trial has several.
    """
    tags = {"study": study, "trial": trial.number, **{key: str(value) for key, value in point.items()}}
    parent = {"mlflow.parentRunId": tracker.run_id} if tracker.run_id else {}
    return {"name": plan.label(point), "tags": tags | parent, "reuse": plan.reuse(point) if reuse else ""}


def _work(worker: StudyWorker, devices: tuple[int, ...] | None) -> None:
    """Run one trial at a time, on each of the devices if there are any."""
    if devices is None:
        worker.work()
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(worker.work, devices))


def _plan(overrides: list[Override], config: DictConfig, trial_seeds: tuple[int, ...] | None) -> AblationGrid | Search:
    """Return the table of `ablation=…`, or the search over the keys with several values.

    Args:
        trial_seeds: `hydra.sweeper.seeds`.
    """
    for override in overrides:
        if override.get_key_element() == "task" and override.value() != "train":
            raise RequestError(f"{override.input_line}: the trials of a study train\nleave out task=")
        if override.get_key_element() in ("task.resume", "task.verify"):
            raise RequestError(f"{override.input_line}: a study resumes its interrupted trials by itself\nleave it out")
    if config.ablation.name == "none":
        return parse_search(overrides, trial_seeds)
    if trial_seeds is not None:
        listed = ",".join(map(str, trial_seeds))
        raise RequestError(f"hydra.sweeper.seeds=[{listed}]: of a search; a table has its own\nuse seed={listed}")
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


def _pruner(settings: Options, plan: AblationGrid | Search) -> str:
    """Return the name of the pruner, by default one that fits the number of seeds.

    Raises:
        RequestError: the pruner does not fit, or can never prune.
    """
    seeds, name = len(plan.trial_seeds) or 1, settings.pruner
    if name is None:
        return "median" if seeds == 1 else "wilcoxon" if seeds > 2 else "none"
    option = f"hydra.sweeper.pruner={name}"
    if name in PRUNERS and name != "none" and seeds > 1:
        raise RequestError(
            f"{option}: compares epochs, but a trial of {seeds} seeds reports one value per seed\n"
            "use wilcoxon or none, or leave out hydra.sweeper.seeds"
        )
    if name == "wilcoxon" and seeds < 3:
        raise RequestError(
            f"{option}: needs two seeds to decide and a third to save; the trials have {seeds}\n"
            "use hydra.sweeper.seeds=[0,1,2], or hydra.sweeper.pruner=median|halving|none"
        )
    # Of k seeds that are all worse than the best trial's, the one-sided test has p = 2^-k.
    if name == "wilcoxon" and settings.p_threshold <= (smallest := 0.5 ** (seeds - 1)):
        raise RequestError(
            f"hydra.sweeper.p_threshold={settings.p_threshold:g}: prunes nothing before the last of {seeds} seeds, "
            f"where p is at least {smallest:g}\nuse a larger one, or more seeds"
        )
    return name


def _parse_options(options: dict[str, Any]) -> Options:
    try:
        return Options.model_validate(plain(OmegaConf.create(options)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"][:1]))
        reason = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"hydra.sweeper.{key}={first['input']}: {reason[0].lower()}{reason[1:]}") from None


def _print_next(
    request: StudyRequest, study: optuna.Study, tracker: StudyTracker, confirmed: list[ConfirmedPoint]
) -> None:
    """Print the closing lines."""
    plan, storage = request.plan, redact(request.settings.storage or "")
    plain_text = re.fullmatch(r"[\w.+:/@-]*", storage)  # what Hydra's grammar takes without quotes
    stored = f" {shlex.quote(f'task.storage={storage if plain_text else hydra_value(storage)}')}" if storage else ""
    states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
    done, pruned = states[TrialState.COMPLETE], states[TrialState.PRUNED]
    print(f"study       {study.study_name}: {done} finished{f', {pruned} pruned' if pruned else ''}")
    if tracker.run_id:
        print(f"run         {tracker.run_id}, the parent of the trials' runs")
    if isinstance(plan, AblationGrid):
        print(f"next        {COMMAND} task=report ablation={plan.ablation.name} scale={plan.scale.name}{stored}")
    elif confirmed:
        print(confirmation_table(confirmed))
        best = confirmed[0]
        searched = f"{100 * best.searched:.1f} % in the search"
        print(f"best        val top-1 {best.fresh} on fresh seeds, {searched}, trial {best.trial}")
        print(f"next        {COMMAND} {shlex.join([*plan.fixed, *assignments(best.params)])}")
    elif done:
        best = study.best_trial
        run_id = best.user_attrs.get("run_id")
        print(f"best        val top-1 {100 * study.best_value:.1f} %, trial {best.number}, run {run_id}")
        print(f"next        {COMMAND} {shlex.join([*plan.fixed, *assignments(migrate_params(best.params))])}")
    print(f"dashboard   {dashboard.command(storage)}, then {dashboard.address()}")
    if isinstance(plan, Search) and done:
        print(f"report      {COMMAND} task=report task.study={study.study_name}{stored}")
    print(f"            {tracker.page or f'{COMMAND} task=sync'}")
