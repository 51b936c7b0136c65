"""Every choice trains in float32 and O2, survives a kill, and ends with the bits of an uninterrupted run."""

import re
import signal

import pytest

from rp2k_lab.config.choices import choices
from tests.helpers.forked_run import start_run
from tests.helpers.plain_photos import plain_photos
from tests.helpers.tiny_runs import KILL_AT_EVENT, TINY, Store

pytestmark = pytest.mark.soak

SMALL = tuple(option for option in TINY if not option.startswith("dataset."))
# Choices of different groups share a run.
COMBINATIONS = {
    "adamw": ("optimizer=adamw", "schedule=one_cycle", "loss=focal", "model.head=cosine", "aug=timm"),
    "lamb": (
        "optimizer=lamb", "optimizer.lr=0.002", "schedule=step", "loss=balanced_softmax", "model.head=arcface",
        "model.head_margin_schedule=linear", "model.head_margin_epochs=1", "aug=trivialaugment",
    ),
    "lion": (
        "optimizer=lion", "schedule=constant", "loss=binary_cross_entropy", "model.head=cosface",
        "aug=randaugment", "aug/erase=random_erasing", "aug/mix=cutmix",
    ),
    "layers": (
        "optimizer=adamw", "optimizer.layer_decay=0.75", "optimizer.backbone_factor=0.5", "optimizer.clip_norm=1.0",
        "optimizer.accumulate_steps=2", "optimizer.ema_decay=0.9", "schedule=linear", "loss=logit_adjusted",
        "model.head=subcenter_arcface", "aug=mixup", "aug/policy=autoaugment",
    ),
    "early_stopping": ("epochs=6", "callback=early_stopping", "callback.early_stopping.patience=1", "aug=cutout"),
    "convnext_tiny": ("model=convnext_tiny", "model.drop_path_rate=0.1", "aug=random_erasing"),
    "vit_small": ("model=vit_small", "model.drop_path_rate=0.1", "aug=cutmix"),
    "vit_small_dinov2": ("model=vit_small_dinov2", "size=42", "model.layer_scale=0.1", "aug=autoaugment"),
    "folder": ("dataset=folder", "dataset.root=photos", "batch_size=4"),
}  # fmt: skip


def test_the_combinations_have_every_choice():
    given = {option for options in COMBINATIONS.values() for option in options} | {
        "optimizer=sgd", "schedule=cosine", "loss=cross_entropy", "aug=none", "aug=randaugment", "callback=none",
    }  # fmt: skip
    for group in ("optimizer", "schedule", "loss", "aug", "callback"):
        assert {f"{group}={choice}" for choice in choices(group)} <= given


@pytest.mark.parametrize("precision", ["float32", "O2"])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_killed_run_ends_like_an_uninterrupted_one(tmp_path, name, precision):
    plain_photos(tmp_path / "photos")
    store, options = Store(tmp_path), COMBINATIONS[name]
    options += (f"device.precision={precision}", f"device.loss_scale={1 if precision == 'float32' else 'dynamic'}")
    options += (f"tracking.uri={store.uri}", "task.checkpoint_minutes=0.000001")

    def run(failure: str, *arguments: str) -> tuple[int, str, str]:
        given = {argument.partition("=")[0] for argument in options}
        small = [option for option in (SMALL if name == "folder" else TINY) if option.partition("=")[0] not in given]
        process = start_run([failure, *small, *options, *arguments], tmp_path, KILL_AT_EVENT)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    assert run("step 12 KILL")[0] == -signal.SIGKILL
    code, out, err = run("- 0 -", "task.resume=auto")
    assert (code, err) == (0, "")
    assert re.search(r"resumes from step (10|11)\n", out), out
    (recorded,) = store.runs()
    code, out, err = run("- 0 -", f"runs={recorded.info.run_id}", "task.verify=true")
    assert (code, err) == (0, "")
    assert f"id {recorded.info.run_id}, bit for bit" in out
