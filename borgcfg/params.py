"""Owns what commands take: keys, durations, the form of output, and which cell. Imports click and nothing heavy."""

from typing import Any

import click
from borgcell.types import JobKey, TaskKey

from borgcfg.lang.units import BadUnit, duration_ms
from borgcfg.render.output import Output

Key = JobKey | TaskKey


class KeyParam(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.5
    """``user/job``, ``user/job/index``, or both."""

    name = "key"

    def __init__(self, *, jobs: bool = True, tasks: bool = True) -> None:
        self._jobs = jobs
        self._tasks = tasks

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Key:
        """The key. Fails as a usage error."""
        if isinstance(value, (JobKey, TaskKey)):
            return value
        text = str(value)
        names_task = self._tasks and (not self._jobs or text.count("/") > 1)
        try:
            return TaskKey.parse(text) if names_task else JobKey.parse(text)
        except ValueError as error:
            both = " (or user/job/index for one task)" if self._jobs and self._tasks else ""
            self.fail(f"{error}{both}", param, ctx)


class DurationParam(click.ParamType):  # type: ignore[type-arg]
    """Seconds or a text with a unit, such as ``5m``; the value is seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds, more than 0. Fails as a usage error."""
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            seconds = (
                duration_ms(float(text) if text.replace(".", "", 1).isdigit() else text) / 1000
            )
        except BadUnit as error:
            self.fail(f"{error}; {error.hint}" if error.hint else str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"{text} is not more than 0", param, ctx)
        return seconds


JOB_KEY = KeyParam(tasks=False)
TASK_KEY = KeyParam(jobs=False)
ANY_KEY = KeyParam()
DURATION = DurationParam()


def output_option(default: Output, *forms: Output) -> click.Option:
    """``-o``; without ``forms``, all of them."""
    return click.Option(
        ["-o", "--output"],
        type=click.Choice([str(form) for form in forms or Output]),
        default=str(default),
        show_default=True,
        help="Form of the output.",
    )


class CellCommand(click.Command):
    """A command that asks a cell: adds --cell, --masters and --call-timeout, and -o when forms are given."""

    def __init__(self, *args: Any, forms: tuple[Output, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if forms:
            self.params.append(output_option(forms[0], *forms))
        self.params += [
            click.Option(
                ["--cell"],
                expose_value=False,
                callback=_remember,
                metavar="NAME",
                help="Cell of the profile file (~/.config/borgcfg/cells.yaml or $BORGCFG_PROFILE) "
                "[env: BORGCFG_CELL].",
            ),
            click.Option(
                ["--masters"],
                expose_value=False,
                callback=_remember,
                metavar="HOST:PORT,...",
                help="Addresses of the masters instead of a named cell [env: BORGCFG_MASTERS].",
            ),
            click.Option(
                ["--call-timeout"],
                type=DURATION,
                default="30s",
                show_default=True,
                expose_value=False,
                callback=_remember,
                help="Longest wait for one answer of the cell, with all tries.",
            ),
        ]


TABLE_FORMS = (Output.TABLE, Output.WIDE, Output.JSON, Output.YAML, Output.NAME)
REPORT_FORMS = (Output.TABLE, Output.WIDE, Output.JSON, Output.YAML)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    ctx.meta[f"borgcfg.{param.name}"] = value
    return value
