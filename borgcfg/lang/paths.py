"""Owns reading field paths as specs and refusals write them: ``overrides[3].env['A']`` and back."""

import re

from borgcfg.lang.diagnostics import FieldPath

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]|\[\"([^\"]*)\"\]")


def read_path(text: str) -> FieldPath:
    """The steps of a path; what cannot be read ends it, since it only serves to find a place."""
    steps: list[str | int] = []
    offset = 0
    while found := _STEP.match(text, offset):
        field, index, *quoted = found.groups()
        if index is not None:
            steps.append(int(index))
        else:
            steps.append(next(part for part in (field, *quoted) if part is not None))
        offset = found.end()
    return tuple(steps)
