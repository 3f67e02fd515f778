"""What each stage of a run cost in quality and saved in bytes, one change a stage; as numbers and as sentences."""

from dataclasses import dataclass
from itertools import pairwise

from pipelines.report import Report, Row


@dataclass(frozen=True)
class Change:
    """From the model of one step to that of the next."""

    before: Row
    after: Row

    @property
    def label(self) -> str:
        return self.after.label

    @property
    def quality(self) -> float:
        """Retained quality gained, as a share of the origin's; negative where some was lost."""
        return self.after.retained - self.before.retained

    @property
    def bytes(self) -> int:
        """Bytes added; negative where some were saved."""
        return self.after.bytes - self.before.bytes

    @property
    def told_quality(self) -> str:
        return "±0.0 points" if abs(self.quality) < 0.0005 else f"{_signed(100 * self.quality, 1)} points"

    @property
    def told_bytes(self) -> str:
        return "same size" if abs(self.bytes) < 50_000 else f"{_signed(self.bytes / 1e6, 1)} MB"

    @property
    def sentence(self) -> str:
        """``3 quantize.gptq: −7.2 points of quality to 74.3 %, −130.6 MB at 109.3 MB``."""
        quality = f"{self.told_quality} of quality to {self.after.retained:.1%}".replace("%", " %")
        return f"{self.label}: {quality}, {self.told_bytes} at {self.after.bytes / 1e6:.1f} MB"


def changes(report: Report) -> tuple[Change, ...]:
    """One a stage that made a model, in order."""
    return tuple(Change(*pair) for pair in pairwise(row for row in report.rows if row.pairs is None))


def _signed(value: float, digits: int) -> str:
    return f"{'+' if value > 0 else '−'}{abs(value):,.{digits}f}"
