"""The jobs of `-m` without a study: every combination of the values of a command, checked before the first starts."""

import itertools
import json
import math
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rp2k_lab.config.choices import plain
from rp2k_lab.config.overrides import check_overrides, check_programs
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import RequestError

# All are composed before the first starts, which takes a tenth of a second for each.
_MAX_JOBS = 10_000


def checked_jobs(arguments: Sequence[str], config: DictConfig, loader: ConfigLoader) -> list[list[str]]:
    """Return the overrides of each job.

    `last` and `best` in `runs=` are replaced by ids: all jobs start from the same run, also after one of them has
    trained a newer or better one.

    Args:
        arguments: overrides of the command line, including `key=a,b`.
        config: composed configuration of the sweep, with `hydra`.
        loader: Hydra's loader.

    Raises:
        RequestError: a job's configuration is not valid, or one of its overrides cannot be part of a request.
    """
    batch_size = config.hydra.sweeper.max_batch_size
    if not (batch_size is None or (type(batch_size) is int and batch_size > 0)):
        raise RequestError(f"hydra.sweeper.max_batch_size={batch_size}: not a number of jobs\nuse 1 or more")
    check_programs(config.hydra.runtime.choices["hydra/launcher"])
    # The parser of Hydra's own sweepers and of its example of a sweeper plugin; there is no function for it.
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    values = {override.get_key_element(): _values(override) for override in overrides}
    if empty := [override.input_line for override in overrides if not values[override.get_key_element()]]:
        raise RequestError(f"{empty[0]}: has no value\nuse a list a,b or range(first,end)")
    if math.prod(map(len, values.values())) > _MAX_JOBS:
        several = " ".join(override.input_line or "" for override in overrides if override.is_sweep_override())
        raise RequestError(f"{several}: more than {_MAX_JOBS:,} jobs\nadd hydra/sweeper=optuna to search")
    jobs, ids = [], {}
    for job in map(list, itertools.product(*values.values())):
        check_overrides(job)  # Hydra has made their values, for example of a glob
        composed = loader.load_sweep_config(config, job)
        without_hydra = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        jobs.append(_with_ids(job, parse(plain(without_hydra, resolve=True)), ids))
    return jobs


def _values(override: Override) -> list[str]:
    """Return an override for each of its values."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        raise RequestError(
            f"{override.input_line}: has no list of values\nuse {key}=a,b, or add hydra/sweeper=optuna to search"
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _with_ids(job: list[str], config: Config, known: dict[tuple, tuple[str, ...]]) -> list[str]:
    """Return a job with ids in place of the words in `runs=`.

    Args:
        known: the result of each request so far.
    """
    if not config.runs:
        return job
    from rp2k_lab.tracking.run_lookup import resolve

    request = (config.runs, config.task, config.tracking.uri, config.tracking.experiment)
    if request not in known:
        known[request] = resolve(config)
    if known[request] == config.runs:
        return job
    runs = json.dumps(known[request], ensure_ascii=False)
    return [*(override for override in job if not override.startswith("runs=")), f"runs={runs}"]
