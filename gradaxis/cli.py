"""The command line: it parses, calls and prints. Data goes to standard output, everything else to standard error.

Exit codes: 0 fine, 1 problems found, 2 wrong usage, 3 not assessed.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from gradaxis.cli_format import Format, emit
from gradaxis.cli_measuring import add_measuring_commands
from gradaxis.errors import GradaxisError, RegistryError

if TYPE_CHECKING:
    from gradaxis.taxonomy import Method, Registry


class _Group(TyperGroup):
    """Turns gradaxis errors into a message on standard error and their exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GradaxisError as error:
            heading = "files do not validate\n" if isinstance(error, RegistryError) else ""
            typer.echo(f"gradaxis: {heading}{error}", err=True)
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    cls=_Group, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Ask what policy-gradient methods do, compile them into estimators, and measure them on your own model.",
    epilog="Example: gradaxis list --family post-grpo",
)  # fmt: skip

FormatOption = Annotated[Format, typer.Option("--format", help="How to print the data.")]
MethodArgument = Annotated[
    str, typer.Argument(metavar="ID", help="An id, an alias, a YAML file, or one with overrides.")
]


def main() -> None:
    """The console script."""
    app()


def _version(asked: bool) -> None:
    if asked:
        from gradaxis import __version__

        typer.echo(f"gradaxis {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# The registry -----------------------------------------------------------------------------------------------------


@app.command("list", epilog="Example: gradaxis list --side trajectory --addresses entropy-collapse")
def list_methods(
    family: Annotated[str | None, typer.Option(help="Only this family, such as post-grpo.")] = None,
    side: Annotated[str | None, typer.Option(help="Only this side, relative to the parent.")] = None,
    slot: Annotated[str | None, typer.Option(help="Only methods that differ from their parent in this slot.")] = None,
    addresses: Annotated[str | None, typer.Option(help="Only methods that address this failure.")] = None,
    parent: Annotated[str | None, typer.Option(help="Only methods that extend this one.")] = None,
    executable: Annotated[
        bool | None, typer.Option("--executable/--not-executable", help="Only methods that can be compiled, or not.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """List methods, with the side that follows from their slots."""
    from gradaxis.taxonomy.pages import list_page
    from gradaxis.taxonomy.query import find_methods
    from gradaxis.taxonomy.rows import method_row

    registry = _registry()
    found = find_methods(registry, family, side, slot, addresses, parent, executable)
    rows = [method_row(method) for method in found]
    emit(rows, lambda: list_page(rows), format)


@app.command(epilog="Example: gradaxis show 'dapo[trust_region.high=0.3]'")
def show(method: MethodArgument, format: FormatOption = Format.table) -> None:
    """Show a method: its twelve slots, what it inherits, and what follows from them."""
    from gradaxis.taxonomy.pages import show_page
    from gradaxis.taxonomy.rows import method_detail

    registry, found = _one(method)
    row = method_detail(found, registry)
    emit(row, lambda: show_page(row), format)


@app.command(epilog="Example: gradaxis diff grpo dapo")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The method to start from.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The method to compare with it.")],
    format: FormatOption = Format.table,
) -> None:
    """Show slot by slot what B does differently from A."""
    from gradaxis.taxonomy.pages import diff_page
    from gradaxis.taxonomy.rows import difference_row

    registry = _registry()
    row = difference_row(registry.select_one(a)[1], registry.select_one(b)[1])
    emit(row, lambda: diff_page(row), format)


@app.command(epilog="Example: gradaxis failures silent-groups")
def failures(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One failure in full.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List what goes wrong in training, and which methods say that they address it."""
    _print_failures("failure", id, format)


@app.command(epilog="Example: gradaxis compounds --format md")
def compounds(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One compound failure in full.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List failures that no fix on one side resolves, and whether that was measured."""
    _print_failures("compound", id, format)


@app.command(epilog="Example: gradaxis operators clip_ratio")
def operators(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One operator in full.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the operators by axis and slot, with their parameters, what they assume and who uses them."""
    from gradaxis.taxonomy.pages import operator_page, operators_page
    from gradaxis.taxonomy.query import find_operator, operators_by_slot
    from gradaxis.taxonomy.rows import operator_row

    registry = _registry()
    if name is not None:
        row = operator_row(find_operator(registry, name), registry)
        emit(row, lambda: operator_page(row), format)
        return
    rows = [operator_row(operator, registry) for operator in operators_by_slot(registry)]
    emit(rows, lambda: operators_page(rows), format)


@app.command(epilog="Example: gradaxis validate")
def validate(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Files or folders; without any, the registry.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Check YAML files, and print every problem with its file, line and column."""
    from gradaxis.taxonomy.pages import validation_page
    from gradaxis.taxonomy.rows import validation_row
    from gradaxis.taxonomy.validation import validate_paths

    row = validation_row(validate_paths(paths or []))
    emit(row, lambda: validation_page(row), format)
    if row["problems"]:
        raise typer.Exit(1)


@app.command(epilog="Example: gradaxis new my-method --extends grpo")
def new(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the new method, in kebab-case.")],
    extends: Annotated[str, typer.Option(help="The method that it starts from.")],
    family: Annotated[str | None, typer.Option(help="Its family; by default that of the parent.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; ID.yaml by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Write a commented entry for a new method; it validates as it stands."""
    from gradaxis.taxonomy.pages import new_page
    from gradaxis.taxonomy.template import new_entry, write_text

    registry = _registry()
    path = output or Path(f"{id}.yaml")
    text = new_entry(id, registry.method(extends), registry, datetime.date.today().year, family)
    write_text(path, text, force)
    row = {"id": id, "extends": registry.method(extends).id, "path": str(path)}
    emit(row, lambda: new_page(row), format)


# Measuring --------------------------------------------------------------------------------------------------------

add_measuring_commands(app)


def _registry() -> Registry:
    from gradaxis.taxonomy import load_registry

    return load_registry()


def _one(text: str) -> tuple[Registry, Method]:
    return _registry().select_one(text)


def _print_failures(kind: str, id: str | None, format: Format) -> None:
    from gradaxis.taxonomy.pages import failure_page, failures_page
    from gradaxis.taxonomy.query import find_failure
    from gradaxis.taxonomy.rows import failure_row

    registry = _registry()
    if id is not None:
        row = failure_row(find_failure(registry, id, kind), registry)
        emit(row, lambda: failure_page(row), format)
        return
    found = registry.failures if kind == "failure" else registry.compounds
    rows = [failure_row(failure, registry) for failure in found.values()]
    emit(rows, lambda: failures_page(rows), format)
