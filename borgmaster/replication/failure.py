"""Owns how the replicated log fails for good: the disk refused, or what lies on it is damaged."""

from pathlib import Path
from typing import Final

from borgmaster.errors import StorageFailed

EXIT_BUG: Final = 1
EXIT_DAMAGED: Final = 70  # do not restart automatically: re-seed this replica
EXIT_DISK: Final = 74  # restart when the disk accepts writes again


class LogFailed(StorageFailed):
    """The log of this replica cannot go on; ``exit_code`` is what the process should end with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def damaged(path: Path, what: str) -> LogFailed:
    """The failure for bytes that are not what was written; ``what`` names the offset where one is known."""
    return LogFailed(
        f"{path}: {what}; restore the file, or empty the directory and start this replica with"
        " join, so that it is seeded by the others",
        EXIT_DAMAGED,
    )


def disk_refused(path: Path, doing: str, error: OSError) -> LogFailed:
    """The failure for a disk that is full, broken or forbidden."""
    return LogFailed(f"{path}: {doing}: {error.strerror or error}", EXIT_DISK)
