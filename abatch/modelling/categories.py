"""Categories as codes; one of them, which each model has learnt, is for what is rare or new."""

from zlib import crc32

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from abatch.modelling.features import MIN_ROWS

N_HIDDEN, LEAST, MOST = 100, 0.02, 0.1  # rows with a hidden category: number, shares
_SEED = 1_212  # of the draw of these: unlike one that somebody else may have drawn rows with


class CategoryEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Whole numbers from 0 on, for trees: of categories, of null and of all that is rare or new.

    What a model has not learnt it predicts by whatever branch it falls into, so the code of the new
    must be there in training: some rows, drawn at random in each column, have their category
    hidden, and are coded as new. So the new is predicted as the rest of a row says. Null has a code
    of its own unless it is rare.

    Codes go by the alphabet, null last; that of the new lies between two categories which together
    are nearest to the rate of all rows, for trees that know nothing but numbers.

    Parameters
    ----------
    max_codes : at most; the most common categories have one of their own

    Attributes
    ----------
    codes_ : of each column, the code of each category, null as None
    other_ : of each column, the code of the rare and the new
    """

    def __init__(self, max_codes: int = 200) -> None:
        self.max_codes = max_codes

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> "CategoryEncoder":
        """Learn the codes."""
        self.fit_transform(X, y)
        return self

    def fit_transform(self, X: pd.DataFrame, y: np.ndarray) -> np.ndarray:
        """Learn the codes; returns those to fit on, some of them hidden."""
        share = min(max(N_HIDDEN / len(X), LEAST), MOST)
        self.codes_: list[dict[str | None, int]] = []
        self.other_: list[int] = []
        columns = []
        for name in X:
            values = _with_none(X[name])
            n_rows = values.value_counts(dropna=False)
            common = n_rows[n_rows >= MIN_ROWS].index[: self.max_codes - 1]
            common = common.sort_values(na_position="last")
            code = common.get_indexer(values)
            rng = np.random.default_rng([_SEED, crc32(name.encode())])  # wherever the column stands
            code[rng.random(len(X)) < share] = -1
            other = _find_gap(np.bincount(code + 1), np.bincount(code + 1, y))
            columns.append(np.where(code < 0, other, code + (code >= other)))
            self.other_.append(other)
            codes = np.arange(len(common))
            self.codes_.append(dict(zip(common, (codes + (codes >= other)).tolist(), strict=True)))
        return np.stack(columns, axis=1) if columns else np.empty((len(X), 0), dtype=np.int64)

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Codes, array of int of the shape of X."""
        codes = np.empty(X.shape, dtype=np.int64)
        for number, name in enumerate(X):
            known, other = self.codes_[number], self.other_[number]
            code, values = pd.factorize(X[name])  # null is -1, the last
            of_values = [known.get(value, other) for value in (*values, None)]
            codes[:, number] = np.array(of_values)[code]
        return codes

    def get_feature_names_out(self, names: np.ndarray) -> np.ndarray:
        """The columns' own names."""
        return np.asarray(names, dtype=object)


class CategoryFrame(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A DataFrame whose first columns, which hold codes, are categories to pandas.

    LightGBM, XGBoost and CatBoost know them by that. They are the same whatever rows are to be
    predicted, since XGBoost before 3.1 knows a category by its place among these.

    Parameters
    ----------
    n_categories : how many are

    Attributes
    ----------
    dtypes_ : of these columns, by place: all codes, and one more, for no row may have been new
    """

    def __init__(self, n_categories: int) -> None:
        self.n_categories = n_categories

    def fit(self, X: np.ndarray, y: object = None) -> "CategoryFrame":
        """Learn how many codes there are."""
        n_codes = X[:, : self.n_categories].max(axis=0, initial=0).astype(np.int64) + 2
        self.dtypes_ = {str(i): pd.CategoricalDtype(range(n)) for i, n in enumerate(n_codes)}
        return self

    def transform(self, X: np.ndarray) -> pd.DataFrame:
        """The columns, named by their places."""
        frame = pd.DataFrame(X).set_axis(map(str, range(X.shape[1])), axis="columns")
        return frame.astype(dict.fromkeys(self.dtypes_, np.int64)).astype(self.dtypes_)


def _with_none(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), None)


def _find_gap(n_rows: np.ndarray, n_ones: np.ndarray) -> int:
    """Before which code the new is put: where both neighbours are nearest to the rate of all.

    Parameters
    ----------
    n_rows, n_ones : of rows whose category is new, and of those with each category
    """
    rate = n_ones.sum() / n_rows.sum()
    rows, ones = (np.pad(counts[1:], 1) for counts in (n_rows, n_ones))
    neighbours = (ones[:-1] + ones[1:] + rate) / (rows[:-1] + rows[1:] + 1)
    return int(np.abs(neighbours - rate).argmin())
