"""Hydra plugin for studies, in the folder that Hydra searches; rp2k_lab/sweep runs them."""

from hydra.plugins.sweeper import Sweeper


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=optuna`: pass the command on to `rp2k_lab.sweep`; conf/hydra/sweeper/optuna.yaml has the keys."""

    def __init__(self, **options):
        self._options = options

    def setup(self, *, hydra_context, task_function, config):
        self._config, self._context = config, hydra_context

    def sweep(self, arguments):
        # Hydra imports this file at every start: keep the slow import of Optuna out of it.
        from rp2k_lab.sweep.command import run_study
        from rp2k_lab.sweep.worker_jobs import launch_study

        if self._config.hydra.runtime.choices["hydra/launcher"] == "basic":
            return run_study(arguments, self._options, self._config)
        return launch_study(arguments, self._options, self._config, self._context)
