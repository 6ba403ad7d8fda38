"""The wheel, and pyproject.toml, requirements*.lock and environment.yml, which name the same."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import abatch
from tests.conftest import ROOT, write_config

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = [Requirement(text) for text in PROJECT["dependencies"]]
DEV_DEPENDENCIES = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]
CONDA_ONLY = {"python", "pip", "unixodbc"}  # what pip takes from the system
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)( ;[^\\]*)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def read_lock(name: str) -> dict[str, set[Version]]:
    """Versions of each package, more than one if Python versions differ.

    Every line must be a pin, its hash or a comment.
    """
    pins: dict[str, set[Version]] = {}
    n_hashes: list[int] = []
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if pin := PIN.match(line):
            pins.setdefault(canonicalize_name(pin[1]), set()).add(Version(pin[2]))
            n_hashes.append(0)
        elif HASH.match(line):
            n_hashes[-1] += 1
        else:
            assert line.lstrip().startswith("#"), line
    assert all(n_hashes)
    return pins


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("requirements.lock", DEPENDENCIES),
        ("requirements-dev.lock", [*DEPENDENCIES, *DEV_DEPENDENCIES]),
    ],
)
def test_lock_pins_every_dependency(lock: str, requirements: list[Requirement]) -> None:
    pins = read_lock(lock)
    for requirement in requirements:
        found = pins[canonicalize_name(requirement.name)]
        assert all(pinned in requirement.specifier for pinned in found), requirement
        for extra in requirement.extras:
            assert pins[canonicalize_name(f"{requirement.name}-{extra}")] == found


def test_locks_agree() -> None:
    pins, dev_pins = read_lock("requirements.lock"), read_lock("requirements-dev.lock")
    assert {name: dev_pins.get(name) for name in pins} == pins


def test_dependencies_have_floors_only() -> None:
    for requirement in (*DEPENDENCIES, *DEV_DEPENDENCIES):
        assert [specifier.operator for specifier in requirement.specifier] == [">="], requirement


def test_installed_versions_satisfy_the_floors() -> None:
    for requirement in DEPENDENCIES:
        assert Version(version(requirement.name)) in requirement.specifier, requirement


def test_environment_names_the_same_packages_and_floors() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert (environment["name"], environment["channels"]) == ("abatch", ["conda-forge"])
    *packages, by_pip = environment["dependencies"]
    found = {
        re.split("[=>]", text)[0]: re.sub("^[a-z0-9-]+", "", text)
        for text in [*packages, *by_pip["pip"]]
    }
    expected = {requirement.name: str(requirement.specifier) for requirement in DEPENDENCIES}
    assert {name: floor for name, floor in found.items() if name not in CONDA_ONLY} == expected
    assert found.keys() >= CONDA_ONLY
    assert Version(found["python"].removeprefix("=")) in SpecifierSet(PROJECT["requires-python"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy of the tree without a package registry."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("abatch", "backend"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(folder)]
    subprocess.run([*command, str(source)], check=True, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_has_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "abatch").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == tracked
    suffixes = {Path(name).suffix for name in names}
    assert suffixes >= {".py", ".j2", ".sql", ".md"}
    assert "abatch/py.typed" in names


def test_version_is_one(wheel: Path) -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert wheel.name == f"abatch-{abatch.__version__}-py3-none-any.whl"


def test_installed_wheel_runs_without_a_checkout(wheel: Path, tmp_path: Path) -> None:
    """The console script: its version, and init by the ml_config.yaml of the current folder."""
    site, folder = tmp_path / "site", tmp_path / "folder"
    folder.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True, cwd=tmp_path)
    write_config(folder, "sqlite:///bank.db")

    def run(*arguments: str, script: Path | None = site / "bin" / "abatch") -> str:
        command = [sys.executable, *([str(script)] if script else []), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(site), "ABATCH_ENV": "dev"}
        return subprocess.run(
            command, cwd=folder, env=environment, check=True, capture_output=True, text=True
        ).stdout

    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "theirs"], check=True)
    asked = "from abatch import version; print(version.code_version())"
    told = run("-c", asked, script=None)  # not that repository's commit
    assert re.fullmatch(rf"{re.escape(abatch.__version__)}\+unknown\.[0-9a-f]{{12}}\n", told)
    assert run("--version") == f"abatch {abatch.__version__}\n"
    assert run("init") == f"sqlite:///{folder}/bank.db: abatch's tables are ready\n"
    assert run("status").startswith("card_offer in dev (sqlite:///")


def test_crontab_names_what_exists() -> None:
    """Each line has a time, a script that is there, its options and an environment."""
    lines = (ROOT / "crontab.txt").read_text(encoding="utf-8").splitlines()
    jobs = [line for line in lines if line[:1].isdigit()]
    environments = yaml.safe_load((ROOT / "ml_config.yaml").read_text(encoding="utf-8"))[
        "environments"
    ]
    found = {re.search(r"\.venv/bin/python (\w+\.py) --env (\w+)$", line).groups() for line in jobs}  # type: ignore[union-attr]
    assert found == {
        (f"{script}.py", name)
        for script in ("train", "predict", "score")
        for name in ("test", "prod")
    }
    assert {name for _, name in found} <= set(environments)
    times = [re.match(r"\d+ (\d+) \* \* \* +cd \$ABATCH_HOME && ", line) for line in jobs]
    assert all(time and not 1 <= int(time[1]) < 3 for time in times)  # summer time begins and ends
