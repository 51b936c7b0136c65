"""Studies on Optuna: ablation tables and searches that run each trial as a separate `run.py` process.

    python run.py -m ablation=augmentation
    python run.py -m hydra/sweeper=optuna aug=none,cutout 'optimizer.lr=tag(log,interval(0.01,0.2))'

`command` parses the command line, `space` defines the points, `storage` opens the database, `study` keeps the queue,
`worker` runs trials through `trial_process` (its counterpart in the run: `tracking.trial_client`), `seed_runs` keeps
the runs of a trial of several seeds, `progress` displays trials, and `confirmation` runs the best points of a search
again.  `collect` reads the results of a table for its verdict, `search_results` those of a search for its report.
"""
