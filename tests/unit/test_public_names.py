"""What ``import adamesh`` promises."""

import importlib
import subprocess
import sys

import pytest

import adamesh


@pytest.mark.parametrize("name", adamesh.__all__)
def test_every_public_name_is_there_and_knows_its_home(name: str) -> None:
    value = getattr(adamesh, name)
    assert value.__name__ == name
    assert name in dir(adamesh)
    assert getattr(importlib.import_module(value.__module__), name) is value


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"'AdamX'; it has .*Adam, AdamW"):
        _ = adamesh.AdamX  # type: ignore[attr-defined, unused-ignore]


def test_importing_adamesh_does_not_import_torch() -> None:
    program = "import sys, adamesh; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
