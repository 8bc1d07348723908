"""Generates ``*_pb2*`` beside the protos: the hatch build hook, ``make proto`` and the freshness check.

Generated code is not committed. A stamp (hash of protos and generator versions) written beside it tells
whether it is fresh; ``python proto/generate.py --check`` fails with the command to run when it is not.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # outside a build (``make proto``) hatchling is not installed
    BuildHookInterface = object  # type: ignore[assignment, misc]

PROTO_ROOT = Path(__file__).resolve().parent
V1 = PROTO_ROOT / "borgcell" / "v1"
STAMP = V1 / "_generated_pb2.stamp"
OUTPUTS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def protos() -> list[Path]:
    """The proto files, sorted by name."""
    return sorted(V1.glob("*.proto"))


def fingerprint() -> str:
    """Hash of everything the generated code depends on."""
    digest = hashlib.sha256()
    for tool in ("grpcio-tools", "mypy-protobuf"):
        digest.update(f"{tool}={version(tool)}\n".encode())
    for proto in protos():
        digest.update(proto.name.encode() + b"\0" + proto.read_bytes())
    return digest.hexdigest()


def outputs() -> list[Path]:
    """The files that generation must have written."""
    return [proto.with_name(proto.stem + suffix) for proto in protos() for suffix in OUTPUTS]


def is_fresh() -> bool:
    """Whether the generated code matches the protos on disk, by stamp and by presence."""
    return (
        STAMP.exists()
        and STAMP.read_text() == fingerprint()
        and all(path.exists() for path in outputs())
    )


def generate() -> None:
    """Write ``*_pb2.py``, ``*_pb2_grpc.py`` and their stubs; nothing is touched unless all can be made."""
    import grpc_tools
    from grpc_tools import protoc

    # protoc finds the mypy plugin by PATH, also when this environment is not activated
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    includes = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as out:
        arguments = ["protoc", f"-I{PROTO_ROOT}", f"-I{includes}"]
        arguments += [
            f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")
        ]
        if protoc.main([*arguments, *(str(proto) for proto in protos())]) != 0:
            raise SystemExit("proto/generate.py: protoc failed (its message is above)")
        for old in set(V1.glob("*_pb2*")) - set(outputs()):
            old.unlink()
        for made in (Path(out) / "borgcell" / "v1").iterdir():
            shutil.copy(made, V1 / made.name)
    STAMP.write_text(fingerprint())


class CustomBuildHook(BuildHookInterface):
    """Generates before hatchling collects files, for wheels and editable installs alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling once per build."""
        generate()


def main() -> None:
    """``generate.py`` writes the code, ``generate.py --check`` fails if it is stale or missing."""
    if "--check" not in sys.argv[1:]:
        generate()
    elif not is_fresh():
        raise SystemExit("generated protobuf code is stale or missing: run `make proto`")


if __name__ == "__main__":
    main()
