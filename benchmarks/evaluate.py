"""Compare evaluation with bare forward passes, and an ensemble with flip TTA with the sum of its parts.

    python -m benchmarks.evaluate [--models resnet18 resnet50 seresnet50] [--rounds 6] [--photos 256]
        [overrides, e.g. size=96 crop_ratio=0.875]

Bare: only the compiled network, on uint8 batches in memory, with results as arrays.  Evaluation: from image files to
the top 5, as in task=evaluate.  Ensemble: all networks on both views in one pass, as in task=ensemble.  Its parts: an
evaluation by each network, twice for the two views; also the stricter sum of bare passes, without reading files.  The
measurements alternate within a round; networks have initial weights.
"""

import argparse
import time
from collections.abc import Callable

from mindspore import Tensor

from benchmarks.overhead import compose
from benchmarks.timing import interleave, median_interval, ratio_line
from rp2k_lab.config.schema import Config
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.device import target
from rp2k_lab.evaluation.metrics import top_k
from rp2k_lab.evaluation.predictor import Classifier, Member, Predictor
from rp2k_lab.train.build import batches_for, build_network, build_views, preprocessing

ENSEMBLE = "ensemble, flip"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "seresnet50"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--photos", type=int, default=256, help="images from the start of the test split")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    configs = [compose([f"model={name}", *options.overrides]) for name in options.models]
    first = configs[0]
    target.set_up(first.device)
    index = build_index(first.dataset)
    rows = index.split("test")["row"].tolist()[: options.photos // first.batch_size * first.batch_size]
    members = [
        Member(config.model.name, build_network(config, len(index.classes)), preprocessing(config))
        for config in configs
    ]
    bare = {f"bare {m.name}": bare_loop(m, first, index, rows) for m in members}
    single = {f"evaluation {m.name}": evaluation([m], "none", first, index, rows) for m in members}
    parts = bare | single | {ENSEMBLE: evaluation(members, "hflip", first, index, rows)}
    for part in parts.values():
        part()  # compiles
    seconds = interleave(parts, options.rounds)
    height, width = first.size
    print(f"{len(rows)} photos at {height}×{width}, batch {first.batch_size}")
    for name, values in seconds.items():
        median, low, high = median_interval(len(rows) / values)
        print(f"  {name:24} {median:7.1f} photos/s [{low:.1f}, {high:.1f}]")
    alone, evaluated = next(iter(bare)), next(iter(single))
    print("  " + ratio_line("speed of evaluation / bare:", seconds[alone] / seconds[evaluated]))
    for label, names in (("the sum of its parts", single), ("the sum of bare passes", bare)):
        total = 2 * sum(seconds[name] for name in names)
        print("  " + ratio_line(f"time of {ENSEMBLE} / {label}:", seconds[ENSEMBLE] / total))


def bare_loop(member: Member, config: Config, index: Index, rows: list[int]) -> Callable[[], float]:
    """Return a function that times forward passes over batches in memory (seconds)."""
    predictor = Predictor([member], config.batch_size)
    batches = [images for (images,) in batches_for(predictor, build_views(predictor, index, 0), rows, config)]
    classifier = Classifier(member.network)

    def run() -> float:
        member.network.set_train(False)
        started = time.perf_counter()
        for images in batches:
            classifier(Tensor(images)).asnumpy()
        return time.perf_counter() - started

    return run


def evaluation(members: list[Member], tta: str, config: Config, index: Index, rows: list[int]) -> Callable[[], float]:
    """Return a function that times an evaluation from image files to the top 5 of members and average (seconds)."""
    predictor = Predictor(members, config.batch_size, tta)
    views = build_views(predictor, index, 0)

    def run() -> float:
        started = time.perf_counter()
        for each, average in predictor(batches_for(predictor, views, rows, config)):
            for probabilities in [average] if len(members) == 1 else [*each, average]:
                top_k(probabilities)
        return time.perf_counter() - started

    return run


if __name__ == "__main__":
    main()
