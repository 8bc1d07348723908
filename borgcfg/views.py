"""Owns showing jobs that are waited for: a table that redraws on a terminal, otherwise a line per change."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from borgcfg.progress import Verdict
from borgcfg.render import tables, words
from borgcfg.render.output import say, wants_colour
from borgcfg.render.table import printable
from borgcfg.session import now_ms
from borgcfg.waiting import Waited

_MARKS: Final = {Verdict.WAITING: "…", Verdict.UP: "✓", Verdict.FAILED: "✗"}
_STYLES: Final = {Verdict.WAITING: "yellow", Verdict.UP: "green", Verdict.FAILED: "red"}


class LineView:
    """One line on stderr per change: for logs and pipes."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def __enter__(self) -> "LineView":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def show(self, jobs: Sequence[Waited]) -> None:
        """Say what changed since the last time."""
        for job in jobs:
            key = str(job.target.key)
            self._say_once(key, job.standing.line)
            for task in job.unready:
                reason = task.pending_reason or task.current.detail
                if reason:
                    self._say_once(
                        f"{key}/{task.index}", f"{words.task_state(task).text}: {reason}"
                    )

    def _say_once(self, subject: str, line: str) -> None:
        if self._said.get(subject) != line:
            self._said[subject] = line
            say(f"{subject}: {line}")


class LiveView:
    """A table on the terminal, redrawn in place; what it last showed stays."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=False)

    def __enter__(self) -> "LiveView":
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, jobs: Sequence[Waited]) -> None:
        """Redraw."""
        from rich.text import Text

        text = Text()
        for job in jobs:
            verdict = job.standing.verdict
            text.append(f"{_MARKS[verdict]} ", _STYLES[verdict])
            text.append(str(job.target.key), "bold")
            text.append(f"  {printable(job.standing.line)}\n")
            for task in job.unready:
                state = words.task_state(task).text
                where = f" on {task.current.machine}" if task.current.machine else ""
                line = f"    {task.index}  {state}{where}  {tables.task_detail(task, now_ms())}"
                text.append(printable(line.rstrip()) + "\n", "dim")
        text.rstrip()
        self._live.update(text, refresh=True)


def new_view() -> LineView | LiveView:
    """The view that suits stderr."""
    return LiveView() if sys.stderr.isatty() and wants_colour(sys.stderr) else LineView()
