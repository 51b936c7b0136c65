"""What a request may set: choices, data, and the listed keys of Hydra; the rest never reaches Hydra."""

import pytest

from rp2k_lab.config.choices import CONF
from rp2k_lab.config.overrides import check_overrides, check_syntax, hydra_keys
from rp2k_lab.core.errors import RequestError


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("hydra.sweeper.params=${aug}", "there is no such key"),
        ("+hydra.sweeper.params={hydra.job.env_set.PATH:/tmp}", "a request cannot set this key"),
        ("++hydra.sweeper.params=${aug}", "a request cannot set this key"),
        ("hydra.launcher.setup=[ls]", "there is no such key"),
        ("hydra.launcher.additional_parameters={}", "there is no such key"),
        ("hydra.launcher={n_jobs:2}", "a request cannot set this key"),
        ("hydra.sweep={dir:x}", "a request cannot set this key"),
        ("hydra={}", "a request cannot set this key"),
        ("hydra.job.env_set={PATH:x}", "a request cannot set this key"),
        ("hydra.job.chdir=true", "a request cannot set this key"),
        ("hydra/env=x", "a request cannot set this group"),
        ("hydra/sweeper/x=y", "a request cannot set this group"),
        (" hydra.job.chdir=true", "there is no such key"),
        ("/hydra/launcher=basic", "there is no such key"),
        ("$hydra.job=x", "there is no such key"),
        ("hydra.run.dir@x=y", "there is no such key"),
        ("+++seed=1", "there is no such key"),
        ("seed\n=1", "there is no such key"),
        ("+hydra.run.dir=x", "the key already exists"),
        ("model=glob(*)", "there is no such choice"),
        ("model=${aug}", "there is no such choice"),
    ],
)
def test_no_other_key_of_hydra_passes(override, reason):
    with pytest.raises(RequestError) as error:
        check_overrides([override])
    assert reason in str(error.value)
    assert str(error.value).startswith(override.split("=")[0].split("(")[0])


def test_listed_keys_of_hydra_pass():
    check_overrides([f"{key}=1" for key in hydra_keys()])
    check_overrides(["hydra/sweeper=optuna", "hydra/launcher=basic", "seed=1,2", "aug/erase=cutout", "+a.b=c"])
    text = "".join(file.read_text("utf-8") for file in (CONF / "hydra" / "sweeper").glob("*.yaml"))
    assert all(f"\n{key.rpartition('.')[2]}:" in text for key in hydra_keys() if key.startswith("hydra.sweeper."))


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("joblib", ", or install it: pip install hydra-joblib-launcher"),
        ("nonsense", ""),
        ("", ""),
        ("basic,basic", ""),
    ],
)
def test_unknown_launcher_is_refused_with_the_installed_ones(name, install):
    with pytest.raises(RequestError) as error:
        check_overrides([f"hydra/launcher={name}"])
    assert str(error.value).split("\n")[1] == f"use hydra/launcher=basic or submitit_local or submitit_slurm{install}"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed=" + "9" * 5000, "cannot be parsed (Exceeds the limit"),
        ("seed=range(1,2,0)", "cannot be parsed"),
        ("seed=range(1,1e9)", "more than 100,000 values"),
    ],
    ids=["long integer", "no step", "endless range"],
)
def test_values_that_hydra_cannot_take_are_refused(override, reason):
    with pytest.raises(RequestError) as error:
        check_syntax([override])
    assert reason in str(error.value)
