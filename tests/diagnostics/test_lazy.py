"""What an import brings in: reading stored measurements and writing reports needs no tensor library."""

import subprocess
import sys

import pytest

import gradaxis.diagnostics


@pytest.mark.parametrize("module", ["gradaxis.reports", "gradaxis.diagnostics", "gradaxis.diagnostics.measurements"])
def test_importing_brings_in_no_tensor_library(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in gradaxis.diagnostics.__all__:
        assert getattr(gradaxis.diagnostics, name) is not None
        assert name in dir(gradaxis.diagnostics)
    with pytest.raises(AttributeError, match="nothing_here"):
        gradaxis.diagnostics.nothing_here  # noqa: B018
