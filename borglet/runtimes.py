"""Owns which runtimes a Borglet has: the only place that knows their classes."""

from collections.abc import Iterable

from borgcell.types import RuntimeKind

from borglet.config import Config
from borglet.runtime.port import Runtime, RuntimeFailed


class RuntimeUnusable(Exception):
    """A runtime that was asked for cannot be made; the message is for people."""


def make_runtimes(config: Config) -> dict[RuntimeKind, Runtime]:
    """One of each kind asked for. Raises RuntimeUnusable, with none left open."""
    made: dict[RuntimeKind, Runtime] = {}
    for kind in config.runtimes:
        try:
            made[kind] = _make(kind, config)
        except (RuntimeFailed, OSError, ImportError) as error:
            close_runtimes(made.values())
            raise RuntimeUnusable(f"{kind} runtime: {error}") from error
    return made


def _make(kind: RuntimeKind, config: Config) -> Runtime:
    # imported here: a machine needs only the libraries of the runtimes it has
    if kind is RuntimeKind.DOCKER:
        from borglet.runtime.docker import DockerRuntime

        return DockerRuntime(config.cell, config.name, url=config.docker_url)
    from borglet.runtime.native import NativeRuntime

    return NativeRuntime(
        config.state_dir / "native",
        config.cell,
        config.name,
        masked=(config.state_dir,),
        visible=config.visible,
    )


def close_runtimes(runtimes: Iterable[Runtime]) -> None:
    """Let go of all; the containers stay."""
    for runtime in runtimes:
        runtime.close()
