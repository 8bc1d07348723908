"""Owns the exit codes of borgcfg: what scripts may rely on."""

from typing import Final

DONE: Final = 0
REFUSED: Final = (
    1  # the cell refused, or the answer is "no" (`diff` found differences, a task failed)
)
USAGE: Final = 2  # wrong flags or a bad config; nothing was sent
UNREACHABLE: Final = 3  # no replica of the cell answered
TIMED_OUT: Final = 4  # what was waited for did not happen in time; the cell goes on with it
DETACHED: Final = 130  # Ctrl-C: borgcfg stopped watching, the cell goes on

HELP: Final = """\
Exit codes: 0 done; 1 refused, or the answer is "no"; 2 usage or bad config (nothing was sent);
3 the cell cannot be reached; 4 timed out while waiting; 130 detached by Ctrl-C (the cell goes on).
"""
