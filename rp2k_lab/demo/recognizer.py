"""What a trained run, and its extension once a product was enrolled, recognizes in a photo."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rp2k_lab.analysis.gradcam import Explainer
from rp2k_lab.analysis.neighbors import nearest
from rp2k_lab.analysis.subject import Subject
from rp2k_lab.analysis.thumbnails import under_heat
from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.config.choices import CONF, plain
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image import read_resized
from rp2k_lab.dataset.image_formats import READ
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.demo.enroll import enroll_product
from rp2k_lab.device import target
from rp2k_lab.evaluation.open_set import known_columns
from rp2k_lab.evaluation.predictor import Forward, Member, Predictor
from rp2k_lab.model import Front
from rp2k_lab.pages.images import ImageEmbedder
from rp2k_lab.task.inputs import readable_views
from rp2k_lab.tracking.run_lookup import EarlierRun, resolve
from rp2k_lab.tracking.run_restore import restore
from rp2k_lab.train.build import batches_for
from rp2k_lab.train.trained_models import check_classes, load_members

_NEAREST = 3  # training photos beside an answer
_TOP = 5
_SIDE = 384  # of the photo and its heat map on the page, pixels


class Network:
    """A run's network for one image at a time; each part is compiled once.

    Args:
        config: restored, of task=predict.
    """

    def __init__(self, config: Config):
        (self.run,), (self.member,) = load_members([config])
        self.config = config.model_copy(update={"batch_size": 1})
        self._predictor = Predictor([self.member], 1)
        self._features = Forward(Front(self.member.network).set_train(False))
        self._explainer = Explainer(self.member.network, 1)

    def read(self, photo: Path) -> np.ndarray:
        """Return the network's input, uint8 (1, height, width, 3).

        Raises:
            DataError: the photo cannot be read.
        """
        problems: dict[int, str] = {}
        views = readable_views([str(photo)], [(p.resized, p.resize) for p in self._predictor.preprocessings], problems)
        ((images,),) = batches_for(self._predictor, views, [0], self.config)
        if problems:
            raise DataError(f"the photo: {problems[0]}\nuse {', '.join(READ[:-1])} or {READ[-1]} files")
        return images

    def answer(self, images: np.ndarray) -> dict[str, Any]:
        """Return the most probable products, and whether the photo shows a known one (None: the run cannot tell)."""
        answers = self._predictor.answers([[images]], min(_TOP, len(self.run.classes)), is_calibrated=True)
        labels, probabilities = answers.labels[0].tolist(), answers.probabilities[0].tolist()
        columns = known_columns(answers.scores, self.member.open_set, self.config.task.reject)
        return {
            "label": labels[0],
            "top": [
                {"name": escape_controls(self.run.classes[label]), "probability": probability}
                for label, probability in zip(labels, probabilities, strict=True)
            ],
            "known": bool(columns["known"][0]) if columns else None,
            "p_value": float(columns["p_value"][0]) if columns else None,
            "reject": self.config.task.reject,
        }

    def heat(self, images: np.ndarray, label: int) -> tuple[np.ndarray, str]:
        """Return a heat map of a class, float32 (h, w), and its method."""
        return self._explainer(images, np.array([label]))[0], self._explainer.method

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the features before the classifier, float32 (1, width)."""
        return self._features(images)


@dataclass(frozen=True)
class TrainingPhotos:
    """The training photos of a base, for the nearest ones.

    Attributes:
        features: float32 (photos, width), in the order of the train split.
    """

    index: Index
    features: np.ndarray

    def nearest(self, features: np.ndarray) -> list[dict[str, Any]]:
        """Return the photos nearest to features (1, width): cosine, class name, thumbnail."""
        (positions,), (distances,) = nearest(features, self.features, _NEAREST)
        rows, embedder = self.index.split("train").iloc[positions], ImageEmbedder(self.index.root)
        return [
            _neighbor(1 - float(distance), name, path, embedder.thumbnail(path).uri)
            for name, path, distance in zip(rows["class"], rows["path"], distances, strict=True)
        ]


class Recognizer:
    """Answers photos by a run, or by its extension once a product was enrolled.

    A context: its temporary folder holds the photo at hand.  For one thread.

    Args:
        uri: the store; None: the clone's store.
        reference: of the run, as `runs=` takes it.

    Raises:
        RequestError, DataError: there is no such run, or it has no network.
    """

    def __init__(self, uri: str | None, reference: str):
        self._uri = uri
        self._temporary = tempfile.TemporaryDirectory(prefix="rp2k-lab-")
        self._folder = Path(self._temporary.name)
        config = self._restored(reference)
        target.set_up(config.device)
        self._network = Network(config)
        self._training, self._reason = _training_photos(config, self._network.run, self._network.member)
        self._enrolled: list[tuple[np.ndarray, dict[str, Any]]] = []  # features and neighbor, of this session

    def __enter__(self) -> "Recognizer":
        return self

    def __exit__(self, *error: object) -> None:
        self._temporary.cleanup()

    def _restored(self, reference: str) -> Config:
        """Return the configuration of task=predict for a run; the data set may be absent."""
        from hydra import compose, initialize_config_dir

        register_resolvers()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = plain(compose("config", ["task=predict"]), resolve=True)
        composed |= {"runs": [reference], "tracking": composed["tracking"] | {"uri": self._uri}}
        composed["task"] |= {"input": str(self._folder)}
        composed["runs"] = list(resolve(parse(composed)))
        (config,) = restore(parse(composed), composed, [])
        return config

    def about(self) -> dict[str, Any]:
        """Return what the page shows of the run."""
        run, preprocessing = self._network.run, self._network.member.preprocessing
        return {
            "run": f"{escape_controls(run.name)}, id {run.run_id}" if run.run_id else escape_controls(run.name),
            "products": len(run.classes),
            "input": str(preprocessing),
            "without_data": self._reason,
        }

    def warm_up(self) -> None:
        """Compile everything, so that the first photo is answered at once."""
        encoded = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[1]
        self.recognize(encoded.tobytes())

    def recognize(self, photo: bytes) -> dict[str, Any]:
        """Return the answer for a photo, for the page.

        Raises:
            DataError: it cannot be read.
        """
        file = self._folder / "photo"
        file.write_bytes(photo)
        images = self._network.read(file)
        answer = self._network.answer(images)
        heat, method = self._network.heat(images, answer["label"])
        preprocessing, embedder = self._network.member.preprocessing, ImageEmbedder(self._folder)
        scale = max(1, _SIDE // max(preprocessing.size))
        seen = under_heat(file, preprocessing, heat, scale)
        shown = read_resized(file, (_SIDE, _SIDE), "letterbox")
        return answer | {
            "photo": embedder.embed(shown, "", ".jpg").uri,
            "heat": embedder.embed(seen, "", ".jpg").uri,
            "method": method,
            "nearest": self._nearest(self._network.features(images)),
        }

    def _nearest(self, features: np.ndarray) -> list[dict[str, Any]]:
        if self._training is None:
            return []
        found = self._training.nearest(features)
        for vectors, neighbor in self._enrolled:
            _, ((distance,),) = nearest(features, vectors, 1)
            found.append(neighbor | {"cosine": 1 - float(distance)})
        return sorted(found, key=lambda each: -each["cosine"])[:_NEAREST]

    def enroll(self, name: str, photos: Sequence[bytes]) -> dict[str, Any]:
        """Extend the run by a product, and answer by the extension from now on.

        Returns:
            The extension's id, what the gate found, what to expect, and the number of products.

        Raises:
            RequestError: the photos of the network's data set are absent, or the name is refused.
            DataError: a photo is refused.
        """
        if self._training is None:
            raise RequestError(f"no product can be enrolled: {self._reason}\nrestore the data set, and start again")
        run = self._network.run
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            files = [Path(folder) / f"photo {number}" for number in range(1, len(photos) + 1)]
            for file, photo in zip(files, photos, strict=True):
                file.write_bytes(photo)
            enrolled = enroll_product(self._uri, run.run_id or str(run.checkpoint), name, files)
            self._network = Network(self._restored(enrolled.run_id))
            self.warm_up()
            for file in files:
                self._remember(file, name)
        return {
            "run_id": enrolled.run_id,
            "findings": enrolled.findings,
            "expected": enrolled.expected,
            "products": len(self._network.run.classes),
        }

    def _remember(self, file: Path, name: str) -> None:
        """Keep an enrolled photo among those that may be nearest; an unreadable one was left out."""
        thumbnail = ImageEmbedder(file.parent).thumbnail(file.name)
        if thumbnail.uri:
            features = self._network.features(self._network.read(file))
            self._enrolled.append((features, _neighbor(0, name, f"enrolled {file.name}", thumbnail.uri)))


def _neighbor(cosine: float, name: str, title: str, uri: str | None) -> dict[str, Any]:
    return {"cosine": cosine, "name": escape_controls(name), "title": escape_controls(title), "image": uri}


def _training_photos(config: Config, run: EarlierRun, member: Member) -> tuple[TrainingPhotos | None, str | None]:
    """Return the training photos of the run's base, or None and why they are absent."""
    try:
        config.dataset.check_files()
        index = build_index(config.dataset)
        check_classes(index, run, config.dataset.name)
        print(
            f"reading the features of {len(index.split('train'))} training photos, or computing them once", flush=True
        )
        return TrainingPhotos(index, Subject(config, index, run, member).features("train")), None
    except (RequestError, DataError) as error:
        return None, escape_controls(str(error).split("\n")[0])
