"""Libraries: what a model depends on.

Nothing is unpickled under a version that does not promise to read it.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from filelock import FileLock
from pydantic import SecretStr
from sklearn.dummy import DummyClassifier

import predict
from abatch.config import Experiment
from abatch.database import connections, migrations
from abatch.database.tables import models
from abatch.errors import RegistryError
from abatch.modelling import libraries, registry
from abatch.modelling.categories import CategoryEncoder
from tests.conftest import FIRST_NIGHT, ROOT
from tests.test_registry import write_files

PLACE = "models/modelA_v1.0_2026-09-07.pkl"
TRAINED = {
    "python": "3.11.7",
    "joblib": "1.5.3",
    "numpy": "2.3.1",
    "pandas": "3.0.0",
    "scikit-learn": "1.9.1",
    "scipy": "1.17.1",
    "threadpoolctl": "3.6.0",
    "lightgbm": "4.6.0",
}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed here: what the model was trained with, until the test says otherwise."""
    installed = dict(TRAINED)
    monkeypatch.setattr(libraries, "find_version", installed.get)
    return installed


def test_check_all_the_same(here: dict[str, str]) -> None:
    here["pytest"] = "9.2"  # of which the model knows nothing
    assert libraries.check(TRAINED, PLACE) == ""


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("python", "3.11.9"),
        ("python", "3.13.0"),
        ("numpy", "2.4.0"),
        ("numpy", "2.3.10"),  # ten is more than one
        ("pandas", "3.1"),
        ("joblib", "1.6.0"),
        ("scipy", "1.17.2"),  # a bug fix, in either direction
        ("scipy", "1.17.0"),
        ("threadpoolctl", "2.0"),  # nothing of it is in a pickle
    ],
)
def test_check_promised(here: dict[str, str], name: str, version: str) -> None:
    here[name] = version
    expected = (
        f"{PLACE}: was trained with {name} {TRAINED[name]} (here {version}); the libraries promise"
        " that it works"
    )
    assert libraries.check(TRAINED, PLACE) == expected


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("numpy", "2.3.0"),
        ("numpy", "2.2.9"),
        ("numpy", "3.0.0"),
        ("pandas", "2.9.0"),
        ("joblib", "1.5.2"),
        ("scikit-learn", "1.9.2"),
        ("scikit-learn", "1.9.0"),
        ("scikit-learn", "1.10.1"),
        ("scipy", "1.18.0"),
        ("scipy", "1.16.9"),
        ("lightgbm", "4.6.1"),  # promises nothing
    ],
)
def test_check_not_promised(here: dict[str, str], name: str, version: str) -> None:
    here[name] = version
    with pytest.raises(RegistryError) as caught:
        libraries.check(TRAINED, PLACE)
    assert (
        str(caught.value)
        == f"{PLACE}: was trained with {name} {TRAINED[name]} (here {version}), which does not"
        " promise that the file can be opened. It is not opened. Install what it was trained"
        f" with (pip install {name}=={TRAINED[name]}), train anew (python train.py --force), or"
        " roll back to a model of today's versions."
    )


@pytest.mark.parametrize("name", ["numpy", "scikit-learn", "lightgbm"])
def test_check_not_installed(here: dict[str, str], name: str) -> None:
    del here[name]
    message = (
        rf"{name} {TRAINED[name]} \(here not installed\), which does not promise .* \(pip install"
        rf" {name}=={TRAINED[name]}\)"
    )
    with pytest.raises(RegistryError, match=message):
        libraries.check(TRAINED, PLACE)


@pytest.mark.parametrize("version", ["3.10.9", "3.11.6", "4.0.0"])
def test_check_another_python(here: dict[str, str], version: str) -> None:
    here["python"] = version
    message = (
        rf"python 3\.11\.7 \(here {version}\), which does not .* It is not opened\. Run it with"
        r" that Python, train anew"
    )
    with pytest.raises(RegistryError, match=message):
        libraries.check(TRAINED, PLACE)


def test_check_tells_only_what_is_unsafe(here: dict[str, str]) -> None:
    here |= {"numpy": "2.4.0", "scikit-learn": "1.9.2", "lightgbm": "4.5.0", "python": "3.10.0"}
    with pytest.raises(RegistryError) as caught:
        libraries.check(TRAINED, PLACE)
    assert (
        "python 3.11.7 (here 3.10.0), scikit-learn 1.9.1 (here 1.9.2), lightgbm 4.6.0 (here 4.5.0),"
        " which" in str(caught.value)
    )
    assert "(pip install scikit-learn==1.9.1 lightgbm==4.6.0)" in str(caught.value)
    assert "numpy" not in str(caught.value)


def test_find_differences(here: dict[str, str]) -> None:
    here |= {"numpy": "2.4.0", "new": "1.0"}
    assert libraries.find_differences({"python": "3.11.7", "numpy": "2.3.1", "gone": "1.0"}) == {
        "numpy": ("2.3.1", "2.4.0"),
        "gone": ("1.0", None),
    }
    assert (
        libraries.describe({"numpy": ("2.3.1", "2.4.0"), "gone": ("1.0", None)})
        == "numpy 2.3.1 (here 2.4.0), gone 1.0 (here not installed)"
    )


def test_find_libraries_and_what_they_require() -> None:
    found = libraries.find_libraries()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    for name in (
        "scikit-learn",
        "pandas",
        "pyarrow",
        "scipy",
        "joblib",
        "threadpoolctl",
        "python-dateutil",
    ):
        assert found[name] == importlib.metadata.version(name)
    assert not {"pytest", "sqlalchemy", "filelock"} & found.keys()  # extras are not required
    assert libraries.check(found, PLACE) == ""
    assert libraries.find_differences(found) == {}


def test_find_libraries_of_an_estimator() -> None:
    """The package that a part of the pipeline comes from, with all that it requires.

    Code that is in no package is no library.
    """

    class Own(DummyClassifier):
        pass

    base = libraries.find_libraries()
    assert libraries.find_libraries([DummyClassifier(), Own(), None, "passthrough"]) == base
    assert libraries.find_libraries([FileLock("x")]) == {
        **base,
        "filelock": importlib.metadata.version("filelock"),
    }
    found = libraries.find_libraries([sa.column("x")])
    assert {"sqlalchemy", "typing-extensions"} == found.keys() - base.keys() - {"greenlet"}


def test_find_libraries_abatch_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wheel may be installed; models of an older one are opened all the same."""
    base = libraries.find_libraries()
    monkeypatch.setattr(libraries, "find_owners", lambda: {"abatch": ["filelock"]})
    assert libraries.find_libraries([CategoryEncoder()]) == base


def test_list_installed_names_as_the_index_has_them() -> None:
    found = libraries.list_installed()
    assert {"scikit-learn", "typing-extensions", "pyyaml"} <= found.keys()
    assert all(name == name.lower() and "_" not in name for name in found)
    assert list(found) == sorted(found)


class Trap:
    """Loading it makes a folder: it tells that something was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


LOAD = """
import sys
from pathlib import Path
from pydantic import SecretStr
from abatch import errors
from abatch.database import connections
from abatch.modelling import registry
folder = Path(sys.argv[1])
with connections.make_engine(SecretStr(sys.argv[2]), None, folder, "here").connect() as connection:
    try:
        registry.load_model(connection, folder, "modelA_v1.0_2026-09-07")
    except errors.RegistryError as error:
        print(error)
"""


@pytest.mark.parametrize("version", [None, "0.1"])
def test_load_model_refuses_before_unpickling(
    tmp_path: Path, sqlite_url: str, version: str | None
) -> None:
    """Another scikit-learn lies before the environment's own on the path."""
    models_dir, first = tmp_path / "models", tmp_path / "first"
    models_dir.mkdir()
    engine = connections.make_engine(SecretStr(sqlite_url), None, tmp_path, "here")
    migrations.upgrade(engine)
    name, trap = "modelA_v1.0_2026-09-07", Trap(tmp_path / "sprung")
    card = write_files(models_dir, name, trap, libraries=libraries.find_libraries())
    with engine.begin() as connection:
        registry.add_model(connection, card)
    engine.dispose()
    if version is not None:
        (first / "scikit_learn-0.1.dist-info").mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: scikit-learn\nVersion: {version}\n"
        (first / "scikit_learn-0.1.dist-info" / "METADATA").write_text(metadata)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(first), str(ROOT)])}
    command = [sys.executable, "-c", LOAD, str(models_dir), sqlite_url]
    said = subprocess.run(
        command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert (tmp_path / "sprung").exists() == (version is None)
    now = importlib.metadata.version("scikit-learn")
    expected = (
        f"{models_dir / name}.pkl: was trained with scikit-learn {now} (here {version}), which does"
        " not promise"
    )
    assert said == "" if version is None else said.startswith(expected)


def test_load_model_refuses_another_scikit_learn(tmp_path: Path, sqlite_url: str) -> None:
    engine = connections.make_engine(SecretStr(sqlite_url), None, tmp_path, "here")
    migrations.upgrade(engine)
    trap, installed = tmp_path / "sprung", libraries.list_installed()
    with engine.begin() as connection:
        for name, trained in (
            ("modelA_v1.0_2026-09-07", "1.0.0"),
            ("modelA_v1.0_2026-09-08", installed["scikit-learn"]),
        ):
            then = {**libraries.find_libraries(), "scikit-learn": trained}
            card = write_files(tmp_path, name, Trap(trap), libraries=then)
            registry.add_model(connection, card)
        with pytest.raises(
            RegistryError,
            match=r"scikit-learn 1\.0\.0 \(here .* \(pip install scikit-learn==1\.0\.0\)",
        ):
            registry.load_model(connection, tmp_path, "modelA_v1.0_2026-09-07")
        assert not trap.exists()
        assert registry.load_model(connection, tmp_path, "modelA_v1.0_2026-09-08").warning == ""
        assert trap.exists()  # so the trap does spring
    engine.dispose()


def test_predict_warns_when_libraries_differ_and_promise_that_it_works(
    week: Experiment, week_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with week_engine.begin() as connection:
        for row in connection.execute(sa.select(models)).all():
            card = json.loads(row.card)
            card["libraries"]["numpy"] = card["libraries"]["numpy"].split(".")[0] + ".0.1"
            connection.execute(
                models.update()
                .where(models.c.model_name == row.model_name)
                .values(card=json.dumps(card))
            )
    predict.predict(week, week_engine, FIRST_NIGHT)
    assert "was trained with numpy 2.0.1 (here 2." in capsys.readouterr().err
    with week_engine.begin() as connection:
        connection.execute(
            models.update().values(card=json.dumps({**card, "libraries": {"scikit-learn": "1.0"}}))
        )
    with pytest.raises(
        RegistryError,
        match=r"was trained with scikit-learn 1\.0 \(here .*pip install scikit-learn==1\.0\)",
    ):
        predict.predict(week, week_engine, FIRST_NIGHT, force=True)
