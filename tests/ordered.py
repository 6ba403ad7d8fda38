"""An estimator that does as it is told while a night is predicted, in whichever process that is."""

import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV


class Ordered(LogisticRegression):
    """Predicts, once it has done what the file says whose path is in the variable ORDER.

    Such as `die`, which is done once; whoever hangs, or hangs in fit, leaves a file by the number
    of its process.
    """

    def predict_proba(self, X: Any) -> Any:
        path = Path(os.environ.get("ORDER", "nowhere"))
        order = path.read_text("utf-8") if path.exists() else ""
        if order == "die":
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == "hang":
            hang(path)
        elif order == "raise":
            raise ValueError("Ærø is not an island here")
        elif order == "talk":
            print("I predict", flush=True)
            os.system("echo so does my child")
            warnings.warn("predictions are hard", stacklevel=1)
        return super().predict_proba(X)

    def fit(self, X: Any, y: Any) -> Any:
        if "ORDER" in os.environ:
            path = Path(os.environ["ORDER"])
            path.with_name(f"{os.getpid()}.fit").touch()
            order = path.read_text("utf-8") if path.exists() else ""
            if order == "hang in fit":
                hang(path)
            elif order.startswith("die in fit"):
                if order.endswith("once"):
                    path.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(X, y)

    def __setstate__(self, state: dict[str, Any]) -> None:
        print("I am loaded", flush=True)
        super().__setstate__(state)


def hang(path: Path) -> None:
    path.with_name(f"{os.getpid()}.pid").touch()
    time.sleep(600)


def make_search() -> GridSearchCV:
    return GridSearchCV(Ordered(max_iter=300), {"C": [0.001, 0.1, 10.0]}, scoring="roc_auc", cv=3)
