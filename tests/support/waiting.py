"""Waiting for what others do in their own time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 60
"""So long that only what never comes takes it, also on a busy machine."""


def until(condition: Callable[[], Any], what: str, facts: Callable[[], Any] = lambda: "") -> Any:
    """Poll until the condition is true and return its value; AssertionError with the facts after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what} {facts()}"
        time.sleep(0.005)
    return value
