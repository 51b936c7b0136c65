"""task=train, end to end: `python run.py`."""

import getpass
import re
import signal
import time

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from rp2k_lab import PROJECT
from rp2k_lab.evaluation.intervals import wilson_interval
from tests.helpers.tiny_runs import TINY

GROCERY_STORE = PROJECT.parent / "shared" / "data" / "grocery_store"


def test_run_prints_closing_table_and_next_steps(first_run):
    code, out, err = first_run.result
    assert code == 0, err
    (run,) = first_run.store.runs()
    correct = round(run.data.metrics["test/top1"] * 80)
    low, high = wilson_interval(correct, 80)
    line = next(line for line in out.splitlines() if line.startswith("top-1 "))
    assert f"{100 * correct / 80:.1f} %  [{100 * low:4.1f}, {100 * high:5.1f}] of 80" in line
    assert "of 60" in line
    assert run.info.run_id in out
    assert "make ui" in out
    assert str(first_run.folder / "out" / "checkpoints" / "best.ckpt") in out
    assert "graph mode" in out
    assert err == ""  # no bar without a terminal, no warning


def test_mlflow_has_the_complete_record(first_run):
    (run,) = first_run.store.runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "resnet18_shelf_none_seed0"
    assert run.data.params["optimizer.lr"] == "0.05"
    assert run.data.params["size"] == "[32, 32]"
    tags = run.data.tags
    assert tags["task"] == "train"
    assert tags["status"] == "FINISHED"
    assert tags["device"] == "cpu"
    assert len(tags["git_commit"]) in (40, len("unknown"))
    assert len(tags["dataset_fingerprint"]) == 16
    history = first_run.store.history(run)
    assert [step for step, _ in history["train/loss"]] == list(range(1, 19))
    assert len(history["train/lr"]) == 18
    assert [step for step, _ in history["val/top1"]] == [9, 18]  # no closing score bends the curve
    assert history["val_best/top1"] == [(18, max(top1 for _, top1 in history["val/top1"]))]
    assert all(len(values) == 1 for name, values in history.items() if name.startswith("test/"))
    names = {"top1", "top5", "macro_top1", "head_top1", "medium_top1", "tail_top1", "top1_without_others"}
    for split in ("val", "val_best", "test"):
        assert {f"{split}/{name}" for name in names} <= set(history)
    assert (tags["val/count"], tags["test/count"]) == ("60", "80")
    groups = [int(tags[f"test/{group}_count"]) for group in ("head", "medium", "tail")]
    assert sum(groups) == 80
    assert int(tags["test/count_without_others"]) < 80
    assert run.data.metrics["train/images_per_second"] > 1
    assert run.data.metrics["system/process_memory_usage_megabytes"] > 100
    assert 0 < run.data.metrics["system/system_memory_usage_percentage"] <= 100
    assert tags["mlflow.user"] == getpass.getuser()
    assert tags["mlflow.source.name"] == "run.py"
    inputs = {i.tags[0].value: (i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs}
    assert {name for name, _ in inputs.values()} == {"shelf"}
    assert len({digest for _, digest in inputs.values()}) == len(inputs) == 3


def test_artifacts_agree_with_the_metrics(first_run):
    (run,) = first_run.store.runs()
    folder = first_run.store.artifacts(run)
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    tables = {f"{s}/{t}.csv" for s in ("val", "test") for t in ("per_class", "confusion_pairs")}
    tables |= {f"{s}/{t}.parquet" for s in ("val", "test") for t in ("per_class", "confusion_pairs", "predictions")}
    figures = {f"figures/{s}_{f}.png" for s in ("val", "test") for f in ("accuracy_over_size", "confused_pairs")}
    expected = {"config.yaml", "environment.txt", "classes.txt", "checkpoints/best.ckpt", "figures/curves.png"}
    expected |= {"open_set.json", "summary.html"}
    assert files == expected | tables | figures
    predictions = pd.read_parquet(folder / "test" / "predictions.parquet")
    per_class = pd.read_parquet(folder / "test" / "per_class.parquet")
    pairs = pd.read_parquet(folder / "test" / "confusion_pairs.parquet")
    top1 = run.data.metrics["test/top1"]
    assert len(predictions) == pairs["count"].sum() == per_class["images"].sum() == 80
    assert predictions["correct"].mean() == top1
    assert per_class["correct"].sum() / 80 == top1
    assert (folder / "classes.txt").read_text("utf-8").splitlines() == list(per_class["class"])
    assert pairs.loc[pairs["true"] == pairs["predicted"], "count"].sum() / 80 == top1
    probabilities = predictions[[f"p{i}" for i in range(1, 6)]].to_numpy()
    assert (np.diff(probabilities) <= 0).all()
    assert (probabilities.sum(1) <= 1 + 1e-5).all()
    for figure in folder.glob("figures/*.png"):
        image = cv2.imread(str(figure))
        assert image.std() > 5, figure


def test_recorded_configuration_equals_the_request(first_run):
    (run,) = first_run.store.runs()
    config = yaml.safe_load((first_run.store.artifacts(run) / "config.yaml").read_text("utf-8"))
    assert config["epochs"] == 2
    assert config["dataset"]["classes"] == 8
    assert config["model"]["name"] == "resnet18"
    assert "mindspore==" in (first_run.folder / "out" / "environment.txt").read_text()


def test_best_checkpoint_reproduces_the_recorded_predictions(first_run, first_request, graph_mode):
    from mindspore import Tensor, load_checkpoint, load_param_into_net

    from rp2k_lab.dataset.image import letterbox, read_image
    from rp2k_lab.model import WithPreprocessing, create_model

    (run,) = first_run.store.runs()
    folder = first_run.store.artifacts(run)
    dataset = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["dataset"]
    predictions = pd.read_parquet(folder / "test" / "predictions.parquet").head(4)
    classes = list(pd.read_parquet(folder / "test" / "per_class.parquet")["class"])
    network = WithPreprocessing(
        create_model("resnet18", 8, seed=5, width_multiplier=0.25, depth_multiplier=0.5),
        dataset["mean"],
        dataset["std"],
    )
    missing, _ = load_param_into_net(network, load_checkpoint(str(folder / "checkpoints" / "best.ckpt")))
    assert not missing
    network.set_train(False)
    root = first_request[1].root
    images = np.stack([letterbox(read_image(root / path), (32, 32)) for path in predictions["path"]])
    logits = network(Tensor(images)).asnumpy()
    assert [classes[i] for i in logits.argmax(1)] == list(predictions["top1"])


@pytest.mark.soak
def test_averaged_clipped_accumulated_training_saves_the_average(first_run, start):
    """One epoch, so that the best checkpoint is from the last step: the ninth, which no update uses."""
    import mindspore

    options = ("ema_decay=0.8", "clip_norm=1.0", "accumulate_steps=2", "lr_batch_size=32")
    command = start(*TINY, "epochs=1", "task.keep_state=true", *(f"optimizer.{option}" for option in options))
    code, _, err = command.wait()
    assert code == 0, err
    rates = [rate for _, rate in command.store.history(command.store.runs()[0])["train/lr"]]
    assert len(rates) == 9
    assert rates[4] == rates[5] != rates[6]
    assert max(rates) == pytest.approx(0.1)
    checkpoints = command.folder / "out" / "checkpoints"
    last, best = (mindspore.load_checkpoint(str(checkpoints / f"{name}.ckpt")) for name in ("last", "best"))
    plain = mindspore.load_checkpoint(str(first_run.folder / "out" / "checkpoints" / "best.ckpt"))
    assert best.keys() == plain.keys()
    weights = best.keys() - {"step"}
    assert weights | {f"trained.{name}" for name in weights} | {"accumulated_steps"} <= last.keys()
    assert int(best["step"].asnumpy()) == 9
    for name in weights:
        np.testing.assert_array_equal(best[name].asnumpy(), last[name].asnumpy(), err_msg=name)


def test_sweep_makes_distinct_runs_equal_to_single_runs(first_run, start):
    sweep = start(*TINY, "-m", "seed=0,1")
    code, out, err = sweep.wait(600)
    assert code == 0, err
    parent, *jobs = sorted(sweep.store.runs(), key=lambda run: run.data.tags.get("kind") != "sweep")
    runs = {run.data.params["seed"]: run for run in jobs}
    assert sorted(runs) == ["0", "1"]
    assert all(re.fullmatch(r"resnet18_shelf_\S+_[0-9a-f]{4}", run.info.run_name) for run in jobs)
    assert {run.info.status for run in (parent, *jobs)} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in jobs} == {parent.info.run_id}
    table = out.rpartition("seed  val top-1")[2]
    for seed, run in runs.items():
        assert f"{seed}     {100 * run.data.metrics['val_best/top1']:.1f} %" in table
    assert "viewStateShareKey=" in table.splitlines()[-1]
    assert "seed  val top-1" in parent.data.tags["mlflow.note.content"]
    single = first_run.store.history(first_run.store.runs()[0])
    assert sweep.store.history(runs["0"]) == single  # the same command, the same bits
    assert sweep.store.history(runs["1"])["train/loss"] != single["train/loss"]
    assert len({run.data.tags["folder"] for run in runs.values()}) == 2


def test_sweep_continues_after_a_failed_job(start):
    sweep = start(*TINY, "-m", "batch_size=500,64", "epochs=1")
    code, out, err = sweep.wait()
    assert code == 2
    assert "batch_size=500: train has 300 photos" in err
    assert "not finished" in out
    statuses = {run.data.tags.get("kind", "job"): run.info.status for run in sweep.store.runs()}
    assert statuses == {"sweep": "FAILED", "job": "FINISHED"}


@pytest.mark.soak
def test_seresnext50_with_cutout_trains(start):
    command = start(*TINY, "model=seresnext50", "model.depth_multiplier=0.25", "aug=cutout", "epochs=1")
    code, _, err = command.wait(600)
    assert code == 0, err
    (run,) = command.store.runs()
    assert run.info.run_name.startswith("seresnext50_shelf_cutout_")
    assert 0 <= run.data.metrics["test/top1"] <= 1


def test_grocery_store_trains_without_a_test_split(start):
    if not GROCERY_STORE.is_dir():
        pytest.skip("the Grocery Store photos (../shared/data/grocery_store) are not on this machine")
    root = f"dataset.root={GROCERY_STORE}"
    command = start("dataset=grocery_store", root, "size=32", "epochs=1", "model.width_multiplier=0.25")
    code, out, err = command.wait()
    assert code == 0, err
    assert "no test split" in out
    (run,) = command.store.runs()
    assert run.data.tags["val/count"] == "296"
    assert run.data.metrics["val/top1"] > 0
    assert not any(name.startswith("test/") for name in run.data.metrics)


@pytest.mark.parametrize("stop", ["Ctrl-C", "lost connection"])
def test_a_stop_in_mid_epoch_ends_the_run_in_order(start, stop):
    """A lost connection: nobody reads the output any more, and two SIGHUPs come, of the shell and of the kernel."""
    import mindspore

    command = start(*TINY, "epochs=2000")
    for line in command.process.stdout:
        if line.startswith("epoch 1/2000"):
            break
    sent = time.monotonic()
    if stop == "Ctrl-C":
        command.process.send_signal(signal.SIGINT)
        code, _, err = command.wait()
        assert (code, err.split()[-1]) == (130, "stopped")
    else:
        command.process.stdout.close()
        command.process.stderr.close()
        for _ in range(2):
            command.process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
        assert command.process.wait(300) == 75
    assert time.monotonic() - sent < 60  # a step and the closing of the run; all epochs take longer
    (run,) = command.store.runs()
    assert run.info.status == run.data.tags["status"] == "KILLED"
    last = mindspore.load_checkpoint(str(command.folder / "out" / "checkpoints" / "last.ckpt"))
    history = command.store.history(run)
    assert int(last["step"].asnumpy()) == history["train/loss"][-1][0] >= 9
    assert any(name.startswith("moments.") for name in last)


def test_a_run_outlasts_the_reader_of_its_output(start):
    """As with `| head -1`: it trains on, and is complete."""
    command = start(*TINY, "epochs=1")
    assert command.process.stdout.readline()
    command.process.stdout.close()
    assert command.process.wait(300) == 0
    with command.process.stderr as err:
        assert err.read() == "standard output: broken pipe; the command continues without it\n"
    (run,) = command.store.runs()
    assert run.info.status == run.data.tags["status"] == "FINISHED"
    assert "test/top1" in run.data.metrics


def test_second_signal_ends_the_run_at_once(start):
    command = start(*TINY, "epochs=50")
    for line in command.process.stdout:
        if "first step compiles" in line:
            break
    command.process.send_signal(signal.SIGINT)
    command.process.stderr.readline()  # blank
    assert "press Ctrl-C again" in command.process.stderr.readline()
    command.process.send_signal(signal.SIGINT)
    assert command.wait(60)[0] == 130


@pytest.mark.soak
def test_nan_loss_ends_the_run_as_failed(start):
    command = start(*TINY, "optimizer.lr=1e30", "schedule.warmup_epochs=0")
    code, _, err = command.wait()
    assert code == 1
    first, second = err.strip().splitlines()
    assert "at step" in first
    assert "learning rate" in first
    assert "optimizer.lr" in second
    (run,) = command.store.runs()
    assert run.info.status == "FAILED"


def test_truncated_image_is_named(start, tmp_path, write_photo):
    """Its header is intact, so only training notices it."""
    for name, count in (("冰炫", 6), ("红茶 500ml", 6)):
        for i in range(count):
            write_photo(tmp_path / "train" / name / f"{i}.png", 40, 80, seed=i)
    broken = tmp_path / "train" / "冰炫" / "broken.png"
    whole = write_photo(broken, 40, 80).read_bytes()
    broken.write_bytes(whole[:60])
    arguments = ["dataset=rp2k", f"dataset.root={tmp_path}", "batch_size=4", "epochs=2", "size=32"]
    command = start(*arguments, "dataset.val_seed=1")
    code, _, err = command.wait()
    assert code == 3
    assert str(broken) in err
    assert len(err.strip().splitlines()) <= 2
    assert [run.info.status for run in command.store.runs()] in ([], ["FAILED"])
