"""Value classes: `pycni.record`."""

from __future__ import annotations

import pytest

from pycni.record import Record


class Point(Record):
    x: int
    y: int = 7
    _cache: int = 0


class Named(Point):
    name: str = "p"


def test_fields_come_from_annotations_in_order_and_private_ones_are_not_fields() -> None:
    """Own fields follow inherited ones; a name with an underscore is no field."""
    assert Point._fields == ("x", "y")
    assert Named._fields == ("x", "y", "name")


def test_values_are_given_by_position_by_name_or_by_default() -> None:
    """The three ways of giving values come to the same object."""
    assert Point(1) == Point(1, 7) == Point(x=1, y=7) == Point(1, y=7)
    assert Named(1, name="q").name == "q"


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "needs the field 'x'"),
        ((), {"y": 1}, "needs the field 'x'"),
        ((1, 2, 3), {}, "takes 2 values, got 3"),
        ((1,), {"x": 2}, "unexpected or repeated field 'x'"),
        ((1,), {"z": 2}, "unexpected or repeated field 'z'"),
    ],
)
def test_wrong_values_are_a_type_error_that_names_the_field(
    args: tuple[int, ...], kwargs: dict[str, int], text: str
) -> None:
    """A missing, superfluous, repeated or unknown value is refused as a function would refuse it."""
    with pytest.raises(TypeError, match=text):
        Point(*args, **kwargs)


def test_a_record_cannot_be_changed() -> None:
    """Assignment fails and says what to do; the value stays."""
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point is immutable; use replace\(x=…\)"):
        point.x = 2  # type: ignore[misc]
    assert point.x == 1


def test_replace_makes_a_copy_and_refuses_unknown_fields() -> None:
    """`replace` changes the copy only."""
    point = Point(1)
    assert point.replace(y=9) == Point(1, 9)
    assert point == Point(1)
    with pytest.raises(TypeError, match="'z'"):
        point.replace(z=1)


def test_equality_and_hash_go_by_type_and_values() -> None:
    """Equal records have one place in a set; a subclass's record is another value."""
    assert len({Point(1), Point(1, 7), Point(2)}) == 2
    assert Point(1) != Named(1)
    assert Point(1) != (1, 7)


def test_repr_can_be_read_back() -> None:
    """The repr is the call that makes an equal record."""
    assert repr(Named(1)) == "Named(x=1, y=7, name='p')"
    assert eval(repr(Named(1))) == Named(1)
