"""The table at the end of a plain `-m`."""

from hydra.core.utils import JobReturn, JobStatus

from rp2k_lab.cli.sweep_summary import averaged, summary, varied_keys


def result(score):
    done = JobReturn(status=JobStatus.FAILED if score is None else JobStatus.COMPLETED)
    done.return_value = ValueError("failed") if score is None else score
    return done


def test_rows_are_means_over_seeds_the_best_first():
    jobs = [[f"aug={aug}", f"seed={seed}", "epochs=2"] for aug in ("none", "cutout", "mixup") for seed in (1, 2)]
    assert varied_keys(jobs) == ["aug", "seed"]
    assert averaged(["aug", "seed"]) == ["aug"]
    scores = [0.5, 0.6, 0.7, None, 0.4, 0.5]
    assert summary(jobs, [result(score) for score in scores]).splitlines() == [
        "aug     val top-1  lowest  highest  runs  not finished",
        "------------------------------------------------------",
        "cutout  70.0 %                      1     1",
        "none    55.0 %     50.0 %  60.0 %   2",
        "mixup   45.0 %     40.0 %  50.0 %   2",
    ]


def test_seeds_alone_have_a_row_each_and_jobs_that_were_not_started_are_counted():
    jobs = [["seed=1", "aug=cutout"], ["seed=2", "aug=cutout"]]
    assert averaged(varied_keys(jobs)) == ["seed"]
    assert summary(jobs, [result(0.5)]).splitlines()[2:] == ["1     50.0 %     1", "2     –          0     1"]
