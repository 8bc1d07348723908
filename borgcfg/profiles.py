"""Owns which cell is meant: flags, environment, and the profile file that names cells.

The file (``$BORGCFG_PROFILE`` or ``~/.config/borgcfg/cells.yaml``):

    default: local
    cells:
      local: {masters: [127.0.0.1:7811, 127.0.0.1:7812, 127.0.0.1:7813]}
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PROFILE_BYTES_MAX: Final = 1 << 20
ADDRESSES_MAX: Final = 16


class BadProfile(ValueError):
    """No cell can be made of what was said; the message says what to do."""


def profile_path(environ: Mapping[str, str]) -> Path:
    """The profile file: ``$BORGCFG_PROFILE``, or the one in the user's configuration directory."""
    if environ.get("BORGCFG_PROFILE"):
        return Path(environ["BORGCFG_PROFILE"])
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    return Path(base) / "borgcfg" / "cells.yaml"


def parse_addresses(text: str) -> tuple[str, ...]:
    """Read ``host:port,host:port``. Raises BadProfile."""
    addresses = tuple(part.strip() for part in text.split(",") if part.strip())
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise BadProfile(f"{address!r} is not an address: write host:port")
    if not 0 < len(addresses) <= ADDRESSES_MAX:
        raise BadProfile(f"give 1 to {ADDRESSES_MAX} addresses of masters: host:port,host:port")
    return addresses


def cell_addresses(
    *, masters: str | None, cell: str | None, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """The addresses of the cell's replicas. What was said last wins:

    ``--masters``, ``--cell``, ``$BORGCFG_MASTERS``, ``$BORGCFG_CELL``, the profile's default. Raises BadProfile.
    """
    if masters:
        return parse_addresses(masters)
    if not cell and environ.get("BORGCFG_MASTERS"):
        return parse_addresses(environ["BORGCFG_MASTERS"])
    path = profile_path(environ)
    return _from_profile(path, cell or environ.get("BORGCFG_CELL") or "")


def _from_profile(path: Path, cell: str) -> tuple[str, ...]:
    profile = _read_profile(path)
    cells = profile.get("cells")
    if not isinstance(cells, dict) or not cells:
        raise BadProfile(f"{path}: has no `cells:` (name: {{masters: [host:port, ...]}})")
    name = cell or str(profile.get("default") or (next(iter(cells)) if len(cells) == 1 else ""))
    if not name:
        known = ", ".join(map(str, cells))
        raise BadProfile(f"{path}: say which cell with --cell or `default:` (there are: {known})")
    if name not in cells:
        known = ", ".join(map(str, cells))
        raise BadProfile(f"{path}: there is no cell {name!r} (there are: {known})")
    given = cells[name]
    masters = given.get("masters") if isinstance(given, dict) else given
    text = ",".join(map(str, masters)) if isinstance(masters, list) else str(masters)
    try:
        return parse_addresses(text)
    except BadProfile as error:
        raise BadProfile(f"{path}: cell {name}: {error}") from error


def _read_profile(path: Path) -> dict[str, Any]:
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(PROFILE_BYTES_MAX)
        profile = yaml.load(data, Loader=yaml.CSafeLoader)
    except FileNotFoundError as error:
        raise BadProfile(
            f"no cell is named: use --masters HOST:PORT,..., or name cells in {path}"
        ) from error
    except (OSError, yaml.YAMLError) as error:
        raise BadProfile(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(profile, dict):
        raise BadProfile(f"{path}: expected `default:` and `cells:`")
    return profile
