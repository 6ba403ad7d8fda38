"""Constancy: whether tonight's features are what they were, in training and in the newest nights.

It is judged before the night is published, by counts as `feature_counts` keeps them.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from functools import reduce
from operator import add
from typing import NamedTuple

from abatch.errors import DataError
from abatch.experiment import predictions
from abatch.experiment.predictions import Batch, ModelCounts
from abatch.modelling import registry
from abatch.modelling.inference import References
from abatch.modelling.registry import Model
from abatch.night import Night
from abatch.statistics import changes
from abatch.statistics.changes import Change, View
from abatch.statistics.drift import FeatureCounts
from abatch.text import cut_list

N_NIGHTS = 7  # a week, so that a weekend meets the last one
N_SHOWN = 20  # features in a message
REFUSE = "refuse"
CAUSES = "A load that failed, another unit and another type look like this"


class Known(NamedTuple):
    """What one training knew of the features.

    Attributes
    ----------
    model_names : of its models that predict tonight, or predicted the newest nights
    is_live : whether one of them predicts tonight
    """

    references: References
    model_names: list[str]
    is_live: bool


class Recent(NamedTuple):
    """What tonight's features are compared with.

    Attributes
    ----------
    nights : counts of the newest nights that are done, the oldest first
    trainings : by run_id, those of live models first
    """

    nights: Mapping[date, ModelCounts]
    trainings: Mapping[str, Known]

    @property
    def earlier(self) -> dict[str, References]:
        """By run_id, what trainings knew none of whose models is live any more."""
        trainings = self.trainings.items()
        return {run_id: known.references for run_id, known in trainings if not known.is_live}


def read_recent(night: Night, models: Mapping[str, Model]) -> Recent:
    """Read the counts of the newest nights, by index, and the cards of models that are gone."""
    read = predictions.read_newest_counts
    nights = night.read(read, night.experiment.name, night.run_date, N_NIGHTS)
    live = {model.model_name: model.card for model in models.values()}
    gone = {name for counts in nights.values() for name in counts} - {*live}
    cards = live | {name: night.read(registry.find_model, name) for name in sorted(gone)}
    trainings: dict[str, Known] = {}
    for name, card in cards.items():
        new = Known(card.features, [], name in live)
        trainings.setdefault(card.run_id, new).model_names.append(name)
    return Recent(nights, trainings)


def find_changes(recent: Recent, total: Batch) -> dict[str, Change]:
    """The features that have left the training rows of a live model, by name."""
    names = {name for known in recent.trainings.values() for name in known.references}
    views = {name: _find_views(name, recent, total) for name in sorted(names)}
    changed = {name: changes.find_change(of_feature) for name, of_feature in views.items()}
    return {name: change for name, change in changed.items() if change}


def _find_views(feature: str, recent: Recent, total: Batch) -> list[View]:
    """A feature as each training knew it, and as it was counted by that."""
    views = []
    for run_id, known in recent.trainings.items():
        names = [run_id] if not known.is_live else known.model_names
        counted = total.feature_counts if known.is_live else total.earlier_counts
        tonight = _add(feature, counted, names)
        if tonight and sum(known.references[feature].counts):
            by_night = {
                night: _add(feature, counts, known.model_names)
                for night, counts in recent.nights.items()
            }
            nights = {night: counts for night, counts in by_night.items() if counts}
            reference, of = known.references[feature], known.model_names
            views.append(View(reference, of, known.is_live, tonight, nights))
    return views


def _add(feature: str, counts: ModelCounts, names: Iterable[str]) -> FeatureCounts | None:
    """One feature's counts under some names together; None if there are none."""
    summands = [counts[name][feature] for name in names if feature in counts.get(name, {})]
    return reduce(add, summands) if summands else None


def check(night: Night, recent: Recent, total: Batch) -> str:
    """Warn of features that are not what they were, or refuse the night, as the config says.

    That a feature has left the training rows of a model is told on the first such night.

    Returns
    -------
    str
        What has changed, for the closing line; empty if nothing has.

    Raises
    ------
    DataError
        If a feature has changed overnight, and the config refuses that.
    """
    changed, experiment = find_changes(recent, total), night.experiment
    file = experiment.query("candidates").file
    overnight = {name: change for name, change in changed.items() if change.is_overnight}
    left = {name: change for name, change in changed.items() if change.is_new}
    left = {name: left[name] for name in left if name not in overnight}
    words = ""
    if overnight:
        what = f"these features changed overnight:\n{_list(overnight)}"
        if experiment.overnight_change == REFUSE:
            raise DataError(
                f"{what}\n{CAUSES}. Nothing was published: mend the load or the query, and run it"
                f" again. If the night is right, {experiment.key('overnight_change')}: warn"
                " publishes it, and the next ones are compared with it."
            )
        night.warn(
            f"{file}: {what}\n{CAUSES}: mend the load or the query, then predict again with"
            " --force. If the night is right, the next ones are compared with it."
        )
        words += f"; changed overnight: {', '.join(cut_list([*overnight], N_SHOWN))}"
    if left:
        night.warn(
            f"{file}: these features are not what their models were trained with:\n{_list(left)}\n"
            "It is told once for a model. If it stays so, train anew; feature_drift follows it."
        )
        words += f"; unlike the training rows: {', '.join(cut_list([*left], N_SHOWN))}"
    return words


def _list(changed: Mapping[str, Change]) -> str:
    lines = [f"  {name}: {_describe(change)}" for name, change in changed.items()]
    return "\n".join(cut_list(lines, N_SHOWN, "more features"))


def _describe(change: Change) -> str:
    """What is in more rows than before, and how far that is from the training and the nights."""
    view = change.view
    psi, noise = changes.measure_from(None, view)
    trained = f"the training rows of {' and '.join(view.model_names)}"
    distances = f"PSI {psi:.2f} against {trained} (noise {noise:.2f})"
    if change.nearest is None:
        rise = changes.describe_rise(None, view)
        return f"{rise}; {distances}; no earlier night to compare with"
    psi, noise = changes.measure_from(*change.nearest)
    nearest = f"{psi:.2f} against {change.nearest[0]}, the nearest night (noise {noise:.2f})"
    since = change.nearest if change.is_overnight else (None, view)
    return f"{changes.describe_rise(*since)}; {distances} and {nearest}"
