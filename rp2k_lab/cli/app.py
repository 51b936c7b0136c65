"""Between Hydra and the tasks: a request becomes a run, and an error becomes an exit code and one or two lines."""

import argparse
import difflib
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

from rp2k_lab import PROJECT
from rp2k_lab.cli.command_line import check_arguments
from rp2k_lab.config.choices import choices, chosen_by_default, defaults_of, flatten, groups, root_defaults
from rp2k_lab.core.disk import explain_full_disk
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact, redact_args
from rp2k_lab.core.signals import claim_sigint, claim_sigterm
from rp2k_lab.device.msrun import check_launch, is_launched, is_rank_zero

log = logging.getLogger(__name__)

_REPORTED = "already shown when its job of the sweep failed"

_HELP = """\
rp2k-lab: train, track and compare recognizers of retail products

  python run.py                                     the quick run on the embedded shelf photos
  python run.py model=seresnext50 aug=cutout        another network and augmentation
  python run.py -m aug=none,cutout seed=1,2         four runs, a sweep
  python run.py -m ablation=augmentation            a table: levels, seeds and, by task=report, a verdict
  python run.py dataset=rp2k dataset.root=FOLDER device=gpu
  make ui                                           the MLflow page with every run

--cfg job prints a composed configuration without running it; --hydra-help tells more.
"""


def register_resolvers() -> None:
    """`${project:folder}`: a folder of the clone, whatever the shell's folder.

    OmegaConf's own, which read the environment (oc.env) or make configurations of texts, are taken out.
    """
    OmegaConf.register_new_resolver("project", lambda folder: str(PROJECT / folder), replace=True)
    for name in ("env", "decode", "create", "select", "deprecated", "dict.keys", "dict.values"):
        OmegaConf.clear_resolver(f"oc.{name}")


def run_task(composed: DictConfig) -> float | None:
    """Check the composed configuration and run its task; returns the objective."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    level = logging.INFO if is_rank_zero() else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout, force=True)
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if not is_rank_zero():
        _remove_if_empty(folder)  # Hydra makes one a worker, each by its own clock
    try:
        from rp2k_lab.config.schema import parse

        settings = OmegaConf.to_container(composed, resolve=True)
        config = parse(settings)
        check_launch(config, sweep)
        if config.ablation.name != "none" and config.task.name != "report":
            raise RequestError(f"ablation={config.ablation.name}: a table is many runs\nadd -m, or task=report")
        others = ()  # of the runs after the first, where a task takes several
        if config.runs and config.task.name not in ("report", "sync"):  # which are no runs themselves
            from rp2k_lab.tracking.run_lookup import restore

            config, *others = restore(config, settings, list(HydraConfig.get().overrides.task))
            if config.task.name == "train":
                check_launch(config, sweep)  # a run of several workers goes on with several
        return importlib.import_module(f"rp2k_lab.task.{config.task.name}").run(config, folder, *others)
    except Exception as error:
        if not sweep:
            sys.exit(report_error(error))
        # The other jobs of a sweep go on; Hydra raises this error again when they are done.
        error.add_note(_REPORTED)
        if is_rank_zero():
            _print_error(f"job {HydraConfig.get().job.num}: {error}")
        raise
    finally:
        _remove_if_empty(folder)


def main(hydra_main: Callable[[], None]) -> int:
    """Run Hydra's entry; returns the exit code."""
    claim_sigint()
    claim_sigterm()
    sys.argv[1:] = redact_args(sys.argv[1:])
    if is_launched():
        sys.stdout.reconfigure(line_buffering=True)  # msrun shows the file that a worker writes to
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets errors through, instead of printing a page and exiting 1
    register_resolvers()
    argparse.ArgumentParser.error = _refuse_arguments
    _compose_once()
    _check_jobs_together()
    # argparse wants flags before or after all overrides; `run.py epochs=2 -m seed=1,2` is as clear.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    if {"-m", "--multirun"} & set(sys.argv[1:]) and any(a.startswith("ablation=") for a in sys.argv[1:]):
        sys.argv.append("hydra/sweeper=optuna")  # a table's runs are a study
    if {"--help", "-h"} & set(sys.argv[1:]):
        _show_help()
    try:
        check_arguments(sys.argv[1:])
        hydra_main()
    except OSError as error:
        reported = _REPORTED in getattr(error, "__notes__", ())
        if not reported and error.filename and not explain_full_disk(error):  # Hydra could not make the run's folder
            error = RequestError(f"{error.filename}: {error.strerror}\nname another folder: hydra.run.dir=<folder>")
        return report_error(error)
    except (Exception, KeyboardInterrupt) as error:
        return report_error(error)
    return 0


def _compose_once() -> None:
    """Hydra composes every request twice, the first time only to read hydra.mode, which -m alone decides here."""
    from hydra._internal.hydra import Hydra

    Hydra.get_mode = lambda *_, **__: None


def _check_jobs_together() -> None:
    """Of the jobs of -m Hydra composes each before the first is started; here their values are checked too."""
    from hydra.plugins.sweeper import Sweeper

    def check(sweeper: Sweeper, batch: Iterable[Iterable[str]]) -> None:
        from rp2k_lab.config.schema import parse

        try:
            for overrides in batch:
                composed = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
                ours = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
                parse(OmegaConf.to_container(ours, resolve=True))
        except Exception:
            folder = Path(sweeper.config.hydra.sweep.dir)
            (folder / "multirun.yaml").unlink(missing_ok=True)  # Hydra's, written before this
            _remove_if_empty(folder)
            raise

    Sweeper.validate_batch_is_legal = check


def _show_help() -> None:
    """Print our words and the choices, and leave the keys to Hydra's --cfg, whose own list of choices takes longer
    than all the rest together: it copies the whole configuration twice a group."""
    print(_HELP)
    print("Choices (group=choice)")
    for group in groups():
        print(f"  {group}: {', '.join(choices(group))}")
    print("\nKeys (key=value; what each means: rp2k_lab/config/schema.py)", flush=True)
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument not in ("--help", "-h")] + ["--cfg", "job"]


def _refuse_arguments(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """In place of argparse's page of usage."""
    raise RequestError(f"{message}\nthe form is run.py [-m] group=choice key=value …; python run.py --help lists both")


def report_error(error: BaseException) -> int:
    """Print at most two lines on stderr (with debug=true the traceback first); returns the exit code."""
    if "debug=true" in sys.argv[1:]:
        _print_error("".join(traceback.format_exception(error)))
    code = getattr(error, "exit_code", None)
    if _REPORTED in getattr(error, "__notes__", ()):
        return code or 1
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return code or 130
    wrong = str(error) if code == RequestError.exit_code else explain_composition_error(error)
    if wrong:
        if is_rank_zero():  # every worker of msrun finds the same
            _print_error(wrong)
        return RequestError.exit_code
    if code is not None:
        _print_error(str(error))
        return code
    reason = (str(error).strip().splitlines() or ["no further words"])[0]
    _print_error(
        explain_full_disk(error) or f"{type(error).__name__}: {reason}\nthe same command with debug=true shows where"
    )
    return 1


def _print_error(words: str) -> None:
    print(redact(words), file=sys.stderr)


def explain_composition_error(error: BaseException) -> str | None:
    """Hydra's and OmegaConf's errors in two lines, or None for any other error."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = f"{error}\n{error.__cause__ or ''}"
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = found.groups()
        return f"{group}={choice}: there is no such choice\nchoose one of {', '.join(choices(group))}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found.group(1))
    if found := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{found.group(1)}: the key is there already\nleave out the +"
    if isinstance(error, OverrideParseException):
        forms = "group=choice, key=value, key=[a,b] or \"key='other text'\""
        return f"{error.override}: cannot be read\nthe form is {forms}"
    key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
    first = key + str(error).strip().splitlines()[0]
    return f"{first}\nthe form is group=choice or key=value; python run.py --help lists both"


def _unknown_key(key: str) -> str:
    from rp2k_lab.config.migrations import RENAMED

    if key in RENAMED:
        return f"{key}: is called {RENAMED[key]} now\nuse {RENAMED[key]}=…"
    (group, in_group, _), parent = key.partition("."), key.rpartition(".")[0]
    known = _keys_of_the_request()
    others = [f"{group}={choice}" for choice in choices(group) if key in _keys_of(group, choice)] if in_group else []
    if others:
        return f"{key}: the {group} of this request has no such key\nit is a key of {' and '.join(others)}"
    if close := difflib.get_close_matches(key, known, 3, 0.75):
        return f"{key}: there is no such key\ndid you mean {' or '.join(close)}?"
    siblings = [k for k in known if k.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
    return f"{key}: there is no such key\nthere are {', '.join(siblings)}"


def _keys_of_the_request() -> list[str]:
    """The root's keys, and those of the choices that the command line names or that are the default; read from the
    files, since the request itself cannot be composed."""
    chosen = chosen_by_default() | {"hydra.sweeper": "optuna"}
    chosen |= {a.partition("=")[0]: a.partition("=")[2] for a in sys.argv[1:] if a.partition("=")[0] in chosen}
    keys = set(root_defaults()) | set(groups())
    return sorted(keys.union(*(_keys_of(group, choice) for group, choice in chosen.items())))


def _keys_of(group: str, choice: str) -> set[str]:
    """`aug.length` and others for aug=cutout; of a sweep's several choices none."""
    try:
        keys = [key for key, _ in flatten(defaults_of(group.replace(".", "/"), choice))]
    except OSError:
        return set()
    return {f"{group}.{key}" for key in keys if key not in ("name", "_target_")}


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes the run's folder before the request is checked; a refused one leaves nothing behind."""
    outputs = PROJECT / "outputs"
    while folder.is_relative_to(outputs) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
