"""All that a network gives for an image: probabilities, a score of being known, an embedding."""

from mindspore import Tensor, nn, ops

from rp2k_lab.model import WithPreprocessing
from rp2k_lab.model.network import unit


class Outputs(nn.Cell):
    """uint8 images (batch, height, width, 3) to probabilities, scores and embeddings, all float32.

    Probabilities (batch, classes).  Scores (batch,): the larger, the likelier the image shows one of the classes; of an
    extension the largest cosine with a center, in [-1, 1], of any other network the largest probability.  Embeddings
    (batch, width) have length 1: of an extension whitened features, of any other network its features.
    """

    def __init__(self, network: WithPreprocessing):
        super().__init__(auto_prefix=False)  # checkpoints have the network's names
        self.network = network
        self.is_extension = hasattr(network.network.head.fc, "embed_and_score")

    def construct(self, images):
        net = self.network.network
        features = net.head.features(net.backbone(self.network.normalize(images))).astype("float32")
        return self.of_features(features)

    def of_features(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs for the classifier's input, float32 (batch, width)."""
        head = self.network.network.head
        probabilities = ops.softmax(head.classify(features).astype("float32"), -1)
        if self.is_extension:
            embeddings, scores = head.fc.embed_and_score(features)
        else:
            embeddings, scores = unit(features), probabilities.max(axis=1)
        return probabilities, scores, embeddings


class Embedding(nn.Cell):
    """Features before the classifier to the embeddings of `Outputs`, float32 (batch, width)."""

    def __init__(self, network: WithPreprocessing):
        super().__init__(auto_prefix=False)
        self.outputs = Outputs(network)

    def construct(self, features):
        return self.outputs.of_features(features)[2]
