"""`new` writes entries that validate, as they are and with their comments taken off, whole or not at all."""

from __future__ import annotations

import errno
import os
import re

import pytest

from gradaxis.errors import GradaxisError, UsageError
from gradaxis.taxonomy import load_registry
from gradaxis.taxonomy.template import new_entry, write_text

PARENTS = ["reinforce", "ppo", "grpo", "dapo", "gigpo", "grpo-opd", "reinforce-plus-plus"]


def uncommented(text: str) -> str:
    """The entry with the slot blocks (`# trajectory:`, `# reward:` and what is indented below) taken into use."""
    return re.sub(r"^# (trajectory:|reward:|  .*)$", r"\1", text.partition("\nid:")[2], flags=re.MULTILINE)


@pytest.mark.parametrize("parent", PARENTS)
def test_entry_validates_and_changes_nothing(registry, tmp_path, parent) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(new_entry("mine", registry.method(parent), registry, 2025))
    mine = load_registry([path]).method("mine")
    assert (mine.extends, mine.side, mine.year, mine.status) == (parent, "none", 2025, "preview")


@pytest.mark.parametrize("parent", PARENTS)
def test_comments_hold_what_the_parent_holds(registry, tmp_path, parent) -> None:
    text = new_entry("mine", registry.method(parent), registry, 2025)
    path = tmp_path / "mine.yaml"
    path.write_text("id:" + uncommented(text))
    mine = load_registry([path]).method("mine")
    assert mine.side == "none"
    placed = [placed for items in mine.slots.values() for placed in items]
    assert all(item.inherited_from is None for item in placed)
    assert len(placed) == sum(len(items) for items in registry.method(parent).slots.values())


@pytest.mark.parametrize(("parent", "family"), [("grpo", "post-grpo"), ("gigpo", "agentic"), ("ppo", "foundations")])
def test_family_follows_the_parent(registry, parent, family) -> None:
    assert f"\nfamily: {family}\n" in new_entry("mine", registry.method(parent), registry, 2025)


@pytest.mark.parametrize(
    ("id_", "family", "message"),
    [("Mine", None, "kebab-case"), ("mine/../x", None, "kebab-case"), ("grpo", None, "is taken"),
     ("mine", "postgrpo", "did you mean 'post-grpo'")],
)  # fmt: skip
def test_mistakes(registry, id_, family, message) -> None:
    with pytest.raises(UsageError, match=message):
        new_entry(id_, registry.method("grpo"), registry, 2025, family)


def test_existing_file_is_kept(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    with pytest.raises(UsageError, match="--force"):
        write_text(path, "new")
    assert path.read_text() == "precious"
    write_text(path, "new", force=True)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["mine.yaml"]


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precious")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(GradaxisError, match="No space left on device"):
        write_text(path, "new", force=True)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["mine.yaml"]


def test_missing_folder(tmp_path) -> None:
    with pytest.raises(GradaxisError, match="cannot write it"):
        write_text(tmp_path / "absent" / "mine.yaml", "new")
