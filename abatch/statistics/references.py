"""References: what a model's training rows looked like, for later rows to be compared with."""

from typing import Any, NamedTuple


class Reference(NamedTuple):
    """Scores of rows that the model was not fitted on.

    Attributes
    ----------
    edges : inner edges of their deciles, shape (b - 1,)
    counts : shape (b,)
    """

    edges: list[float]
    counts: list[int]


class FeatureReference(NamedTuple):
    """One feature of a model's training rows; `_asdict()` is its JSON.

    Attributes
    ----------
    kind : "number" or "category"
    bins : inner edges of a number's deciles, and of a value that fills one; or the 20 most common
        values of a category
    counts : shape (len(bins) + 2,); rows between the edges, or with each value and with any other;
        in the last cell nulls
    others : the known values of a category beside `bins`, sorted; None if they are more than
        1,000, and no value is called new
    limits : what a number lies beyond if it is far from all training rows; None if unknown
    """

    kind: str
    bins: list[Any]
    counts: list[int]
    others: list[str] | None
    limits: list[float] | None = None

    @property
    def is_measurable(self) -> bool:
        """Whether PSI can tell drift: not where the common values have under a tenth of the rows.

        Text and ids would always be the same "any other".
        """
        *named, others, _ = self.counts
        return self.kind == "number" or 9 * sum(named) >= others

    @property
    def null_rate(self) -> float:
        """Share of the rows."""
        return self.counts[-1] / sum(self.counts)
