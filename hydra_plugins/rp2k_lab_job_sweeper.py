"""Hydra plugin for the jobs of `-m`, in the folder that Hydra searches; rp2k_lab/cli/jobs.py makes them."""

from pathlib import Path

from hydra.plugins.sweeper import Sweeper


class JobSweeper(Sweeper):
    """`hydra/sweeper=jobs`: check all jobs of a command, then launch them; conf/hydra/sweeper/jobs.yaml has the keys.

    Hydra's own, `basic`, only composes the jobs before it launches them.
    """

    def __init__(self, max_batch_size):
        self._batch_size = max_batch_size

    def setup(self, *, hydra_context, task_function, config):
        from hydra.core.plugins import Plugins

        self._loader, self._config = hydra_context.config_loader, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        # Hydra imports this file at every start: keep slow imports out of it.
        from rp2k_lab.cli.jobs import checked_jobs
        from rp2k_lab.cli.sweep_summary import recorded_sweep

        jobs, results = checked_jobs(arguments, self._config, self._loader), []
        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        size = self._batch_size or len(jobs)
        with recorded_sweep(jobs, self._config, self._loader) as scores:
            for start in range(0, len(jobs), size):
                results.append(self._launcher.launch(jobs[start : start + size], initial_job_idx=start))
                scores += results[-1]
                for result in results[-1]:
                    _ = result.return_value  # raises the error of a failed job
        return results
