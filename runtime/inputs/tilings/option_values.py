"""Values of `mm_processor_kwargs`: whole numbers, flags, sizes; all else is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import InputError

FIELD = "mm_processor_kwargs"
MOST = (1 << 31) - 1


def number(name: str, value: object, default: int | None = None, *, most: int = MOST) -> int:
    """Returns a whole number from 1 to `most`; `default` where there is none. Raises InputError."""
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        limit = "" if most == MOST else f", at most {most}"
        raise InputError(f"{FIELD}: {name} is {value!r}, expected a whole number above 0{limit}", field=FIELD)
    return value


def flag(name: str, value: object, default: bool = True) -> bool:
    """Returns true or false; `default` where there is none. Raises InputError."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"{FIELD}: {name} is {value!r}, expected true or false", field=FIELD)
    return value


def only(sides: Mapping[str, int], wanted: tuple[str, ...]) -> None:
    """Raises InputError where the option `size` has other keys than `wanted`."""
    if set(sides) != set(wanted):
        raise InputError(
            f"{FIELD}: size has {', '.join(sides)}, this model takes {' and '.join(wanted)}", field=FIELD
        )
