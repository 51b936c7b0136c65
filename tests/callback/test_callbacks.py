"""Each callback on a state made by hand, and `Dispatch` under a real `Model.train`."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from rp2k_lab import callback
from rp2k_lab.callback.nan_guard import TrainingDiverged
from rp2k_lab.metrics import Score
from rp2k_lab.parallel import ALONE
from rp2k_lab.tracker import MemoryTracker


@pytest.fixture
def state():
    return callback.TrainingState(2, 3, 4, np.linspace(1, 0.1, 6, dtype=np.float32))


def advance(state, *callbacks, loss=1.0):
    """One step, and the end of the epoch where it is one."""
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


def test_track_logs_each_step_and_val_after_each_epoch(state):
    tracker = MemoryTracker()
    val = iter([0.5, 0.25])
    evaluate = callback.Evaluate(lambda: {"top1": Score(next(val), 8, 0, 1)})
    for step in range(6):
        advance(state, evaluate, callback.Track(tracker), loss=6.0 - step)
    assert tracker.history["train/loss"] == [(i, 7.0 - i) for i in range(1, 7)]
    assert [value for _, value in tracker.history["train/lr"]] == pytest.approx(state.learning_rate)
    assert tracker.history["val/top1"] == [(3, 0.5), (6, 0.25)]
    assert tracker.history["epoch"] == [(3, 1), (6, 2)]
    assert state.best == (0.5, 3)


def test_the_first_of_equal_epochs_stays_the_best(state):
    evaluate = callback.Evaluate(lambda: {"top1": Score(0.5, 8, 0, 1)})
    for _ in range(6):
        advance(state, evaluate)
    assert state.best == (0.5, 3)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_nan_guard_says_where_and_what_is_left(state, tmp_path, loss):
    guard = callback.NanGuard(tmp_path / "last.ckpt", lambda state, what: f"written for {what}")
    advance(state, guard)
    words = r"at step 2 \(epoch 1\), learning rate 0.82, written for the loss is no number; no checkpoint yet"
    with pytest.raises(TrainingDiverged, match=words):
        advance(state, guard, loss=loss)
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(TrainingDiverged, match=r"the last good checkpoint is .*last\.ckpt"):
        advance(state, guard, loss=loss)


class TestStuckGuard:
    def guard(self, *options, chance=1.0):
        self.written = []
        return callback.StuckGuard(chance, *options, lambda state, what: self.written.append(state.step) or "written")

    def test_it_stops_after_so_many_epochs_on_end(self, state):
        guard = self.guard(2, "stop")
        for _ in range(5):
            advance(state, guard, loss=0.995)
        with pytest.raises(TrainingDiverged, match=r"loss=0.995 in epoch 2, at chance \(1\) for 2 epochs.*written\n"):
            advance(state, guard, loss=0.995)
        assert self.written == [6]

    def test_an_epoch_below_chance_begins_the_count_anew(self, state):
        guard = self.guard(2, "stop")
        for loss in [1.0] * 3 + [1.0, 1.0, 0.9] + [1.0] * 3:  # the second epoch's mean is 0.967
            advance(state, guard, loss=loss)
        assert self.written == []

    @pytest.mark.parametrize("epochs", [None, 3])
    def test_it_does_nothing_before(self, state, epochs):
        guard = self.guard(epochs, "stop")
        for _ in range(6):
            advance(state, guard, loss=7.0)
        assert self.written == []

    def test_it_warns_once(self, state, caplog):
        guard = self.guard(1, "warn")
        for loss in [1.0] * 3 + [0.1] * 3 + [1.0] * 3:
            state.learning_rate = np.ones(9)
            advance(state, guard, loss=loss)
        assert (len(caplog.records), self.written) == (1, [3])


@pytest.mark.parametrize(
    ("sampler", "smoothing", "expected"),
    [
        ("uniform", 0.0, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))),
        ("class_balanced", 0.0, math.log(2)),
        ("uniform", 1 / 3, -(0.6111111 * math.log(0.6111111) + 0.2777778 * math.log(0.2777778) + math.log(1 / 9) / 9)),
    ],
)
def test_chance_is_the_entropy_of_the_mean_target(sampler, smoothing, expected):
    labels = np.array([0, 0, 0, 1])
    assert callback.chance_loss(labels, 3, sampler, smoothing) == pytest.approx(expected, rel=1e-6)


def test_no_constant_prediction_is_below_chance():
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(5), [50, 20, 10, 5, 1])
    chance = callback.chance_loss(labels, 5, "uniform", 0.1)
    targets = 0.9 * np.eye(5)[labels] + 0.02
    losses = [-(targets * np.log(guess)).sum(1).mean() for guess in rng.dirichlet(np.ones(5), 2000)]
    assert chance <= min(losses) < 1.2 * chance


def test_throughput_is_measured_from_the_first_steps_end(state, monkeypatch):
    clock = iter([10.0, 10.0, 11.0, 12.0, 100.0, 100.0, 104.0, 108.0])
    monkeypatch.setattr("rp2k_lab.callback.throughput.time", SimpleNamespace(monotonic=lambda: next(clock)))
    tracker = MemoryTracker()
    throughput = callback.Throughput(tracker)
    throughput.train_begin(state)
    for _ in range(6):
        advance(state, throughput)
    # Two steps of four images between the first step's end and the last's: 2 s, then 8 s.
    assert tracker.history["train/images_per_second"] == [(3, 4.0), (6, 1.0)]


def test_a_signal_stops_after_the_step(state):
    watch = SimpleNamespace(signum=None)
    stop = callback.Agree(ALONE, watch)
    advance(state, stop)
    assert not state.stop
    watch.signum = 15
    advance(state, stop)
    assert state.stop


def test_the_progress_bar_writes_a_line_an_epoch(state, capsys):
    bar = callback.ProgressBar()
    evaluate = callback.Evaluate(lambda: {"top1": Score(0.5, 8, 0, 1)})
    bar.train_begin(state)
    for _ in range(6):
        advance(state, evaluate, bar)
    bar.close(state)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2  loss 1.000  val top-1 50.0 % of 8  best so far")
    assert second.startswith("epoch 2/2")
    assert "best" not in second


class Recorder(callback.Callback):
    def __init__(self, fail_at=0, stop_at=0):
        self.calls, self.fail_at, self.stop_at = [], fail_at, stop_at

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

    def close(self, state):
        self.calls.append("close")


@pytest.fixture
def train(graph_mode):
    """train(recorder, step=0): a dense layer for two epochs of three steps under a real `Model.train`."""
    import mindspore
    from mindspore import nn

    from rp2k_lab.loss import CrossEntropy

    def run(recorder, step=0):
        net = nn.Dense(5, 3)
        model = mindspore.Model(net, CrossEntropy(0.0), nn.Momentum(net.trainable_params(), 0.1, 0.9))
        rows = [(np.ones((4, 5), np.float32) * i, np.zeros(4, np.int32)) for i in range(3)]
        dataset = mindspore.dataset.GeneratorDataset(rows, ["x", "y"], shuffle=False)
        state = callback.TrainingState(2, 3, 4, np.full(6, 0.1, np.float32), step=step)
        dispatch = callback.Dispatch(state, [recorder])
        model.train(2, dataset, [dispatch], dataset_sink_mode=False, initial_epoch=step // 3)
        return dispatch

    return run


def test_dispatch_calls_the_hooks_in_order(train):
    recorder = Recorder()
    dispatch = train(recorder)
    assert recorder.calls == ["begin", 1, 2, 3, "epoch 1", 4, 5, 6, "epoch 2", "close"]
    assert set(dispatch.hook_seconds) == {"Recorder"}


def test_dispatch_counts_on_where_a_run_resumes(train):
    recorder = Recorder()
    train(recorder, step=3)
    assert recorder.calls == ["begin", 4, 5, 6, "epoch 2", "close"]


def test_a_stop_ends_after_the_step(train):
    recorder = Recorder(stop_at=2)
    train(recorder)
    assert recorder.calls == ["begin", 1, 2, "close"]


def test_callbacks_are_closed_after_an_exception(train):
    recorder = Recorder(fail_at=4)
    with pytest.raises(ValueError, match="a callback failed"):
        train(recorder)
    assert recorder.calls == ["begin", 1, 2, 3, "epoch 1", 4, "close"]


def test_checkpoints_last_each_epoch_best_at_a_new_best_and_last_when_stopped(state, tmp_path):
    import mindspore
    from mindspore import nn

    net = nn.Dense(5, 3)
    save = callback.SaveCheckpoints(tmp_path, net, net)
    val = iter([0.5, 0.25])
    evaluate = callback.Evaluate(lambda: {"top1": Score(next(val), 8, 0, 1)})

    def step_of(name):
        return int(mindspore.load_checkpoint(str(tmp_path / name))["step"].asnumpy())

    for _ in range(3):
        advance(state, evaluate, save)
    assert (step_of("last.ckpt"), step_of("best.ckpt")) == (3, 3)
    for _ in range(3):
        advance(state, evaluate, save)
    assert (step_of("last.ckpt"), step_of("best.ckpt")) == (6, 3)
    state.stop = True
    advance(state, save)
    assert step_of("last.ckpt") == 7
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
