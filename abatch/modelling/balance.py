"""Balance: whether variants that were recorded elsewhere may be drawn by chance, by tonight's rows.

By hash they are, and nothing is counted.
"""

from collections.abc import Mapping

from abatch.experiment.predictions import Batch
from abatch.experiment.sample_ratio import UNBALANCED
from abatch.modelling.registry import Model
from abatch.night import Night
from abatch.statistics.balance import Imbalance, find_imbalances
from abatch.text import cut_list

N_SHOWN = 5  # features in a message, and in the closing line


def check(night: Night, models: Mapping[str, Model], total: Batch) -> str:
    """Warn of features that are not shared out between the variants as by chance.

    Variants of which some rows could not be counted are left out.

    Returns
    -------
    str
        Which, for the closing line; empty if all is well.
    """
    counts = {
        variant: counted
        for variant, counted in total.variant_counts.items()
        if all(sum(cells.counts) == total.n_candidates[variant] for cells in counted.values())
    }
    found = find_imbalances(next(iter(models.values())).card.features, counts)
    if not found:
        return ""
    lines = cut_list([describe(imbalance) for imbalance in found], N_SHOWN, "more features")
    what = "\n  ".join(lines)
    night.warn(
        f"{night.experiment.query('candidates').file}: the variants that it brings {UNBALANCED}:\n"
        f"  {what}\n"
        "Verdicts hold only if chance alone decided who is in which variant: else they tell who was"
        " chosen, not what was done. Let chance draw it, whatever the features say (without the"
        " column variant the hash does), and ask again under a new name. Only if a variant has"
        " itself changed the features of those who come again is it no fault."
    )
    names = cut_list([imbalance.feature for imbalance in found], N_SHOWN)
    return f"; variants differ by more than chance: {', '.join(names)}"


def describe(imbalance: Imbalance) -> str:
    """The figures of one feature, as a line."""
    shares = ", ".join(f"{share:.0%} of {name}" for name, share in imbalance.shares.items())
    return f"{imbalance.feature}: {imbalance.what} in {shares} (p {imbalance.pvalue:.0e})"
