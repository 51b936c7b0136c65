"""What a judged table is: its rows with their verdicts, its looks, and the origin of its cells."""

import math
from dataclasses import dataclass

from rp2k_lab.ablation.significance import Verdict
from rp2k_lab.ablation.single_run import SingleRun
from rp2k_lab.config.ablation import Ablation

RP2K_TEST_IMAGES = 39_027  # of the published entry, after cleaning
ALPHA = 0.05  # of a table


@dataclass(frozen=True)
class Published:
    """A published difference, and whether one run of each level could have shown it on RP2K's test images.

    Attributes:
        difference: a fraction.
        accuracy: of the baseline, a fraction; None if not published, and 0.5 (largest noise) is assumed.
        unknown: with an unknown disagreement of the two runs.
        as_measured: with the disagreement measured here and, from two or more seeds, the measured seed spread; None
            without a measurement.
    """

    difference: float
    accuracy: float | None
    unknown: SingleRun
    as_measured: SingleRun | None


@dataclass(frozen=True)
class Look:
    """Which look at a table this is; each spends an equal part of its 5 %.

    Attributes:
        number, of: from 1.
        is_planned: whether all seeds are those of the table's YAML.
        added: seeds beyond those of the first look.
    """

    number: int
    of: int
    is_planned: bool
    added: tuple[int, ...]

    @property
    def alpha(self) -> float:
        """The error that this look may make."""
        return ALPHA / self.of


@dataclass(frozen=True)
class Row:
    """One level of a judged table.

    Attributes:
        baseline: the level to compare with, or None.
        seeds: seeds of complete cells.
        wanted: the seeds that the level should have.
        missing, running: seeds without a result.
        failed: seed to reason.
        mean, sd: of the table's metric over seeds, fractions; mean is NaN without a seed, sd with fewer than two.
        means: metric of the results to its mean over seeds; NaN without a value, such as a group without test images.
        images: number of test images.
        seconds: total of all cells.
        published: top-1, a fraction, or None.
        verdict: None without a comparison; `not_compared` has the reason, "" for a baseline.
        published_difference: None if not published.
        effective_images: how many independent test images the difference's clustered ones count as; else `images`.
        notes: differences in commit, data set, native kernels or uncommitted changes.
    """

    level: str
    baseline: str | None
    seeds: tuple[int, ...]
    wanted: tuple[int, ...]
    missing: tuple[int, ...]
    running: tuple[int, ...]
    failed: dict[int, str]
    mean: float
    sd: float
    means: dict[str, float]
    images: int
    seconds: float
    published: float | None
    verdict: Verdict | None = None
    not_compared: str = ""
    published_difference: Published | None = None
    effective_images: float = math.nan
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """better, worse, equal or inconclusive; "" without a comparison or with a single seed."""
        return self.verdict.word if self.verdict else ""


@dataclass(frozen=True)
class Part:
    """The comparisons of a table on a part of the test images.

    Attributes:
        images: number of test images in the part, a mean over seeds with their own images.
        verdicts: level to its verdict; the intervals are simultaneous within the part.
    """

    name: str
    images: int
    verdicts: dict[str, Verdict]


@dataclass(frozen=True)
class JudgedTable:
    """Verdicts on all levels of a table.

    Attributes:
        look: which of the table's looks it is, and how many share its 5 %.
        comparisons: number of comparisons, pending ones included, that share the error of the look.
        commits: commit to its number of cells; uncommitted changes are named.
        natives: the tag `native` to its number of cells; empty if all are older than the native kernels.
        origins: studies and tables that computed cells of this one, to their number.
        hosts: machines that ran cells.
        ignored: levels of the results that this scale does not have.
        parts: the comparisons on parts of the test images, of sets that know them.
        images_of: top1, head_top1, medium_top1 and tail_top1 to their numbers of test images; empty unless all cells
            have the same images.
    """

    ablation: Ablation
    scale: str
    rows: tuple[Row, ...]
    look: Look
    comparisons: int
    commits: dict[str, int]
    natives: dict[str, int]
    origins: dict[str, int]
    hosts: tuple[str, ...]
    ignored: tuple[str, ...]
    parts: tuple[Part, ...]
    images_of: dict[str, int]

    @property
    def cells(self) -> int:
        """Number of cells that the table should have."""
        return sum(len(row.wanted) for row in self.rows)

    @property
    def hours(self) -> float:
        """Total time of all cells [h]."""
        return sum(row.seconds for row in self.rows) / 3600

    @property
    def missing_cells(self) -> int:
        """Number of cells without a result: missing, running or failed."""
        return sum(len(row.missing) + len(row.running) + len(row.failed) for row in self.rows)
