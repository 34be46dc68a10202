"""Where the real captures are, for the tests that need them."""

import os
from pathlib import Path

import pytest


def samples_folder() -> Path | None:
    """The folder of real captures, or None where it is not here."""
    named = os.environ.get("NPUSCOPE_SAMPLES")
    folder = Path(named) if named else None
    return folder if folder is not None and folder.is_dir() else None


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real captures; a test that asks for it skips itself where it is missing."""
    folder = samples_folder()
    if folder is None:
        pytest.skip("real captures are not here: set NPUSCOPE_SAMPLES to their folder")
    return folder
