"""Owns writing to the terminal: data to stdout in the asked form, messages to stderr, colours only where they belong."""

import json
import os
import sys
from enum import StrEnum
from typing import Any, TextIO

import click

from borgcfg.render.table import Table, table_text


class Output(StrEnum):
    """Forms of output: ``-o``."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour: FORCE_COLOR says yes, NO_COLOR and TERM=dumb say no, otherwise a terminal does."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def show(form: Output, *, plain: Any, table: Table) -> None:
    """Print a table, or the same as data."""
    if form is Output.NAME:
        show_text("".join(f"{name}\n" for name in table.names))
    elif not show_data(form, plain):
        show_text(table_text(table, colour=wants_colour(sys.stdout), wide=form is Output.WIDE))


def show_data(form: Output, plain: Any) -> bool:
    """Print data as JSON or YAML; False when a text was asked for."""
    if form is Output.JSON:
        show_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    elif form is Output.YAML:
        show_text(yaml_text(plain))
    else:
        return False
    return True


def yaml_text(plain: Any) -> str:
    """YAML in the order of the fields; texts of several lines as blocks."""
    import yaml

    class Dumper(yaml.CSafeDumper):
        """No aliases: what is printed is read and edited by people."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    def text(dumper: yaml.CSafeDumper, value: str) -> yaml.Node:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    dumped: str = yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return dumped


def show_text(text: str) -> None:
    """Print data to stdout, colour codes and all: whether there are any was decided before."""
    click.echo(text, nl=False, color=True)


def say(message: str, *, style: str = "") -> None:
    """Print a message for people to stderr."""
    from borgcfg.render.table import paint

    click.echo(paint(message, style, colour=wants_colour(sys.stderr)), err=True, color=True)
