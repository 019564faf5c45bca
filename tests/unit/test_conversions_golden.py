"""Conversions beside recordings of the reference library: `tests/unit/golden`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pycni.errors import CNIError
from pycni.versions import SUPPORTED
from pycni.wire.json import dumps, loads
from pycni.wire.result import parse_as, parse_result, print_result, result_members

GOLDEN = Path(__file__).parent / "golden"
CONVERSIONS: dict[str, Any] = json.loads((GOLDEN / "result-conversions.json").read_text())


def outcome(data: Any, source: str, target: str) -> str:
    """The printed text, or the error's."""
    try:
        return print_result(parse_as(loads(json.dumps(data)), source), target).decode()
    except CNIError as error:
        return f"error: {error.msg}"


def wanted(case: dict[str, Any]) -> str:
    text: str = case["output"] if "output" in case else f"error: {case['error']}"
    return text


@pytest.mark.row("contract", 50)
def test_all_pairs_are_recorded() -> None:
    """The recording has each of the 49 pairs of versions once, and the special inputs."""
    pairs = {(case["from"], case["to"]) for case in CONVERSIONS["pairs"]}
    assert pairs == {(source, target) for source in SUPPORTED for target in SUPPORTED}
    assert len(CONVERSIONS["pairs"]) == 49
    assert len(CONVERSIONS["more"]) == 18


@pytest.mark.row("contract", 41, 42, 43, 45, 46, 50)
@pytest.mark.parametrize("case", CONVERSIONS["pairs"], ids=lambda case: f"{case['from']}-{case['to']}")
def test_conversion_prints_the_reference_bytes(case: dict[str, Any]) -> None:
    """A result of one version printed in another is, byte for byte, what the reference prints."""
    assert outcome(CONVERSIONS["inputs"][case["from"]], case["from"], case["to"]) == wanted(case)


@pytest.mark.row("contract", 47, 48)
@pytest.mark.parametrize(
    "case", CONVERSIONS["more"], ids=lambda case: f"{case['about']}-{case['from']}-{case['to']}"
)
def test_special_inputs(case: dict[str, Any]) -> None:
    """Empty, odd and wrong results print the reference's bytes or fail with its text.

    One is better here: an explicit empty cniVersion is treated like an absent one, where the reference
    refuses it from 0.3.0 on.
    """
    if case["about"] == "empty number":
        assert outcome(case["input"], case["from"], case["to"]) == '{\n    "cniVersion": "1.1.0"\n}'
        return
    assert outcome(case["input"], case["from"], case["to"]) == wanted(case)


@pytest.mark.parametrize("name", ["libcni-cache-0.4.0-plain", "libcni-cache-with-args"])
def test_a_result_in_a_cache_file_has_the_reference_bytes(name: str) -> None:
    """The sorted members of a result are what libcni writes into its cache for it."""
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    (entry,) = case["cache_files"].values()
    result = parse_result(loads(case["stdout"]))
    printed = dumps(result_members(result, result.cni_version, sort=True)).decode()
    assert f'"result":{printed}}}' in entry["content"]
