"""Where pycni is meant to differ from the recordings of the reference: (case, step) → what instead, and why."""

from __future__ import annotations

from support.golden import Deviation

DEVIATIONS: dict[tuple[str, int], Deviation] = {}
