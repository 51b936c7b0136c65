"""Knowledge distillation: a network learns the probabilities of trained ones (Hinton et al., arXiv 1503.02531).

The teachers see the images that the student sees, in their own normalization.  They are in evaluation mode, have no
gradient, and are in no checkpoint: a resumed run loads them again from the runs that its record names.
"""

from collections.abc import Sequence

from mindspore import Tensor, nn, ops

from rp2k_lab.device import precision

# The smallest probability whose logarithm is taken.
_EPS = 1e-30


class WithImages(nn.Cell):
    """A network that also returns its images, for `Distillation`: images to (logits, images)."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images):
        return self.network(images), images


class Distillation(nn.Cell):
    """(1 - weight) · loss + weight · temperature² · KL(teachers, student), a scalar of ((logits, images), labels).

    The teachers' probabilities are the mean of theirs (section 1 of the paper).  The square keeps the gradient's size
    at all temperatures (section 2).  With a margin, the student's logits in the second term are without it.

    Args:
        loss: (logits, labels) to a scalar.
        teachers: see `frozen`; equal to no other part of the training.
        weight: [0, 1].
        temperature: divides the logits of both sides.
    """

    def __init__(self, loss: nn.Cell, teachers: Sequence[nn.Cell], weight: float, temperature: float):
        super().__init__(auto_prefix=False)
        self.loss, self.weight, self.temperature = loss, weight, temperature

        # A function hides the teachers: as cells of this one they would be trained, saved and set to training mode.
        def probabilities(images):
            total = 0.0
            for teacher in teachers:
                total += ops.softmax(teacher(images).astype("float32") / temperature, -1)
            return total / len(teachers)

        self.teach = probabilities

    def construct(self, outputs, labels):
        logits, images = outputs
        taught = ops.stop_gradient(self.teach(images))
        divergence = kl_divergence(taught, ops.log_softmax(logits.astype("float32") / self.temperature, -1))
        teaching = self.weight * self.temperature * self.temperature * divergence
        return (1.0 - self.weight) * self.loss(logits, labels) + teaching


def kl_divergence(probabilities: Tensor, log_others: Tensor) -> Tensor:
    """Return the mean over images of KL(p, q) = sum(p · (log p - log q)).

    Args:
        probabilities: p, float32 (batch, classes).
        log_others: log q, float32 (batch, classes).
    """
    logarithms = ops.log(ops.maximum(probabilities, _EPS))
    return (probabilities * (logarithms - log_others)).sum(-1).mean()


def frozen(network: nn.Cell, number: int, student_precision: str) -> nn.Cell:
    """Return a trained network as a teacher; changes it.

    Args:
        number: different for each teacher: parameters of one graph need different names.
        student_precision: see `precision.cast`.
    """
    for parameter in network.get_parameters():
        parameter.requires_grad = False
        parameter.name = f"teacher{number}.{parameter.name}"
    return precision.cast(network, student_precision).set_train(False)
