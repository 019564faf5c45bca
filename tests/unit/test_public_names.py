"""The names that plugin authors import from `pycni`."""

from __future__ import annotations

import sys

import pytest

import pycni


@pytest.mark.parametrize("name", pycni.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name of `__all__` comes from exactly one module, and is that module's own."""
    value = getattr(pycni, name)
    (home,) = [module for module, names in pycni._HOMES.items() if name in names]
    assert value is getattr(sys.modules[home], name)


def test_no_name_is_forgotten() -> None:
    """What can be reached is what is announced."""
    assert sorted(name for names in pycni._HOMES.values() for name in names) == sorted(pycni.__all__)


def test_any_other_name_is_an_attribute_error() -> None:
    """As from any module."""
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = pycni.nosuch
