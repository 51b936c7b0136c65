"""The pictures of README and docs/ and the README's closing table: `make pictures`, about ten minutes on two cores.

Everything is made by the commands that the documents name, in the clone's own store: a training, its errors and a small
study; the page of real photos, from Grocery Store in ../shared/data; the report of a committed table.  Pages are
photographed in a real Chromium.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

from rp2k_lab import PROJECT

IMAGES = PROJECT / "docs" / "images"
GROCERY_STORE = PROJECT.parent / "shared" / "data" / "grocery_store"  # where the tests look, too
TABLE = PROJECT / "experiments" / "augmentation" / "shelf"
PORT = 5017
STUDY = ["-m", "hydra/sweeper=optuna", "aug=none,cutout,mixup", "seed=0,1", "epochs=2"]
STUDY += ["hydra.sweeper.n_trials=6", "hydra.sweeper.pruner=none", "hydra.sweeper.study=pictures"]
# MLflow 3.17 opens its assistant beside the first page of a new browser.
HIDE_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
BEGIN, END = "<!-- closing-table:begin -->", "<!-- closing-table:end -->"


def main() -> None:
    training = run_py()
    folder = Path(re.search(r"figures +(.+)/figures", training)[1])
    run_id = re.search(r"^run .*, id (\w+)", training, re.MULTILINE)[1]
    write_closing_table(training)
    shutil.copy(folder / "figures" / "test_confused_pairs.png", IMAGES / "confused_pairs.png")
    photo = draw_strip(folder, IMAGES / "strip.png")
    errors = re.search(r"page +(.+\.html)", run_py("task=errors", f"runs={run_id}", "task.split=test"))[1]
    study = re.search(r"http://\S+?#(\S+)", run_py(*STUDY))[1]
    run = re.search(r"http://\S+?#(\S+)", training)[1]
    photograph_pages(errors, f"{run}/model-metrics?workflowType=machine_learning", study)
    photograph_report()
    photograph_real_photos()
    photograph_demo(run_id, photo, IMAGES / "demo.png")


def photograph_real_photos() -> None:
    """Photograph the data page of Grocery Store; without its photos, keep the picture and say so."""
    if not GROCERY_STORE.is_dir():
        print(
            f"not made: {IMAGES.name}/inspection.png needs the photos of Grocery Store in ../shared/data/grocery_store"
        )
        return
    printed = run_py("task=inspect", "dataset=grocery_store", f"dataset.root={GROCERY_STORE}", "size=96")
    with chromium() as browser:
        page = Path(re.search(r"page +(.+\.html)", printed)[1])
        photograph(browser, page.as_uri(), IMAGES / "inspection.png", (1280, 1500))


def photograph_report() -> None:
    """Photograph the report of a committed table, made from its results."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(TABLE, folder, dirs_exist_ok=True)
        name, scale = TABLE.parts[-2:]
        run_py("task=report", f"ablation={name}", f"scale={scale}", f"task.output={folder}")
        with chromium() as browser:
            photograph(browser, (Path(folder) / "report.html").as_uri(), IMAGES / "report.png", (1280, 860))


def photograph_pages(errors: str, run: str, study: str) -> None:
    """Photograph an HTML file and two places within MLflow."""
    chart = ".js-plotly-plot .main-svg"
    with chromium() as browser, mlflow_page() as address:
        photograph(browser, Path(errors).as_uri(), IMAGES / "errors.png", (1280, 1500))
        photograph(browser, f"{address}/#{run}", IMAGES / "mlflow_run.png", (1500, 900), chart, "train|val/")
        photograph(browser, f"{address}/#{study}", IMAGES / "study.png", (1500, 900), chart)


def run_py(*arguments: str) -> str:
    """Run the command and return what it printed; what it prints is shown, too."""
    command = [sys.executable, str(PROJECT / "run.py"), *arguments]
    print("$", *command[1:], flush=True)
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, flush=True)
    return done.stdout


def write_closing_table(printed: str) -> None:
    """Replace the table between the markers in README.md by the one that a run has printed."""
    table = re.search(r"^ +val +test\n-+\n(?:.+\n)+", printed, re.MULTILINE)[0]
    readme = PROJECT / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    block = "".join(f"    {line}\n" for line in table.splitlines())
    readme.write_text(f"{before}{BEGIN}\n\n{block}\n{END}{after}", "utf-8")


def draw_strip(folder: Path, file: Path) -> Path:
    """Draw a test photo, its three most probable classes, where the network looked, and the nearest training photos.

    The photo is the one of the tail, of those that the network has right, with the median probability.

    Returns:
        Its path.
    """
    import matplotlib.pyplot as plt
    import pandas as pd

    from rp2k_lab.analysis.gradcam import explain, overlay
    from rp2k_lab.analysis.neighbors import nearest
    from rp2k_lab.config.migrations import parse_record
    from rp2k_lab.core.text import shorten
    from rp2k_lab.dataset.image import center_crop, fit, pad_to_center, read_image
    from rp2k_lab.dataset.photo_index import build_index
    from rp2k_lab.device import target
    from rp2k_lab.evaluation import figures  # with a font that has Chinese names
    from rp2k_lab.evaluation.predictor import Member, Predictor
    from rp2k_lab.train.build import batches_for, build_network, build_views, preprocessing
    from rp2k_lab.train.checkpoint import load_checkpoint
    from rp2k_lab.train.features import compute_features

    config = parse_record(yaml.safe_load((folder / "config.yaml").read_text("utf-8")))
    target.set_up(config.device)
    index = build_index(config.dataset)
    network = build_network(config, len(index.classes))
    load_checkpoint(network, folder / "checkpoints" / "best.ckpt")
    predictor = Predictor([Member(config.model.name, network, preprocessing(config))], config.batch_size)
    views = build_views(predictor, index, 0)

    predictions = pd.read_parquet(folder / "test" / "predictions.parquet")
    groups = pd.read_parquet(folder / "test" / "per_class.parquet").set_index("class")["group"]
    right = predictions[predictions["correct"] & (predictions["true"].map(groups) == "tail")]
    chosen = right["p1"].sort_values().index[len(right) // 2]
    row = int(index.split("test")["row"][chosen])

    def features(rows: list[int]) -> np.ndarray:
        array = np.empty((len(rows), network.network.head.fc.in_channels), np.float32)
        compute_features(network, batches_for(predictor, views, rows, config), config.batch_size, array, lambda: None)
        return array

    training = index.split("train")["row"].tolist()
    near = nearest(features([row]), features(training), 3, None, lambda: None)[0][0]
    label = index.table["label"][row]
    heat = explain(network, batches_for(predictor, views, [row], config), np.array([label]), config.batch_size).maps[0]
    photo = read_image(index.root / index.table["path"][row])
    whole = fit(photo, (448, 448))  # the map covers the padded square
    seen = center_crop(overlay(pad_to_center(whole, (448, 448), (448, 448)), heat), whole.shape[:2])

    figure, axes = plt.subplots(1, 6, figsize=(13, 3.2), width_ratios=[1, 1.8, 1, 1, 1, 1], layout="constrained")
    top = predictions.loc[chosen]
    names = [shorten(top[f"top{i}"], 16) for i in (3, 2, 1)]
    bars = axes[1].barh(names, [100 * top[f"p{i}"] for i in (3, 2, 1)], color="#1f5fa8", height=0.6)
    axes[1].bar_label(bars, fmt="%.0f %%", padding=3)
    axes[1].set(title="the three most probable", xlim=(0, 130 * top["p1"]), xticks=[])
    axes[1].title.set_fontsize(10)
    axes[1].spines[:].set_visible(False)
    axes[1].grid(False)
    pictures = {0: photo, 2: seen}
    titles = {0: "a test photo", 2: "where the network looked", 4: "the nearest training photos"}
    for place, position in enumerate(near, 3):
        pictures[place] = read_image(index.root / index.table["path"][training[position]])
    for place, picture in pictures.items():
        axes[place].imshow(picture)
        axes[place].axis("off")
        if place > 2:
            name = index.table["class"][training[near[place - 3]]]
            axes[place].text(0.5, -0.04, shorten(name, 12), ha="center", va="top", transform=axes[place].transAxes)
    for place, title in titles.items():
        axes[place].set_title(title, fontsize=10)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110)
    print(f"{file.relative_to(PROJECT)}: {index.table['path'][row]}, drawn with {figures.__name__}")
    return index.root / index.table["path"][row]


def photograph_demo(run: str, photo: Path, file: Path) -> None:
    """Save a PNG of the demo's answer for a photo."""
    command = [sys.executable, "-m", "rp2k_lab.demo", run, "--port", str(PORT)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as demo, chromium() as browser:
        address = next(found[0] for found in (re.search(r"http://\S+", line) for line in demo.stdout) if found)
        page = browser.new_page(viewport={"width": 1000, "height": 1180})
        page.goto(address)
        page.set_input_files("#photo", photo)
        page.wait_for_selector("#answer", timeout=60_000)
        page.screenshot(path=file)
        demo.send_signal(signal.SIGINT)
    print(file.relative_to(PROJECT))


@contextmanager
def mlflow_page() -> Iterator[str]:
    """The address of the clone's MLflow page while it is served, as by `make ui`."""
    address = f"http://127.0.0.1:{PORT}"
    command = [sys.executable, "-m", "rp2k_lab.tracking.server", str(PORT)]
    server = subprocess.Popen(command, cwd=PROJECT, start_new_session=True)  # MLflow's workers are processes, too
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@contextmanager
def chromium() -> Iterator:
    """A headless Chromium of the system."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("no Chromium on this machine\ninstall it, for example: apt-get install chromium")
    fonts = Path(importlib.util.find_spec("zhplot").origin).parent / "fonts"
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as data:
        (Path(data) / "fonts").symlink_to(fonts)  # the class names are Chinese
        environment = {**os.environ, "XDG_DATA_HOME": data}
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], env=environment)
        yield browser
        browser.close()


def photograph(
    browser, address: str, file: Path, size: tuple[int, int], wait_for: str | None = None, metrics: str | None = None
) -> None:
    """Save a PNG of a page, its window `size` pixels (width, height), when `wait_for` is there.

    Args:
        metrics: what to type into MLflow's search for charts, a regular expression.
    """
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.add_init_script(HIDE_ASSISTANT)
    page.goto(address, wait_until="load")
    if wait_for:
        page.wait_for_selector(wait_for, timeout=60_000)
    if metrics:
        page.get_by_placeholder("Search metric charts").fill(metrics)
    page.wait_for_timeout(2500)  # charts are drawn late
    page.screenshot(path=file)
    page.close()
    print(file.relative_to(PROJECT))


if __name__ == "__main__":
    main()
