"""Run a command line: Hydra composes the configuration, a task runs, an error becomes an exit code and two lines."""

import atexit
import difflib
import errno
import gc
import importlib
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rp2k_lab import COMMAND, IGNORED_VARIABLES, PROJECT
from rp2k_lab.cli import help as help_texts
from rp2k_lab.cli.command_line import split_arguments
from rp2k_lab.cli.completion import complete_line
from rp2k_lab.config.choices import (
    CONF,
    CORRECT_FILE,
    choices,
    groups,
    keys_of,
    keys_of_request,
    plain,
    yaml_problem,
)
from rp2k_lab.config.overrides import explain_hydra_key
from rp2k_lab.core.disk import explain_full_disk
from rp2k_lab.core.environment import prepare_process
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.progress import activity, turn_off
from rp2k_lab.core.quoting import expand_home
from rp2k_lab.core.redaction import redact_args, redact_message
from rp2k_lab.core.signals import before_launcher, claim_signals, receive_signal
from rp2k_lab.core.streams import keep_standard_streams, output_was_lost
from rp2k_lab.core.text import escape_controls, escape_lines, shorten_middle
from rp2k_lab.device import gpu_libraries
from rp2k_lab.device.msrun import check_launch, is_launched, is_rank_zero
from rp2k_lab.tracking.address import overrides_from_environment

log = logging.getLogger(__name__)

# Longer lines of a message lose their middle [characters]: a value may be the content of a file.
_MAX_LINE = 2000
_REPORTED = "already reported by the failed job of the sweep"


class _PublicLines(logging.Formatter):
    """Log lines without credentials and control characters; names in them come from disks and stores."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_lines(redact_message(super().format(record)))


def register_resolvers() -> None:
    """Register `${project:folder}`, a folder of the clone, whatever the shell's folder.

    OmegaConf's resolvers are removed: they read the environment (oc.env) or parse text into configurations.
    """
    OmegaConf.register_new_resolver("project", lambda folder: str(PROJECT / folder), replace=True)
    for name in ("env", "decode", "create", "select", "deprecated", "dict.keys", "dict.values"):
        OmegaConf.clear_resolver(f"oc.{name}")


def run_task(composed: DictConfig) -> float | None:
    """Check the composed configuration, run its task and return the objective."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    keep_standard_streams()  # of a launcher's process, which does not run `main`
    level = logging.INFO if is_rank_zero() else logging.ERROR
    logging.basicConfig(level=level, stream=sys.stdout, force=True)
    logging.root.handlers[0].setFormatter(_PublicLines("%(message)s"))
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if not is_rank_zero():
        turn_off()
        _remove_if_empty(folder)  # Hydra creates one for each worker, named by its own clock
    try:
        from rp2k_lab.config.schema import parse

        settings = plain(composed, resolve=True)
        config = parse(settings)
        check_launch(config, sweep)
        if config.ablation.name != "none" and config.task.name != "report":
            raise RequestError(f"ablation={config.ablation.name}: a table needs several runs\nadd -m, or task=report")
        if config.runs:
            from rp2k_lab.tracking.run_lookup import resolve

            with activity("looking up the runs"):
                settings["runs"] = list(resolve(config))  # the record has ids, too
            config = config.model_copy(update={"runs": tuple(settings["runs"])})
        more_configs = ()  # of the runs after the first, if a task takes several
        if config.runs and config.task.name not in ("report", "sync"):  # these two need no configuration of a run
            from rp2k_lab.tracking.run_restore import restore

            config, *more_configs = restore(config, settings, list(HydraConfig.get().overrides.task))
            if config.task.name == "train":
                check_launch(config, sweep)  # a run of several workers is resumed with several
        if config.device.name == "gpu":
            gpu_libraries.load()  # before a task imports MindSpore
        with activity("loading the libraries"):
            task = importlib.import_module(f"rp2k_lab.task.{config.task.name}")
        with before_launcher(receive_signal), activity(f"task={config.task.name}"):
            return task.run(config, folder, *more_configs)
    except Exception as error:
        if not sweep:
            sys.exit(report_error(error))
        # The other jobs of a sweep continue; Hydra raises this error again at the end.
        error.add_note(_REPORTED)
        if is_rank_zero():
            _print_error(_in_two_lines(f"job {HydraConfig.get().job.num}: {error}"))
        raise
    finally:
        _remove_if_empty(folder)


def main(hydra_main: Callable[[], None]) -> int:
    """Run the command line and return the exit code.

    Args:
        hydra_main: Hydra's entry point, for a command with flags.
    """
    keep_standard_streams()
    prepare_process(IGNORED_VARIABLES if is_rank_zero() else ())
    claim_signals()
    atexit.register(gc.freeze)  # else Python's last collection takes 2 s of silence after MindSpore's import
    sys.argv[1:] = redact_args(map(expand_home, sys.argv[1:]))
    if is_launched() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # msrun copies a worker's output from a file
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing a page and exiting 1
    register_resolvers()
    try:
        flags, overrides = split_arguments(sys.argv[1:])
        if "-m" in flags and any(override.startswith("ablation=") for override in overrides):
            overrides.append("hydra/sweeper=optuna")  # a table's runs are a study
        if flags and "-m" not in flags:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends without a message
        if "-h" in flags or any(override.startswith("help=") for override in overrides):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            _show_help(overrides)
            return int(output_was_lost())
        if "-sc" in flags and overrides[0].startswith("query="):
            print(complete_line(os.environ["COMP_LINE"], overrides[0].removeprefix("query=")))
            return 0
        if "-sc" not in flags:
            overrides += overrides_from_environment(overrides, is_shown=is_rank_zero() and set(flags) <= {"-m"})
        sys.argv[1:] = [*flags, *overrides]
        with activity("starting"):
            _run_hydra(hydra_main, flags) if flags else _run_job(overrides)
    except OSError as error:
        reported = _REPORTED in getattr(error, "__notes__", ())
        if not reported and error.filename and not explain_full_disk(error):  # the run folder cannot be created
            error = RequestError(f"{error.filename}: {error.strerror}\nuse another folder: hydra.run.dir=<folder>")
        return report_error(error)
    except (Exception, KeyboardInterrupt) as error:
        return report_error(error)
    is_answer = flags and "-m" not in flags  # the text is all that such a command leaves behind
    return int(bool(is_answer) and output_was_lost())


def _run_hydra(hydra_main: Callable[[], None], flags: list[str]) -> None:
    """Run a command with flags; what Hydra 1.3 answers with a bare exit or a traceback becomes a wrong request."""
    package = next((flag for flag in flags if flag.startswith("--package=")), "")
    way_out = "use a key that --cfg job prints, such as --package optimizer"
    if not re.fullmatch(r"(--package=[\w.]+)?", package):  # Hydra would print it as it is
        raise RequestError(f"{package}: there is no such key\n{way_out}")
    try:
        hydra_main()
    except SystemExit as end:
        if package and end.code == 1:  # Hydra has printed the reason
            raise RequestError(way_out) from None
        raise
    except Exception as error:
        if "-sc" not in flags:
            raise
        raise RequestError(f'-sc: {error}\nuse eval "$({COMMAND} -sc install=bash)"') from None


def _run_job(overrides: list[str]) -> None:
    """Compose the configuration and run its task in its folder.

    `hydra.main` does the same, but composes twice (Hydra 1.3): once only to read hydra.mode.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides, return_hydra_config=True)
        folder = Path(composed.hydra.run.dir).absolute()
        composed.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(composed)
        folder.mkdir(parents=True, exist_ok=True)
        run_task(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))


def _show_help(overrides: Sequence[str]) -> None:
    """Print the choices and the keys of a request; or of the group that `help=GROUP` names, with its choices."""
    asked = [override.removeprefix("help=") for override in overrides if override.startswith("help=")]
    if asked:
        for name in asked:
            chosen = [o.partition("=")[2] for o in overrides if o.startswith(f"{name}=")]
            print(help_texts.group_help(name, chosen))
        return
    from hydra import compose, initialize_config_dir

    print(help_texts.overview())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        print(f"\n{help_texts.request_help(plain(compose('config', list(overrides))))}")


def report_error(error: BaseException) -> int:
    """Print at most two lines on stderr, after the traceback with debug=true, and return the exit code."""
    if "debug=true" in sys.argv[1:]:
        _print_error("".join(traceback.format_exception(error)))
    code = getattr(error, "exit_code", None)
    if _REPORTED in getattr(error, "__notes__", ()):
        return code or 1
    if isinstance(error, KeyboardInterrupt):
        _print_error("stopped")
        return code or 130
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP) and error.filename:
        error, code = RequestError(f"{error.filename}: {error.strerror}\nuse another path"), RequestError.exit_code
    request_problem = str(error) if code == RequestError.exit_code else explain_composition_error(error)
    if request_problem:
        if is_rank_zero():  # every worker of msrun has the same problem
            _print_error(_in_two_lines(request_problem))
        return RequestError.exit_code
    if code is not None:
        _print_error(_in_two_lines(str(error)))
        return code
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    _print_error(explain_full_disk(error) or f"{type(error).__name__}: {reason}\nadd debug=true for the traceback")
    return 1


def _print_error(message: str) -> None:
    """Print a message without credentials and control characters, which a name in it may have."""
    print(escape_lines(redact_message(message)), file=sys.stderr)


def _in_two_lines(message: str) -> str:
    """Return a message of at most two lines: names in the first may have line breaks, the way out has none."""
    what, _, way_out = message.rstrip("\n").rpartition("\n")
    return "\n".join(shorten_middle(escape_controls(line), _MAX_LINE) for line in (what, way_out) if line)


def explain_composition_error(error: BaseException) -> str | None:
    """Return two lines for an error of Hydra or OmegaConf, None for any other error."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    if isinstance(error, MarkedYAMLError) and error.problem_mark:  # Hydra reads the files of conf/
        return f"{error.problem_mark.name}: {yaml_problem(error)}\n{CORRECT_FILE}"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = f"{error}\n{error.__cause__ or ''}"
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = match.groups()
        if group not in groups():
            return f"{group}={choice}: there is no such group\nuse one of {', '.join(groups())}"
        return f"{group}={choice}: there is no such choice\nchoose one of {', '.join(choices(group))}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match.group(1))
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{match.group(1)}: the key already exists\nleave out the +"
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'", text, re.DOTALL):
        return _several_values(match.group(1))
    if match := re.search(r"Error merging override (.+)", text):
        return f"{match.group(1)}: not a value of this key\nuse another one, or leave it out"
    if isinstance(error, OverrideParseException):
        if problem := _problem_of_address(error.override):
            return problem
        forms = "group=choice, key=value, key=[a,b] or \"key='other text'\""
        blank = "''"  # as the shell has it
        return f"{error.override.strip() or blank}: cannot be parsed\nuse {forms}"
    key = getattr(error, "full_key", None)
    first = (f"{key}: " if key else "") + str(error).strip().splitlines()[0]
    return f"{first}\nuse group=choice or key=value; {COMMAND} --help lists both"


def _several_values(argument: str) -> str:
    key, _, value = argument.partition("=")
    way_out = "add -m for one run each"
    if re.match(r"(tag\(.*)?interval\(", value):
        way_out = "add -m hydra/sweeper=optuna to search"
    elif "/" in value and key not in groups():
        way_out = f"quote a path: \"{key}='{value}'\""
    elif "(" not in value and key not in groups():
        way_out += f", or use {key}=[{value}] for a list"
    return f"{argument}: has several values\n{way_out}"


def _problem_of_address(override: str) -> str | None:
    """Return two lines if an override is a wrong address, such as a page's: Hydra cannot parse its #."""
    from rp2k_lab.tracking.address import check_address

    key, _, address = override.partition("=")
    try:
        if key == "tracking.uri":
            check_address(address)
    except RequestError as error:
        return str(error)
    return None


def _unknown_key(key: str) -> str:
    from rp2k_lab.config.migrations import todays_key

    if (new := todays_key(key, " ".join(sys.argv[1:]))) != key:
        return f"{key}: renamed to {new}\nuse {new}=…"
    if key.startswith("hydra."):
        return explain_hydra_key(key)
    (group, _, in_group), parent = key.partition("."), key.rpartition(".")[0]
    known = keys_of_request(sys.argv[1:])
    inner = f"{group}/{in_group.partition('.')[0]}"
    part = inner if inner in groups() else group  # aug.erase.length: choices of aug/erase have it
    owners = [f"{part}={choice}" for choice in choices(part) if key in keys_of(part, choice)] if in_group else []
    if owners:
        return f"{key}: the {part} of this request has no such key\nleave it out, or use {' or '.join(owners)}"
    if close := difflib.get_close_matches(key, known, 3, 0.75):
        return f"{key}: there is no such key\ndid you mean {' or '.join(close)}?"
    siblings = [k for k in known if k.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
    return f"{key}: there is no such key\nuse one of {', '.join(siblings)}"


def _remove_if_empty(folder: Path) -> None:
    """Remove the run folder, which Hydra creates before the request is checked, unless it has content."""
    outputs = PROJECT / "outputs"
    while folder.is_relative_to(outputs) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
