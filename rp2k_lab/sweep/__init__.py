"""Studies on Optuna: tables and searches whose every trial is a `run.py` of its own.

    python run.py -m ablation=augmentation
    python run.py -m hydra/sweeper=optuna aug=none,cutout 'optimizer.lr=tag(log,interval(0.01,0.2))'

`run` reads the command; `space` says what there is to run, `storage` opens the database, `study` keeps there what is
to do, `worker` does it; `process` and `trial` are the two ends between a study and its run, `display` shows it.
"""
