"""Studies on Optuna: ablation tables and searches that run each trial as a separate `run.py` process.

    python run.py -m ablation=augmentation
    python run.py -m hydra/sweeper=optuna aug=none,cutout 'optimizer.lr=tag(log,interval(0.01,0.2))'

`command` parses the command line, `space` defines the points, `storage` opens the database, `study` keeps the queue,
`worker` runs trials through `trial_process` (its counterpart in the run: `tracking.trial_client`), `progress` displays
them, and `collect` reads results for a verdict.
"""
