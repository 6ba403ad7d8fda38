"""What the code says that it is: by git, in an archive, as it was built and installed."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import abatch
from abatch import version
from tests.conftest import ROOT

COPIED = ("abatch", "backend", "sql")
ASK = "from abatch import version; print(version.code_version()); print(version.describe_doubt())"
V = abatch.__version__
HASH = r"[0-9a-f]{12}"


def copy_tree(folder: Path) -> Path:
    """What of the tree is under test, without git's own folder."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    files = ("pyproject.toml", "README.md", "LICENSE", "ml_config.yaml", ".gitattributes")
    for name in (*files, "train.py", "predict.py", "score.py"):
        shutil.copy(ROOT / name, folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "all")
    return git(folder, "rev-parse", "--short", "HEAD")


def ask(folder: Path, **environment: str) -> tuple[str, str]:
    """The version that the code in a folder tells, and its doubt."""
    told = subprocess.run(
        [sys.executable, "-B", "-c", ASK],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    name, doubt = told.stdout.splitlines()
    return name, doubt


def build(what: str, source: Path, folder: Path) -> Path:
    """As pip asks the tree's own backend for it, without a package registry."""
    code = (
        "import sys; sys.path.insert(0, 'backend'); import commit;"
        f" print(commit.build_{what}(sys.argv[1]))"
    )
    command = [sys.executable, "-B", "-c", code, str(folder)]
    built = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return folder / built.stdout.strip()


def install(wheel: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", str(folder), str(wheel)], check=True)
    return folder


def test_code_version_of_a_clone(tmp_path: Path) -> None:
    head = commit(copy_tree(tmp_path))
    assert ask(tmp_path) == (f"{V}+{head}", "")
    (tmp_path / "train.py").write_text("")
    assert ask(tmp_path) == (f"{V}+{head}-dirty", "")


@pytest.mark.parametrize("where", ["no .git", "no git", "another's repository", "another's folder"])
def test_code_version_where_git_does_not_answer(tmp_path: Path, where: str) -> None:
    """It says so in git's own words, and hashes what the commit would stand for."""
    tree, environment = tmp_path / "tree", {}
    tree.mkdir()
    copy_tree(tree)
    if where == "no .git":
        said = "not a git repository"
        environment["GIT_CEILING_DIRECTORIES"] = str(tmp_path)
    elif where == "no git":
        commit(tree)
        said, environment["PATH"] = "git is not installed", str(tmp_path)
    elif where == "another's repository":
        git(tmp_path, "init", "--quiet")
        said = "pathspec 'abatch/version.py' did not match"
    else:
        if os.getuid():
            pytest.skip("only root gives folders away")
        commit(tree)
        for path in (tree, tree / ".git"):
            os.chown(path, 65534, 65534)
        said = "detected dubious ownership in repository"
    told, doubt = ask(tree, **environment)
    assert re.fullmatch(rf"{re.escape(V)}\+unknown\.{HASH}", told)
    assert re.match(
        rf"nobody can tell whether the code in {tree} is that of a commit \(git says: .*{said}"
        rf".*\)\. Its hash is recorded: {re.escape(told)}\. Run the jobs from a clone",
        doubt,
    )
    assert f"git config --global --add safe.directory {tree}" in doubt


def test_code_version_without_git_tells_trees_apart(tmp_path: Path) -> None:
    """The same tree has the same on two machines, whatever else lies there."""
    trees = [tmp_path / "one", tmp_path / "elsewhere" / "other"]
    for tree in trees:
        tree.mkdir(parents=True)
        copy_tree(tree)
    quiet = {"GIT_CEILING_DIRECTORIES": f"{tmp_path}:{tmp_path / 'elsewhere'}"}
    (trees[1] / "models").mkdir()
    (trees[1] / "models" / "modelA.pkl").touch()
    (trees[1] / "abatch" / "__pycache__").mkdir()
    (trees[1] / "abatch" / "__pycache__" / "job.cpython-311.pyc").touch()
    seen = {ask(tree, **quiet)[0] for tree in trees}
    assert len(seen) == 1
    for name in ("abatch/job.py", "train.py", "sql/card_offer/training.sql", "ml_config.yaml"):
        with (trees[1] / name).open("a") as file:
            file.write("\n")
        seen.add(ask(trees[1], **quiet)[0])
    (trees[1] / "my_models.py").touch()
    seen.add(ask(trees[1], **quiet)[0])
    os.rename(trees[1] / "my_models.py", trees[1] / "models.py")
    seen.add(ask(trees[1], **quiet)[0])
    assert len(seen) == 7


def test_code_version_of_an_archive(tmp_path: Path) -> None:
    """It names its commit, and a hash: nobody can tell whether it was changed since."""
    source, tree = tmp_path / "source", tmp_path / "tree"
    source.mkdir()
    head = commit(copy_tree(source))
    git(source, "archive", "--output", str(tmp_path / "tree.tar"), "HEAD")
    with tarfile.open(tmp_path / "tree.tar") as archive:
        archive.extractall(tree, filter="data")
    quiet = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    told, doubt = ask(tree, **quiet)
    assert re.fullmatch(rf"{re.escape(V)}\+{head}\.{HASH}", told)
    assert "git says: fatal: not a git repository" in doubt
    with (tree / "train.py").open("a") as file:
        file.write("\n")
    assert ask(tree, **quiet)[0] not in (told, f"{V}+{head}")


@pytest.mark.parametrize("through", ["wheel", "sdist", "a dirty tree"])
def test_code_version_of_an_installed_package(tmp_path: Path, through: str) -> None:
    """It carries the commit of what was built, and sees what is changed in it."""
    source = tmp_path / "source"
    source.mkdir()
    head = commit(copy_tree(source))
    if through == "a dirty tree":
        (source / "train.py").write_text("")
        head += "-dirty"
    elif through == "sdist":
        built = build("sdist", source, tmp_path)
        with tarfile.open(built) as archive:
            archive.extractall(tmp_path / "unpacked", filter="data")
        (source,) = (tmp_path / "unpacked").iterdir()
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    site = install(build("wheel", source, tmp_path), tmp_path / "site")
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
    assert ask(site) == (f"{V}+{head}", "")
    with (site / "abatch" / "job.py").open("a") as file:
        file.write("\n")
    assert ask(site) == (f"{V}+{head.removesuffix('-dirty')}-dirty", "")


def test_is_dirty_and_is_unknown() -> None:
    for told, is_dirty, is_unknown in (
        ("0.1.0+05bad64", False, False),
        ("0.1.0+05bad64-dirty", True, False),
        ("0.1.0+unknown.05bad6405bad", False, True),
        ("0.1.0+05bad64.05bad6405bad", False, True),
        ("0.1.0+unknown.05bad6405bad-dirty", True, False),
        ("0.1.0", False, False),
    ):
        assert (version.is_dirty(told), version.is_unknown(told)) == (is_dirty, is_unknown)
