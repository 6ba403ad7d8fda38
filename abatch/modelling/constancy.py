"""Constancy: whether tonight's features are what they were, in training and in the newest nights.

So are the models' predictions, and the number of candidates. It is judged before the night is
published, by counts as `feature_counts` keeps them.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
from scipy.stats import poisson

from abatch.errors import DataError
from abatch.experiment import predictions
from abatch.experiment.predictions import Batch, ModelCounts
from abatch.modelling import inference, registry
from abatch.modelling.inference import PREDICTION, ROWS, References
from abatch.modelling.registry import Model
from abatch.night import Night
from abatch.statistics import changes
from abatch.statistics.changes import Change, View
from abatch.statistics.drift import FeatureCounts
from abatch.text import cut_list

N_NIGHTS = 7  # a week, so that a weekend meets the last one
N_SHOWN, N_NAMES = 20, 2  # features in a message, models in its lines
N_SIZES, N_FEW = 35, 3  # nights whose sizes are known, a month and a weekend; and the least
LEAST, MOST = 1.5, 5.0  # times as few or as many as ever: what is told, by how steady nights were
CHANCE = 1e-6  # of a false alarm, at the most
# Cells with rows, but one of each feature: that all are as full as before has a chance of at most
# 1 / e each, whatever the rows.
N_CELLS = 20
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
    scores : by live model, what its predictions were for the rows held out
    sizes : how many candidates the nights had
    rows : by night, one more than in `nights`, what all its rows were as one
    """

    nights: Mapping[date, ModelCounts]
    trainings: Mapping[str, Known]
    scores: Mapping[str, References]
    sizes: Mapping[date, int]
    rows: Mapping[date, FeatureCounts]

    @property
    def earlier(self) -> dict[str, References]:
        """By run_id, what trainings knew none of whose models is live any more."""
        trainings = self.trainings.items()
        return {run_id: known.references for run_id, known in trainings if not known.is_live}


def read_recent(night: Night, models: Mapping[str, Model]) -> Recent:
    """Read the counts of the newest nights, by index, and the cards of models that are gone."""
    read = predictions.read_newest_counts
    counted = night.read(read, night.experiment.name, night.run_date, N_NIGHTS + 1)
    nights = {day: counted[day] for day in [*counted][-N_NIGHTS:]}
    live = {model.model_name: model.card for model in models.values()}
    gone = {name for counts in nights.values() for name in counts} - {*live}
    cards = live | {name: night.read(registry.find_model, name) for name in sorted(gone)}
    trainings: dict[str, Known] = {}
    for name, card in cards.items():
        new = Known(card.features, [], name in live)
        trainings.setdefault(card.run_id, new).model_names.append(name)
    scores = {model.model_name: inference.refer_prediction(model) for model in models.values()}
    sizes = night.read(predictions.read_sizes, night.experiment.name, night.run_date, N_SIZES)
    rows = {day: found for day, counts in counted.items() if (found := _add(ROWS, counts, counts))}
    return Recent(nights, trainings, scores, sizes, rows)


def find_changes(recent: Recent, total: Batch) -> dict[str, Change]:
    """The features that are not what they were, by name; then the models' predictions.

    Predictions that have left those for the training rows do so after the features: that is told
    only if no feature has changed. Where a month or a rate is another one, they may follow it, and
    have not changed overnight.
    """
    names = {name for known in recent.trainings.values() for name in known.references}
    of_features = {name: _find_views(name, recent, total) for name in sorted(names)}
    of_models = {
        f"predictions of {name}": _view_scores(name, recent, total) for name in recent.scores
    }
    features, scores = (
        {name: change for name, views in named.items() if (change := changes.find_change(views))}
        for named in (of_features, of_models)
    )
    if features:
        scores = {name: change._replace(is_new=False) for name, change in scores.items()}
    if any(
        changes.has_moved_date(views)
        for name, views in of_features.items()
        if name not in features or not features[name].is_overnight
    ):
        scores = {
            name: change._replace(is_overnight=False, is_step=change.is_step or change.is_overnight)
            for name, change in scores.items()
        }
    return features | scores


def _view_scores(model_name: str, recent: Recent, total: Batch) -> list[View]:
    """A live model's predictions, as those for the rows held out were counted."""
    counts = {
        night: _add(PREDICTION, counts, [model_name]) for night, counts in recent.nights.items()
    }
    nights = {night: counted for night, counted in counts.items() if counted}
    tonight = _add(PREDICTION, total.feature_counts, [model_name])
    references = recent.scores[model_name].values() if tonight else ()
    return [
        View(reference, [model_name], True, tonight, nights) for reference in references if tonight
    ]


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

    That a feature has left the training rows of a model is told on the first such night. What has
    changed by less than what is far is told, and never refused.

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
    others = {name: change for name, change in changed.items() if not change.is_overnight}
    left = {name: change for name, change in others.items() if change.is_new}
    told = {
        name: change
        for name, change in others.items()
        if (change.oddity or change.is_step) and name not in left
    }
    words = _check_size(night, recent, total) + _check_renewal(night, recent, total)
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
        words += _name_for_closing("changed overnight", overnight)
    if told:
        night.warn(
            f"{file}: these features are not quite what they were:\n{_list(told)}\n"
            "It is told, and never refused. A column or a part of one that was loaded wrongly looks"
            " like this: if it was, mend it, then predict again with --force."
        )
        words += _name_for_closing("unlike the newest nights", told)
    if left:
        night.warn(
            f"{file}: these features are not what their models were trained with:\n{_list(left)}\n"
            "It is told once for a model. Look which is wrong, the night or the training rows; if"
            " neither is, and it stays so, train anew. feature_drift follows it."
        )
        words += _name_for_closing("unlike the training rows", left)
    return words


def _check_size(night: Night, recent: Recent, total: Batch) -> str:
    """Warn of a night that has far fewer or far more candidates than the newest had.

    Once a week is known, they must differ by more than these do among themselves.
    """
    if len(recent.sizes) < N_FEW:
        return ""
    least, most, n = min(recent.sizes.values()), max(recent.sizes.values()), total.n_rows
    is_known = len(recent.sizes) >= N_NIGHTS
    times = min(max(LEAST, most / max(least, 1)), MOST) if is_known else MOST
    is_few = times * n < least and poisson.cdf(n, least) < CHANCE
    is_many = n > times * most and poisson.sf(n - 1, most) < CHANCE
    if not (is_few or is_many):
        return ""
    night.warn(
        f"{night.experiment.query('candidates').file}: returned {n:,} candidates; the newest"
        f" {len(recent.sizes)} nights had {least:,} to {most:,}. Look whether the night's table is"
        " loaded, once and in full; if not, mend it, then predict again with --force."
    )
    return f"; {n:,} candidates after {least:,} to {most:,} a night"


def _check_renewal(night: Night, recent: Recent, total: Batch) -> str:
    """Warn of a night whose rows are those of an earlier one: a load that was not renewed."""
    twin = find_twin(recent, total)
    if twin is None:
        return ""
    night.warn(
        f"{night.experiment.query('candidates').file}: the features of all {total.n_rows:,}"
        f" candidates are those of {twin}, row by row, and so far no two nights were alike. Look"
        " whether the night's table was renewed; if not, mend it, then predict again with --force."
    )
    return f"; the same features as on {twin}"


def find_twin(recent: Recent, total: Batch) -> date | None:
    """The newest night of which all features were those of tonight, and not by chance.

    None if fewer than three nights are done, or if two of them are alike: where people stand
    still, at weekends too, they do so tonight. So it is told once.
    """
    counts = total.feature_counts
    tonight = _add(ROWS, counts, counts)
    nights = [rows.counts for rows in recent.rows.values()]
    if len(nights) < N_FEW or any(rows in nights[:i] for i, rows in enumerate(nights)):
        return None
    twins = [night for night, rows in recent.rows.items() if rows == tonight]
    return twins[-1] if twins and _count_cells(recent, counts) >= N_CELLS else None


def _count_cells(recent: Recent, counts: ModelCounts) -> int:
    """Cells of all features that hold rows, but one of each, of the model that has most."""
    names = {name for known in recent.trainings.values() for name in known.references}
    cells = (
        sum(np.count_nonzero(of_model[name].counts) - 1 for name in names & {*of_model})
        for of_model in counts.values()
    )
    return int(max(cells, default=0))


def _name_for_closing(what: str, changed: Mapping[str, Change]) -> str:
    return f"; {what}: {', '.join(cut_list([*changed], N_SHOWN))}"


def _list(changed: Mapping[str, Change]) -> str:
    lines = [f"  {name}: {describe(change)}" for name, change in changed.items()]
    return "\n".join(cut_list(lines, N_SHOWN, "more features"))


def describe(change: Change) -> str:
    """What is in more rows than before, and how far that is from the training and the nights."""
    view = change.view
    psi, noise = changes.measure_from(None, view)
    joint = " and " if len(view.model_names) <= N_NAMES else ", "
    names = joint.join(cut_list(view.model_names, N_NAMES))
    distances = f"PSI {psi:.2f} against the training rows of {names} (noise {noise:.2f})"
    if change.nearest is None:
        return f"{_describe_rows(change)}; {distances}; no earlier night to compare with"
    psi, noise = changes.measure_from(*change.nearest)
    nearest = f"{psi:.2f} against {change.nearest[0]}, the nearest night (noise {noise:.2f})"
    return f"{_describe_rows(change)}; {distances} and {nearest}"


def _describe_rows(change: Change) -> str:
    """What is in more rows than it was."""
    if change.oddity and not change.is_overnight and not change.is_new:
        return changes.describe_oddity(change.view, change.oddity)
    is_since_night = change.is_overnight or not change.is_new
    since = change.nearest if change.nearest and is_since_night else (None, change.view)
    return changes.describe_rise(*since)
