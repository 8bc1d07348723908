"""Owns machine attributes as interned columns, and the masks of constraints over them.

A constraint is asked once per distinct value, by ``Constraint.holds`` itself, so that the column can never
mean something else than the value. Masks are kept until an attribute they look at changes.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from borgcell.specs import Constraint
from numpy.typing import NDArray

MASKS_MAX: Final = 1_024  # distinct constraints remembered; 10 MB at 10,000 machines
VALUES_KEPT_MIN: Final = 1_024  # a column may remember so many stale values, plus twice its length

_ABSENT: Final = 0


class _Column:
    """Values of one attribute, interned: ids int32[slots], 0 where it is absent."""

    def __init__(self, name: str, attributes: Sequence[Mapping[str, str]], version: int) -> None:
        self.name = name
        self.known: dict[str, int] = {}
        self.version = version
        self.ids = np.fromiter(
            (self.intern(values) for values in attributes), dtype=np.int32, count=len(attributes)
        )

    def intern(self, values: Mapping[str, str]) -> int:
        """The id of a machine's value of this attribute."""
        value = values.get(self.name)
        if value is None:
            return _ABSENT
        return self.known.setdefault(value, len(self.known) + 1)

    def mask(self, constraint: Constraint) -> NDArray[np.bool_]:
        """Where the constraint holds: bool[slots]."""
        verdicts = [constraint.holds({})]
        verdicts.extend(constraint.holds({self.name: value}) for value in self.known)
        return np.array(verdicts, dtype=np.bool_)[self.ids]


class AttributeMasks:
    """Masks of constraints over the machines' attributes, one mapping per slot."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._masks: dict[Constraint, tuple[int, NDArray[np.bool_]]] = {}
        self._version = 0  # counts over all columns: a rebuilt column never looks like the old one

    def mask(
        self, constraint: Constraint, attributes: Sequence[Mapping[str, str]]
    ) -> NDArray[np.bool_]:
        """Where a constraint holds: bool[slots]. Do not write to it."""
        column = self._columns.get(constraint.attribute)
        if column is None or len(column.ids) != len(attributes):
            column = _Column(constraint.attribute, attributes, self._next_version())
            self._columns[constraint.attribute] = column
        found = self._masks.get(constraint)
        if found is not None and found[0] == column.version:
            return found[1]
        if len(self._masks) >= MASKS_MAX:
            self._masks.clear()
            self._columns = {constraint.attribute: column}
        mask = column.mask(constraint)
        self._masks[constraint] = (column.version, mask)
        return mask

    def machine_changed(self, slot: int, values: Mapping[str, str]) -> None:
        """A machine's attributes are now ``values``."""
        for column in self._columns.values():
            if slot >= len(column.ids):
                continue  # the column is rebuilt at its next use
            value_id = column.intern(values)
            if column.ids[slot] != value_id:
                column.ids[slot] = value_id
                column.version = self._next_version()
        self._drop_worn_columns()

    def _drop_worn_columns(self) -> None:
        """Forget columns that remember mostly values no machine has any more."""
        worn = [
            name
            for name, column in self._columns.items()
            if len(column.known) > VALUES_KEPT_MIN + 2 * len(column.ids)
        ]
        for name in worn:
            del self._columns[name]

    def _next_version(self) -> int:
        self._version += 1
        return self._version
