"""Each callback on a test state, and `Dispatch` under a real `Model.train`."""

import errno
import math
import os
import signal
import time
from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from rp2k_lab.core.errors import Interrupted
from rp2k_lab.device.workers import ALONE
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train import callbacks
from rp2k_lab.train.callbacks.nan_guard import TrainingDiverged
from rp2k_lab.train.checkpoint import CheckpointFolder, TrainingPosition
from rp2k_lab.train.loss.cross_entropy import CrossEntropy as CrossEntropyOptions


@pytest.fixture
def state():
    return callbacks.TrainingState(2, 3, 4, np.linspace(1, 0.1, 6, dtype=np.float32))


def advance(state, *callbacks, loss=1.0):
    """Run the hooks of one step, and of the epoch's end if the step is its last."""
    state.step, state.loss = state.step + 1, loss
    for each in callbacks:
        each.step_end(state)
    if state.step % state.steps_per_epoch == 0:
        for each in callbacks:
            each.epoch_end(state)


def test_the_state_counts_epochs_from_one(state):
    epochs = []
    for step in range(7):
        state.step = step
        epochs.append(state.epoch)
    assert epochs == [1, 1, 1, 1, 2, 2, 2]
    assert state.steps == 6


def test_log_metrics_logs_each_step_and_val_after_each_epoch(state):
    tracker = MemoryTracker()
    val = iter([0.5, 0.25])
    evaluate = callbacks.Evaluate(lambda: {"top1": Score(next(val), 8, 0, 1)})
    for step in range(6):
        advance(state, evaluate, callbacks.LogMetrics(tracker), loss=6.0 - step)
    assert tracker.history["train/loss"] == [(i, 7.0 - i) for i in range(1, 7)]
    assert [value for _, value in tracker.history["train/lr"]] == pytest.approx(state.learning_rate)
    assert tracker.history["val/top1"] == [(3, 0.5), (6, 0.25)]
    assert tracker.history["epoch"] == [(3, 1), (6, 2)]
    assert state.best == (0.5, 3)


def test_the_first_of_equal_epochs_stays_the_best(state):
    evaluate = callbacks.Evaluate(lambda: {"top1": Score(0.5, 8, 0, 1)})
    for _ in range(6):
        advance(state, evaluate)
    assert state.best == (0.5, 3)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_nan_guard_reports_the_step_and_the_last_checkpoint(state, tmp_path, loss):
    guard = callbacks.NanGuard(tmp_path / "last.ckpt", lambda state, reason: f"written for {reason}")
    advance(state, guard)
    message = r"at step 2 \(epoch 1\), learning rate 0.82, written for the loss is NaN or infinite; no checkpoint yet"
    with pytest.raises(TrainingDiverged, match=message):
        advance(state, guard, loss=loss)
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(TrainingDiverged, match=r"the last good checkpoint is .*last\.ckpt"):
        advance(state, guard, loss=loss)


class TestSkippedSteps:
    """Steps that a dynamic loss scale skipped."""

    def guard(self, tmp_path, statistics=(0.0, 1.0)):
        parameters = [Parameter(Tensor(np.array(statistics, np.float32)))]
        return callbacks.NanGuard(tmp_path / "last.ckpt", lambda state, reason: reason, parameters)

    def skip(self, state, guard, loss=1.0, loss_scale=512.0):
        state.overflow, state.loss_scale, state.skipped = True, loss_scale, state.skipped + 1
        advance(state, guard, callbacks.LogMetrics(self.tracker), loss=loss)
        state.overflow = False

    @pytest.fixture(autouse=True)
    def _tracker(self):
        self.tracker = MemoryTracker()

    def test_they_are_no_failure_and_leave_their_learning_rate_to_the_next(self, state, tmp_path):
        guard = self.guard(tmp_path)
        self.skip(state, guard, loss=math.nan)  # the last layer overflows: no loss, but good statistics
        for loss in (3.0, 2.0):
            advance(state, guard, callbacks.LogMetrics(self.tracker), loss=loss)
        self.skip(state, guard, loss=4.0)
        assert self.tracker.history["train/loss"] == [(2, 3.0), (3, 2.0), (4, 4.0)]
        first, second = state.learning_rate[:2].tolist()
        assert self.tracker.history["train/lr"] == [(1, first), (2, first), (3, second), (4, second)]
        log_metrics = callbacks.LogMetrics(self.tracker)
        log_metrics.close(state)
        assert self.tracker.tags["skipped_steps"] == "2"

    def test_a_loss_that_is_nan_in_a_step_that_was_not_skipped_is_one(self, state, tmp_path):
        guard = self.guard(tmp_path)
        self.skip(state, guard)
        with pytest.raises(TrainingDiverged, match=r"the loss is NaN or infinite.*\n.*or device\.precision=float32"):
            advance(state, guard, loss=math.nan)

    def test_a_scale_of_1_is_one(self, state, tmp_path):
        self.skip(state, self.guard(tmp_path), loss_scale=2.0)
        with pytest.raises(TrainingDiverged, match="the gradients overflow at a loss scale of 1"):
            self.skip(state, self.guard(tmp_path), loss_scale=1.0)

    def test_broken_statistics_are_one_in_the_step_or_else_in_its_epoch(self, state, tmp_path):
        guard = self.guard(tmp_path, (0.0, math.inf))
        reason = "running statistics of batch norms are NaN or infinite"
        with pytest.raises(TrainingDiverged, match=reason):
            self.skip(state, guard, loss=math.nan)
        advance(state, guard)
        with pytest.raises(TrainingDiverged, match=reason):
            advance(state, guard)


class TestChanceGuard:
    def guard(self, *options, chance=1.0):
        self.written, self.tracker = [], MemoryTracker()
        return callbacks.ChanceGuard(self.tracker, chance, *options, self.record)

    def record(self, state, reason):
        self.written.append(state.step)
        return "written"

    def advance(self, state, guard, loss):
        advance(state, callbacks.LogMetrics(self.tracker), guard, loss=loss)

    def test_it_stops_after_consecutive_epochs_at_chance(self, state):
        guard = self.guard(2, "stop")
        for _ in range(5):
            self.advance(state, guard, 0.995)
        with pytest.raises(TrainingDiverged, match=r"loss=0.995 in epoch 2, at chance \(1\) for 2 epochs.*written\n"):
            self.advance(state, guard, 0.995)
        assert self.written == [6]

    def test_an_epoch_below_chance_resets_the_count(self, state):
        guard = self.guard(2, "stop")
        state.learning_rate = np.ones(9)
        for loss in [1.0] * 3 + [1.0, 1.0, 0.9] + [1.0] * 3:  # the second epoch's mean is 0.967
            self.advance(state, guard, loss)
        assert self.written == []

    @pytest.mark.parametrize("epochs", [None, 3])
    def test_it_does_nothing_in_fewer_epochs(self, state, epochs):
        guard = self.guard(epochs, "stop")
        for _ in range(6):
            self.advance(state, guard, 7.0)
        assert self.written == []

    def test_it_warns_once_a_sequence_of_epochs(self, state, caplog):
        guard = self.guard(1, "warn")
        state.learning_rate = np.ones(12)
        for loss in [1.0] * 6 + [0.1] * 3 + [1.0] * 3:
            self.advance(state, guard, loss)
        assert (len(caplog.records), self.written) == (2, [3, 12])


def cross_entropy(smoothing):
    return CrossEntropyOptions(name="cross_entropy", label_smoothing=smoothing, distillation=0.0, temperature=1.0)


@pytest.mark.parametrize(
    ("sampler", "smoothing", "expected"),
    [
        ("uniform", 0.0, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))),
        ("class_balanced", 0.0, math.log(2)),
        ("uniform", 1 / 3, -(0.6111111 * math.log(0.6111111) + 0.2777778 * math.log(0.2777778) + math.log(1 / 9) / 9)),
    ],
)
def test_chance_is_the_entropy_of_the_mean_target(sampler, smoothing, expected):
    targets = callbacks.mean_target(np.array([0, 0, 0, 1]), 3, sampler)
    assert targets.tolist() == ([0.75, 0.25, 0] if sampler == "uniform" else [0.5, 0.5, 0])
    assert cross_entropy(smoothing).chance(targets) == pytest.approx(expected, rel=1e-6)


def test_no_constant_prediction_is_below_chance():
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(5), [50, 20, 10, 5, 1])
    chance = cross_entropy(0.1).chance(callbacks.mean_target(labels, 5, "uniform"))
    targets = 0.9 * np.eye(5)[labels] + 0.02
    losses = [-(targets * np.log(guess)).sum(1).mean() for guess in rng.dirichlet(np.ones(5), 2000)]
    assert chance <= min(losses) < 1.2 * chance


def test_throughput_is_measured_from_the_first_steps_end(state, monkeypatch):
    clock = iter([10.0, 10.0, 11.0, 12.0, 100.0, 100.0, 104.0, 108.0])
    monkeypatch.setattr("rp2k_lab.train.callbacks.throughput.time", SimpleNamespace(monotonic=lambda: next(clock)))
    tracker = MemoryTracker()
    throughput = callbacks.Throughput(tracker)
    throughput.train_begin(state)
    for _ in range(6):
        advance(state, throughput)
    # Two steps of four images between the first step's end and the last's: 2 s, then 8 s.
    assert tracker.history["train/images_per_second"] == [(3, 4.0), (6, 1.0)]


def test_load_is_sampled_every_ten_seconds_and_at_the_end(state):
    clock, tracker = iter([0.0, 0.0, 0.0, 5.0, 11.0, 11.0]), MemoryTracker()
    sampler = callbacks.SystemMetrics(tracker, lambda: next(clock))
    sampler.train_begin(state)
    for _ in range(3):
        advance(state, sampler)
    sampler.close(state)
    assert {name: [step for step, _ in values] for name, values in tracker.history.items()} == {
        "system/cpu_utilization_percentage": [1, 3, 3],
        "system/system_memory_usage_percentage": [1, 3, 3],
        "system/system_memory_usage_megabytes": [1, 3, 3],
        "system/process_memory_usage_megabytes": [1, 3, 3],
    }
    assert tracker.history["system/process_memory_usage_megabytes"][0][1] > 50


def test_a_signal_stops_after_the_step(state):
    signals = SimpleNamespace(signum=None)
    sync = callbacks.SyncWorkers(ALONE, signals)
    advance(state, sync)
    assert not state.stop
    signals.signum = 15
    advance(state, sync)
    assert state.stop


def test_the_progress_bar_writes_a_line_an_epoch(state, capsys):
    bar = callbacks.ProgressBar()
    evaluate = callbacks.Evaluate(lambda: {"top1": Score(0.5, 8, 0, 1)})
    bar.train_begin(state)
    for _ in range(6):
        advance(state, evaluate, bar)
    bar.close(state)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2  loss 1.000  val top-1 50.0 % of 8  best so far")
    assert second.startswith("epoch 2/2")
    assert "best" not in second


def test_the_remaining_time_includes_evaluations(state, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("rp2k_lab.train.callbacks.progress.time", clock)
    bar = callbacks.ProgressBar(val_images=12, closing_images=36)
    bar.train_begin(state)
    for step, seconds in enumerate([10, 12, 14], 1):  # the first step compiles
        state.step, now[0] = step, seconds
        bar.step_end(state)
    # Steps of 2 s; predicting an image takes a third of training it: 2 s each epoch, 6 s at the end.
    assert bar.seconds_left(state) == pytest.approx(3 * 2 + 2 * 2 + 6)
    now[0] = 20
    bar.epoch_end(state)  # after an evaluation of 6 s
    assert bar.seconds_left(state) == pytest.approx(3 * 2 + 6 + 18)
    state.step, now[0] = 4, 22
    bar.step_end(state)
    assert bar.seconds_left(state) == pytest.approx(2 * 2 + 6 + 18)
    bar.close(state)


class Recorder(callbacks.Callback):
    def __init__(self, fail_at=0, stop_at=0, interrupted_at=0):
        self.calls, self.fail_at, self.stop_at, self.interrupted_at = [], fail_at, stop_at, interrupted_at

    def train_begin(self, state):
        self.calls.append("begin")

    def step_end(self, state):
        self.calls.append(state.step)
        assert math.isfinite(state.loss)
        if state.step == self.fail_at:
            raise ValueError("a callback failed")
        state.stop = state.step == self.stop_at

    def epoch_end(self, state):
        self.calls.append(f"epoch {state.epoch}")
        if state.step == self.interrupted_at:
            raise Interrupted(signal.SIGTERM)

    def interrupted(self, state):
        self.calls.append("interrupted")

    def close(self, state):
        self.calls.append("close")


@pytest.fixture
def train(graph_mode):
    """Return train(recorder, step=0, epoch_open=False): trains a dense layer for two epochs of three steps."""
    import mindspore
    from mindspore import nn

    from tests.helpers.losses import CrossEntropy

    def run(recorder, step=0, epoch_open=False):
        net = nn.Dense(5, 3)
        model = mindspore.Model(net, CrossEntropy(0.0), nn.Momentum(net.trainable_params(), 0.1, 0.9))
        rows = [(np.ones((4, 5), np.float32) * i, np.zeros(4, np.int32)) for i in range(3)]
        dataset = mindspore.dataset.GeneratorDataset(rows, ["x", "y"], shuffle=False)
        state = callbacks.TrainingState(2, 3, 4, np.full(6, 0.1, np.float32), step=step, epoch_open=epoch_open)
        dispatch = callbacks.Dispatch(state, [recorder])
        dispatch.run(lambda epochs: model.train(epochs, dataset, [dispatch], dataset_sink_mode=False))
        return dispatch

    return run


def test_dispatch_calls_the_hooks_in_order(train):
    recorder = Recorder()
    dispatch = train(recorder)
    assert recorder.calls == ["begin", 1, 2, 3, "epoch 1", 4, 5, 6, "epoch 2", "close"]
    assert set(dispatch.hook_seconds) == {"Recorder"}


def test_dispatch_reads_the_outputs_of_a_dynamic_loss_scale():
    state = callbacks.TrainingState(2, 3, 4, np.ones(6, np.float32))
    dispatch = callbacks.Dispatch(state, [])
    for outputs, expected in (
        ((2.5, True, 32768.0, [4]), (2.5, True, 32768.0, 4)),
        ((1.5, False, 32768.0, [4]), (1.5, False, 32768.0, 4)),
    ):
        params = SimpleNamespace(cur_step_num=1, net_outputs=tuple(map(Tensor, outputs)))
        dispatch.on_train_step_end(SimpleNamespace(original_args=lambda params=params: params))
        assert (state.loss, state.overflow, state.loss_scale, state.skipped) == expected


def test_dispatch_counts_from_the_resumed_step(train):
    recorder = Recorder()
    train(recorder, step=3)
    assert recorder.calls == ["begin", 4, 5, 6, "epoch 2", "close"]


def test_an_interrupted_evaluation_comes_first(train):
    recorder = Recorder()
    train(recorder, step=3, epoch_open=True)
    assert recorder.calls == ["begin", "epoch 1", 4, 5, 6, "epoch 2", "close"]


def test_a_run_without_remaining_steps_only_evaluates(train):
    recorder = Recorder()
    train(recorder, step=6, epoch_open=True)
    assert recorder.calls == ["begin", "epoch 2", "close"]


def test_a_signal_in_the_evaluation_leaves_the_epoch_open(train):
    recorder = Recorder(interrupted_at=3)
    with pytest.raises(Interrupted):
        train(recorder)
    assert recorder.calls == ["begin", 1, 2, 3, "epoch 1", "interrupted", "close"]


def test_a_stop_ends_the_training_after_the_step(train):
    recorder = Recorder(stop_at=2)
    train(recorder)
    assert recorder.calls == ["begin", 1, 2, "close"]


def test_callbacks_are_closed_after_an_exception(train):
    recorder = Recorder(fail_at=4)
    with pytest.raises(ValueError, match="a callback failed"):
        train(recorder)
    assert recorder.calls == ["begin", 1, 2, 3, "epoch 1", 4, "close"]


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Return saved(state, tracker, **intervals): (a SaveCheckpoints, the positions that it saves, its clock)."""
    positions, clock = [], SimpleNamespace(now=0.0)
    monkeypatch.setattr("rp2k_lab.train.callbacks.checkpoint.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("rp2k_lab.train.callbacks.checkpoint.ParameterCopy", lambda net: net)
    monkeypatch.setattr(CheckpointFolder, "save", lambda self, net, position: positions.append(position))
    monkeypatch.setattr(CheckpointFolder, "save_best", lambda self, net, step: positions.append(f"best {step}"))

    def saved(state, tracker, **intervals):
        save = callbacks.SaveCheckpoints(CheckpointFolder(tmp_path, 2), None, None, tracker, **intervals)
        save.train_begin(state)
        return save, positions, clock

    return saved


def test_checkpoints_every_n_epochs_and_after_the_last(state, saved):
    tracker = MemoryTracker()
    state.epochs = 5
    state.learning_rate = np.full(15, 0.1, np.float32)
    save, positions, _ = saved(state, tracker, every_epochs=2)
    val = iter([0.5, 0.25, 0.75, 0.5, 0.5])
    evaluate = callbacks.Evaluate(lambda: {"top1": Score(next(val), 8, 0, 1)})
    for _ in range(15):
        advance(state, evaluate, callbacks.LogMetrics(tracker), save)
    bests = [position for position in positions if isinstance(position, str)]
    assert bests == ["best 3", "best 9"]
    first, second, third = (position for position in positions if isinstance(position, TrainingPosition))
    assert positions.index("best 9") < positions.index(second)  # files are saved before the position that names them
    assert first == TrainingPosition(
        6, 1.0, False, (0.5, 3), {"train/loss": 6, "train/lr": 6, "val/top1": 2, "epoch": 2}
    )
    assert (second.step, second.best) == (12, (0.75, 9))
    assert third.step == 15


def test_checkpoints_every_n_minutes_but_not_between_a_step_and_its_evaluation(state, saved):
    save, positions, clock = saved(state, MemoryTracker(), every_epochs=9, every_minutes=2)
    for seconds in (100, 119, 120, 120, 239, 239):
        clock.now = seconds
        advance(state, save)
    assert [position.step for position in positions] == [3, 6]  # due at the last step: saved after the epoch's end
    state.step, state.steps_per_epoch, clock.now = 4, 100, 359
    save.step_end(state)
    save.close(state)
    assert [position.step for position in positions] == [3, 6, 4]


@pytest.fixture
def slow_disk(monkeypatch):
    """Let each flush of a file last 0.3 s."""
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (time.sleep(0.3), flush(descriptor)))


def weights(file):
    return mindspore.load_checkpoint(str(file))["weight"].asnumpy().tolist()


@pytest.mark.usefixtures("slow_disk")
def test_the_training_does_not_wait_for_a_slow_disk(state, tmp_path):
    net = nn.Dense(1, 1, weight_init="zeros", has_bias=False)
    folder, tracker = CheckpointFolder(tmp_path, 9), MemoryTracker()
    save = callbacks.SaveCheckpoints(folder, net, net, tracker)
    save.train_begin(state)
    state.step, state.best = 3, (0.5, 3)
    started = time.monotonic()
    save.epoch_end(state)
    assert time.monotonic() - started < 0.3
    assert folder.newest() is None
    net.weight.set_data(Tensor([[1.0]]))  # the training continues
    state.step = 6
    save.epoch_end(state)  # the last: waits for all files
    assert time.monotonic() - started > 0.9
    assert [weights(file) for file in (folder.file(3), folder.best, folder.file(6))] == [[[0.0]], [[0.0]], [[1.0]]]
    assert folder.newest().step == 6
    save.close(state)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_the_training_at_the_next_checkpoint(state, tmp_path, monkeypatch, caplog):
    net = nn.Dense(1, 1)
    save = callbacks.SaveCheckpoints(CheckpointFolder(tmp_path, 9), net, net, MemoryTracker())
    save.train_begin(state)
    monkeypatch.setattr(os, "fsync", full_disk)
    state.step, state.best = 3, (0.5, 3)
    save.epoch_end(state)
    state.step = 6
    with pytest.raises(OSError, match="No space left"):
        save.epoch_end(state)
    save.close(state)
    assert caplog.messages == []  # said once
    state.epochs, state.stop = 9, False
    save = callbacks.SaveCheckpoints(CheckpointFolder(tmp_path, 9), net, net, MemoryTracker())
    save.train_begin(state)
    save.epoch_end(state)
    save.close(state)  # after an exception of another callback
    assert caplog.messages == [
        f"the last checkpoint was not saved: [Errno 28] No space left on device: '{tmp_path}/step-00000006.ckpt'"
    ]


def test_checkpoints_when_stopped_and_their_time(state, saved, caplog):
    tracker = MemoryTracker()
    save, positions, clock = saved(state, tracker)
    state.stop = True
    advance(state, save)  # which waits for the file, since the training ends
    assert [(position.step, position.epoch_open) for position in positions] == [(1, False)]
    state.step = 3
    tracker.flush = lambda: setattr(clock, "now", 1.0)
    save.interrupted(state)
    assert [(position.step, position.epoch_open) for position in positions] == [(1, False), (3, True)]
    clock.now = 4.0
    caplog.set_level("INFO")
    save.close(state)
    assert tracker.tags == {"checkpoint_time_share": "0.2500"}
    assert caplog.messages == ["training waited 1.0 s for 2 checkpoints, 25.00 % of its time"]
