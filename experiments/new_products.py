"""New products, unknown products and a served model, from nothing: the commands of docs/new-products.md.

    python experiments/new_products.py FOLDER [--docs]

Four products of the embedded photos stay out of the training: two are enrolled with five photos each, two are never
listed.  The script trains, extends, predicts a photo of each kind, exports, serves the export and asks it over HTTP.
FOLDER, new or empty, gets everything, its own store included.  With --docs the commands and what they printed replace
the block in docs/new-products.md.
"""

import argparse
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
from after_training import PROJECT  # also puts the project on sys.path

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.plugins import options_of

NEW, UNLISTED, PHOTOS = 2, 2, 5
DOCS = PROJECT / "docs" / "new-products.md"
MARKS = ("<!-- new-products:begin -->", "<!-- new-products:end -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder}: is not empty\nuse a new folder")
    os.chdir(folder)
    kinds = write_inputs(Path())
    shell = Shell(folder)
    shell.run("dataset=table dataset.table=base.csv hydra.run.dir=base")
    shell.run("task=extend runs=base task.input=new_products hydra.run.dir=extension")
    shell.run(
        "task=evaluate runs=extension dataset=table dataset.table=all.csv task.split=test hydra.run.dir=evaluation"
    )
    shell.run("task=predict runs=extension task.input=photos task.top_k=2 hydra.run.dir=predictions")
    shell.note(answers(pd.read_csv("predictions/predictions.csv", encoding="utf-8-sig"), kinds))
    shell.run("task=export runs=extension task.output=exported task.register=shelf-products hydra.run.dir=export")
    shell.note(ask_server(folder, shell))
    print(f"\neverything is in {folder}")
    if options.docs:
        before, _, rest = DOCS.read_text("utf-8").partition(MARKS[0])
        DOCS.write_text(f"{before}{MARKS[0]}\n\n{shell.text()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", "utf-8")


def write_inputs(folder: Path) -> dict[str, str]:
    """Write the tables of photos, the folder of new products and a photo of each kind; return file name to kind."""
    index = build_index(options_of("dataset")["shelf"].model_validate(defaults_of("dataset", "shelf")))
    table = index.table.assign(
        path=[str(index.root / path) for path in index.table["path"]], label=index.table["class"]
    )
    # Frequent enough to be worth listing, without the class of everything else.
    counts = table[table["split"] == "train"]["label"].value_counts().drop("others")
    chosen = counts.index[4 : 4 + 3 * (NEW + UNLISTED) : 3].tolist()
    new, unlisted = chosen[:NEW], chosen[NEW:]
    columns = ["path", "label", "split"]
    table.loc[~table["label"].isin(chosen), columns].to_csv(folder / "base.csv", index=False)
    # Photos of the left-out products measure: those of test, against the network with the enrolled ones.
    measured = table["label"].isin(chosen) & (table["split"] != "test")
    table.loc[~measured, columns].to_csv(folder / "all.csv", index=False)
    (folder / "photos").mkdir()
    for name in new:
        (folder / "new_products" / name).mkdir(parents=True)
        for path in table.loc[(table["label"] == name) & (table["split"] == "train"), "path"].iloc[:PHOTOS]:
            shutil.copy(path, folder / "new_products" / name)
    kinds = {"known": counts.index[0], "new": new[0], "unlisted": unlisted[0]}
    for kind, name in kinds.items():
        path = table.loc[(table["label"] == name) & (table["split"] == "test"), "path"].iloc[0]
        shutil.copy(path, folder / "photos" / f"{kind}.jpg")
    return {f"{kind}.jpg": name for kind, name in kinds.items()}


class Shell:
    """Runs commands of the project in a folder with a separate store, and keeps what they print."""

    def __init__(self, folder: Path):
        self._folder, self._parts = folder, []
        self.environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}

    def run(self, arguments: str) -> None:
        """Run `python run.py ARGUMENTS` and print it with its output; end the script if it fails."""
        self.note(f"$ python run.py {arguments}")
        command = [
            sys.executable,
            str(PROJECT / "run.py"),
            *arguments.split(),
            f"tracking.uri=sqlite:///{self._folder}/mlflow.db",
        ]
        ended = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        # How much is left stands in a line now and then, where there is no terminal.
        self.note(re.sub(r"^.* \d:\d\d:\d\d left\n", "", ended.stdout, flags=re.MULTILINE).strip())
        if ended.returncode:
            sys.exit(f"\nended with {ended.returncode}")

    def note(self, text: str) -> None:
        """Print a text and keep it."""
        print(f"\n{text}", flush=True)
        self._parts.append(text)

    def text(self) -> str:
        """Return all that was printed as a Markdown block, without what differs from machine to machine."""
        text = "\n\n".join(self._parts).replace(f"{self._folder}/", "").replace(str(self._folder), ".")
        text = text.replace(f"{PROJECT}/", "")
        text = re.sub(r"(resnet18_np-base)_[0-9a-f]{4}", r"\1_3f9c", text)  # a name's random end
        text = re.sub(r"(id )[0-9a-f]{32}", r"\1…", re.sub(r"^next +.*MLFLOW.*\n?", "", text, flags=re.MULTILINE))
        return "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())


def answers(table: pd.DataFrame, kinds: dict[str, str]) -> str:
    """Return the predictions of the three photos as text."""
    lines = []
    for row in table.sort_values("path").itertuples():
        name = Path(row.path).name
        word = "known" if row.known else "unknown"
        lines.append(
            f"{name:13}{word:8} p-value {row.p_value:.3f}   {row.top1} {100 * row.p1:.0f} %   is {kinds[name]}"
        )
    return "\n".join(lines)


def ask_server(folder: Path, shell: Shell) -> str:
    """Serve the exported model, send the three photos in one request, and return the question and the answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    mlflow = Path(sys.executable).with_name("mlflow")
    arguments = f"models serve -m exported/mlflow_model --env-manager local --host 127.0.0.1 --port {port}"
    shell.note(f"$ mlflow {arguments} &")
    with (folder / "server.log").open("w") as log:
        path = os.pathsep.join([str(mlflow.parent), os.environ["PATH"]])
        server = subprocess.Popen(
            [mlflow, *arguments.split()],
            stdout=log,
            stderr=log,
            env=shell.environment | {"PATH": path},
            start_new_session=True,
        )
        try:
            photos = sorted((folder / "photos").iterdir())
            request = {"dataframe_records": [{"image": base64.b64encode(p.read_bytes()).decode()} for p in photos]}
            rows = post(f"http://127.0.0.1:{port}/invocations", request | {"params": {"top_k": 1}})["predictions"]
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)
    lines = [f"$ curl http://127.0.0.1:{port}/invocations …   # {', '.join(p.name for p in photos)}"]
    shown = ("product", "probability", "known", "p_value")
    return "\n".join([*lines, *(json.dumps({key: row[key] for key in shown}, ensure_ascii=False) for row in rows)])


def post(address: str, request: dict, patience: float = 120) -> dict:
    """Return the JSON that a server answers; waits until it has started.

    Args:
        patience: longest time until it has [s].
    """
    content, deadline = json.dumps(request).encode(), time.monotonic() + patience
    while True:
        try:
            asked = urllib.request.Request(address, content, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=60) as answered:
                return json.load(answered)
        except urllib.error.HTTPError as error:
            sys.exit(error.read().decode())
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    main()
