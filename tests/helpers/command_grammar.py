"""Random command lines of `run.py`: valid and invalid keys, values, flags, sweeps, quotes and characters.

Every one ends before it trains: it shows its configuration, or its task needs an earlier run that does not exist.
"""

from random import Random

from rp2k_lab.config.choices import choices, flatten, groups, root_defaults

_ODD_TEXTS = (
    "", "null", "true", "-1", "0", "1e400", "nan", "-inf", "0x10", "1_000", "9" * 40, "9" * 5000, "a" * 20000, "伊利",
    "ü", "\x1b[2J", "a\x1b[31mb", "a\nb", "a\tb", "\r", "\u202eabc", "\udcff", "a'b", 'a"b', "a\\b", "\\", "a b",
    "[1,2", "{a:", "[]", "{}", "[a,[b]]", "{a:1,b:{c:2}}", "a=b", "a:b", "~", "~/x", "/", "../..", "%2F", "$HOME",
    "${", "${seed}", "${no.key}", "${oc.env:HOME}", "${hydra:job.num}", "${now:%Y}", "${project:x}", "${a:${b:${c}}}",
    "`ls`", "$(ls)", "http://u:p w@h:1", "http://127.0.0.1:9/#/x", "sqlite:///a'b?c#d", "ftp://h", "localhost:5000",
    "<b>", "=cmd()", "@", "last", "last:2", "last:0", "best", "x.ckpt", "[last,best]", "!!python/object:x", "*a",
    "&a", "|", "#", "-", "--",
)  # fmt: skip
_KEYS_OF_HYDRA = (
    "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.sweeper.params", "hydra.sweeper.n_trials",
    "hydra.sweeper.max_batch_size", "hydra.launcher.n_jobs", "hydra.launcher.setup", "hydra.job.chdir", "hydra.mode",
    "hydra.searchpath", "hydra.output_subdir", "hydra.callbacks.x", "hydra/sweeper", "hydra/launcher", "hydra/env",
    "hydra",
)  # fmt: skip
_ODD_KEYS = ("", " ", "a..b", ".", "/", "seed ", "$x", "x@y", "model@z", "伊", "a\nb", "\x1b[1m", "_target_", "a" * 300)
_FLAGS = (
    "-m", "--multirun", "-h", "--version", "--hydra-help", "--resolve", "-sc", "-p", "-c", "-i", "--cfg=all",
    "--info=x", "--package=aug", "--no-such", "-", "--", "--run", "-cd", "--config-dir=/tmp", "--\x1b[2J",
)  # fmt: skip


def random_commands(seed: int, number: int) -> list[list[str]]:
    """Return a number of command lines, the same ones for the same seed."""
    random, keys = Random(seed), [*root_defaults(), *(key for key, _ in flatten(root_defaults()))]
    return [_command(random, keys) for _ in range(number)]


def _command(random: Random, keys: list[str]) -> list[str]:
    overrides = [_override(random, keys) for _ in range(random.choice((1, 1, 2, 3)))]
    flags = random.choices(_FLAGS, k=random.choice((0, 0, 0, 1, 2)))
    end = random.choice((["--cfg", "job"], ["task=evaluate"], ["task=evaluate"], ["-m", "task=evaluate"]))
    words = [*overrides, *flags]
    random.shuffle(words)
    return [*words, *end]


def _override(random: Random, keys: list[str]) -> str:
    kind = random.random()
    if kind < 0.25:
        group = random.choice([name for name in groups() if name != "task"])
        names = [*choices(group), "no_such", "_common", "../x", "*"]
        key, value = group, ",".join(random.sample(names, random.choice((1, 1, 1, 2))))
    elif kind < 0.35:
        key, value = random.choice(_KEYS_OF_HYDRA), random.choice((*_ODD_TEXTS, "optuna", "jobs", "basic", "joblib"))
    else:
        typo = random.random() < 0.15
        key = random.choice(_ODD_KEYS if random.random() < 0.1 else keys) + ("x" if typo else "")
        value = _value(random)
    if key == "task":  # one that trains
        key = "task.x"
    plus = random.choice(("", "", "", "", "", "", "+", "++", "~"))
    return f"{plus}{key}{random.choice(('=',) * 15 + ('', '==', ' ='))}{value}"


def _value(random: Random) -> str:
    text = random.choice((*_ODD_TEXTS, *map(str, (1, 2, 0.5, 32, "[32,64]", "1,2", "choice(1,2)", "range(1,3)"))))
    forms = (
        text, text, text, f"'{text}'", f'"{text}"', f"{text},{text}", f"[{text}]", f"choice({text},1)",
    f"glob({text})", f"range(1,{text})", f"interval({text},2)", f"tag(log,interval(1,{text}))", f"shuffle({text},1)",
    f"int({text})",
    )  # fmt: skip
    return random.choice(forms)
