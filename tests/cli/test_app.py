"""Wrong requests: the exit code, at most two lines, no files left."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rp2k_lab import PROJECT
from tests.helpers.run_commands import run_all

pytestmark = pytest.mark.slow

REFUSED = [
    (["model=resnet19"], 2, ["model=resnet19", "resnet18"]),
    (["aug=cutut"], 2, ["aug=cutut", "cutout"]),
    (["optimizer.lrr=1"], 2, ["optimizer.lrr", "optimizer.lr"]),
    (["learning_rate=1"], 2, ["learning_rate"]),
    (["+optimizer.nesterov=true"], 2, ["optimizer.nesterov"]),
    (["+model=resnet18"], 2, ["model"]),
    (["optimizer.lr=fast"], 2, ["optimizer.lr=fast", "number"]),
    (["optimizer.lr=0"], 2, ["optimizer.lr=0", "greater"]),
    (["epochs=2.5"], 2, ["epochs=2.5", "integer"]),
    (["batch_size=0"], 2, ["batch_size=0"]),
    (["size=7"], 2, ["size=7", "32"]),
    (["size=[64,64,64]"], 2, ["size="]),
    (["resize=crop"], 2, ["resize=crop", "letterbox"]),
    (["crop_ratio=1.2"], 2, ["crop_ratio=1.2"]),
    (["aug.crop=[0.9,0.1]"], 2, ["aug.crop"]),
    (["seed=-1"], 2, ["seed=-1"]),
    (["dataset=rp2k"], 2, ["dataset.root", "rp2k"]),
    (["dataset=rp2k", "dataset.root=/no/such/folder"], 2, ["dataset.root=/no/such/folder"]),
    (["dataset.classes=1"], 2, ["dataset.classes=1"]),
    (["dataset.train_images=30"], 2, ["train_images"]),
    (["device=gpu"], 2, ["device=gpu", "device=cpu"]),
    (["device=ascend"], 2, ["device=ascend"]),
    (["device.parallel=data"], 2, ["device.parallel=data", "msrun --worker_num"]),
    (["-m", "device.parallel=none,data", "hydra/sweeper=optuna"], 2, ["device.parallel=data", "-m"]),
    (["device.sink_steps=3"], 2, ["device.sink_steps=3", "CPU"]),
    (["model.final_width=0"], 2, ["model.final_width=0"]),
    (["recipe=giantpandas"], 2, ["recipe=giantpandas", "giantpanda, grocery_store, grozi120, none"]),
    (["+recipe=giantpanda"], 2, ["leave out the +"]),
    (["model.name=vgg"], 2, ["model.name=vgg"]),
    (["aug.length=8"], 2, ["aug.length", "use aug.erase.length=…"]),
    (["aug.erase.length=8"], 2, ["aug.erase.length", "aug/erase=cutout"]),
    (["aug=randaugment", "aug.p=1"], 2, ["aug.p", "use aug.policy.p=…"]),
    (["aug/erase=cutot"], 2, ["aug/erase=cutot", "cutout"]),
    (["task.output=x"], 2, ["task.output", "task=export"]),
    (["dataset.root=伊利"], 2, ["dataset.root=伊利", "'other text'"]),
    (["runs=earlier"], 2, ["runs=earlier", "task=train"]),
    (["task=export"], 2, ["runs=null", "task=export", "checkpoint"]),
    (["task=export", "runs=earlier"], 2, ["there is no such store"]),
    (["task=export", "runs=a.ckpt"], 2, ["runs=a.ckpt"]),
    (["task=report"], 2, ["ablation=none", "runs=[a,b]"]),
    (["task=evaluate", "task.split=all"], 2, ["task.split=all", "val"]),
    (["task=ensemble", "runs=a"], 2, ["runs=a", "task=ensemble", "2 or more"]),
    (["epochs"], 2, ["epochs", "key=value"]),
    (["epochs="], 2, ["epochs="]),
    (["size=[64,"], 2, ["size=[64,"]),
    (["--no-such-flag"], 2, ["--no-such-flag"]),
    (["--cfg", "nothing"], 2, ["--cfg", "'nothing'", "--help"]),
    (["scale=overnight"], 2, ["scale=overnight", "laptop, paper, shelf, smoke"]),
    (["task=evaluate", "runs=last:0"], 2, ["runs=last:0", "from 1"]),
    (["-m", "optimizer.lr=interval(0.1,0.2)"], 2, ["optimizer.lr=interval(0.1,0.2)", "hydra/sweeper=optuna"]),
    (["-m", "epochs=1,0"], 2, ["epochs=0", "greater"]),
    (["-m", "seed=1,2", "model=resnet18,resnet19"], 2, ["model=resnet19"]),
    (["ablation=resize"], 2, ["ablation=resize", "-m"]),
    (["-m", "ablation=resize", "aug=none,cutout"], 2, ["aug=none,cutout", "its own levels"]),
]


def run_py(folder, *arguments):
    overrides = [f"tracking.uri=sqlite:///{folder}/store/mlflow.db", f"hydra.run.dir={folder}/out"]
    command = [sys.executable, str(PROJECT / "run.py"), *arguments, *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Return (folder, results of REFUSED), each command in a separate process with its imports done."""
    folder = tmp_path_factory.mktemp("refused")
    options = [
        [f"tracking.uri=sqlite:///{folder}/store/mlflow.db", f"hydra.run.dir={folder}/out/{i}"] for i in range(99)
    ]
    commands = [[*arguments, *more] for (arguments, *_), more in zip(REFUSED, options, strict=False)]
    return folder, run_all(commands, folder)


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=lambda number: str(REFUSED[number][0])[:40])
def test_wrong_request_prints_at_most_two_lines_and_leaves_no_files(refused, number):
    folder, results = refused
    (code, message), (_, exit_code, parts) = results[number], REFUSED[number]
    assert code == exit_code, message
    assert 1 <= len(message.strip().splitlines()) <= 2, message
    assert "Traceback" not in message
    for part in parts:
        assert part in message
    assert not (folder / "store").exists()
    assert not any((folder / "out" / str(number)).rglob("*"))


@pytest.mark.parametrize("arguments", [["model=resnet19"], ["epochs=0"], ["device.parallel=none"]])
@pytest.mark.parametrize("process", [{"MS_ROLE": "MS_WORKER", "MS_NODE_ID": "1"}, {"MS_ROLE": "MS_SCHED"}])
def test_only_rank_zero_reports_a_wrong_request(tmp_path, monkeypatch, arguments, process):
    for name, value in process.items():
        monkeypatch.setenv(name, value)
    done = run_py(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("MS_NODE_ID", "0")
    first = run_py(tmp_path, *arguments)
    assert (first.returncode, first.stdout) == (2, "")
    assert arguments[0] in first.stderr


def test_empty_class_folder_is_unusable_data(tmp_path, write_photo):
    root = tmp_path / "data"
    for i in range(4):
        write_photo(root / "train" / "满" / f"{i}.jpg", seed=i)
    (root / "train" / "空").mkdir()
    done = run_py(tmp_path, "dataset=rp2k", f"dataset.root={root}", "batch_size=1")
    assert done.returncode == 3
    assert str(root / "train" / "空") in done.stderr
    assert not (tmp_path / "store").exists()


def test_dataset_without_val_is_unusable_data(tmp_path, write_photo):
    root = tmp_path / "data"
    for name in ("甲", "乙"):
        write_photo(root / "train" / name / "1.jpg")
    done = run_py(tmp_path, "dataset=rp2k", f"dataset.root={root}", "batch_size=1")
    assert done.returncode == 3
    assert "no photo for val" in done.stderr


def test_debug_prints_the_traceback(tmp_path):
    assert "Traceback" in run_py(tmp_path, "epochs=0", "debug=true").stderr


def test_invalid_store_is_a_wrong_request(tmp_path):
    command = [sys.executable, str(PROJECT / "run.py"), "tracking.uri=http://user:secret@127.0.0.1:port"]
    tiny = ["dataset.classes=4", "dataset.train_images=40", "dataset.val_images=8", "dataset.test_images=16"]
    tiny.append("dataset.min_train_images=5")
    done = subprocess.run([*command, *tiny, f"hydra.run.dir={tmp_path}/out"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "tracking.uri=http://127.0.0.1:port" in done.stderr
    assert "secret" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.alone
@pytest.mark.parametrize("arguments", [["--help"], ["model=resnet19"], ["optimizer.lr=-1"]])
def test_help_and_wrong_options_take_less_than_a_second(tmp_path, arguments):
    """The fastest of five attempts, since the machine may be busy."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        run_py(tmp_path, *arguments)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0


@pytest.mark.parametrize("flag", ["--help", "--info"])
def test_a_closed_pipe_ends_the_command_without_a_message(flag):
    """As `run.py --help | head`: SIGPIPE ends it, and the shell shows 141."""
    with subprocess.Popen([sys.executable, str(PROJECT / "run.py"), flag], stdout=-1, stderr=-1, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(300) == -signal.SIGPIPE


def test_help_lists_choices_and_keys(tmp_path):
    out = run_py(tmp_path, "--help").stdout
    for word in (
        "python run.py -m aug=none,cutout",
        "resnet50_bam_wider, resnet50_cbam",
        "batch_size=32 ",
        "integer, ≥ 1\n      images per step, in each process",
        "loss.label_smoothing=0.1 ",
        "help=optimizer",
    ):
        assert word in out


def test_cfg_prints_the_configuration_without_running(tmp_path):
    done = run_py(tmp_path, "--cfg", "job", "aug=cutout")
    assert done.returncode == 0
    assert "length: 14" in done.stdout
    assert not (tmp_path / "store").exists()


def test_importing_the_package_sets_onednn_unless_the_user_did():
    show = [sys.executable, "-c", "import os, rp2k_lab; print(os.environ['ONEDNN_MAX_CPU_ISA'])"]
    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"} | {"RP2K_LAB_NATIVE": "0"}
    options = {"cwd": PROJECT, "capture_output": True, "text": True}
    assert subprocess.run(show, env=environment, **options).stdout.strip() == "AVX2"
    environment["ONEDNN_MAX_CPU_ISA"] = "DEFAULT"
    assert subprocess.run(show, env=environment, **options).stdout.strip() == "DEFAULT"
