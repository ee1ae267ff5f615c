"""The wheel: what is in it, that the links at the root play no part, and that it works outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = ("taxonomy", "registry", "estimators", "diagnostics", "reports")
IGNORED = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", "build", "demo", "docs", ".venv", "tests")

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the repository")


def build_wheel(folder: Path, links: bool) -> Path:
    """The wheel of a copy of the repository, with the links at its root or without them."""
    copy = folder / "copy"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=IGNORED)
    for name in LINKS:
        assert (copy / name).is_symlink()
        if not links:
            (copy / name).unlink()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(copy)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("with-links"), links=True)


def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_links_change_nothing(wheel, tmp_path) -> None:
    assert contents(build_wheel(tmp_path, links=False)) == contents(wheel)


def test_every_file_of_the_package_is_in_it(wheel) -> None:
    tracked = subprocess.run(["git", "ls-files", "gradaxis"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("needs git to know which files belong to the package")
    expected = {line for line in tracked.stdout.splitlines() if (ROOT / line).is_file()}
    assert expected <= contents(wheel)
    assert {name.split("/")[0] for name in contents(wheel) if "dist-info" not in name} == {"gradaxis"}


@pytest.mark.parametrize("words", [["list"], ["show", "dapo"], ["validate"], ["diff", "grpo", "gspo"]])
def test_queries_work_from_the_wheel_alone(wheel, tmp_path, words) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    code = f"from gradaxis import cli; assert cli.__file__.startswith({str(tmp_path)!r}); cli.app({words!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
