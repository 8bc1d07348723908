"""Owns the bounds of configs, and reading a file within them."""

from pathlib import Path
from typing import Final

FILE_BYTES_MAX: Final = (
    4 << 20
)  # the largest spec is 4 MiB (specs.SPEC_BYTES_MAX): no honest file is larger
FILES_MAX: Final = 256  # loaded by one config
JOBS_MAX: Final = 10_000
EMIT_BYTES_MAX: Final = 64 << 20
PRINTS_MAX: Final = 1_000
CALLS_MAX: Final = 200  # depth of Starlark calls; honest configs have fewer than 20
MEMORY_BYTES_MAX: Final = 1 << 30
EVALUATE_SECONDS_MAX: Final = 5
CPU_SECONDS_MORE: Final = (
    2  # beyond the time to evaluate; ends what Starlark cannot cancel: one huge native operation
)
WALL_SECONDS_MAX: Final = 20  # on a machine so busy that CPU time does not come


def read_config(path: Path, name: str) -> str:
    """The text of a file. Raises OSError, and ValueError when it is too large or no UTF-8."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"{name} is larger than {FILE_BYTES_MAX >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no UTF-8 text (byte {error.start})") from error
