"""Every help text ends with an example, and every example runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import gradaxis
from gradaxis.cli import app

GROUP = get_command(app)
COMMANDS = {"": GROUP, **GROUP.commands}  # type: ignore[attr-defined]
QUICK = {"", "list", "show", "diff", "failures", "compounds", "operators", "validate", "new"}


def example(name: str) -> list[str]:
    epilog = COMMANDS[name].epilog
    assert epilog is not None, f"gradaxis {name} has no example"
    word, _, line = epilog.partition("Example: ")
    assert (word, line.split()[0]) == ("", "gradaxis")
    return shlex.split(line)[1:]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_ends_with_an_example_of_the_command(run, name) -> None:
    text = " ".join(run(*([name] if name else []), "--help").stdout.split())
    assert text.endswith(" ".join(COMMANDS[name].epilog.split()))
    assert example(name)[0] == name or not name


@pytest.mark.parametrize("name", sorted(QUICK))
def test_example_runs(run, name) -> None:
    result = run(*example(name))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout


def test_examples_of_probe_and_report_run(run) -> None:
    for name in ("probe", "report"):  # the second reads what the first one wrote
        result = run(*example(name))
        assert result.exit_code == 0, result.output
        assert result.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_text(run, name, snapshot) -> None:
    assert run(name, "--help").stdout == snapshot


@pytest.mark.parametrize("name", sorted(QUICK - {""}))
def test_no_tensor_library_is_imported(tmp_path, name) -> None:
    code = (
        "import sys; from gradaxis.cli import app\n"
        f"try: app({example(name)!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_package_imports_nothing_heavy() -> None:
    code = "import sys, gradaxis; assert not {'torch', 'pydantic', 'yaml'} & set(sys.modules); gradaxis.load_registry"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert gradaxis.__version__ == project["project"]["version"]


def test_module_runs_like_the_script() -> None:
    done = subprocess.run([sys.executable, "-m", "gradaxis", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "gradaxis")
