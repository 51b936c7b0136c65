"""Where Hydra looks for sweepers.  The studies themselves: rp2k_lab/sweep."""

from hydra.plugins.sweeper import Sweeper


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=optuna`: hands the command to `rp2k_lab.sweep`; the keys are in conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, **options):
        self._options = options

    def setup(self, *, hydra_context, task_function, config):
        self._loader, self._config = hydra_context.config_loader, config

    def sweep(self, arguments):
        # Hydra imports this file at every start, and Optuna takes its time.
        from rp2k_lab.sweep.command import run_study

        return run_study(arguments, self._options, self._config, self._loader)
