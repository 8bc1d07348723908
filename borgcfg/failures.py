"""Owns what a call to a cell can end with other than its answer. Imports nothing heavy: the command line catches these."""

from typing import NamedTuple


class CellError(Exception):
    """Base of what a call can end with."""


class Violation(NamedTuple):
    """A field of the request that the cell finds wrong."""

    field: str
    description: str


class CellRefused(CellError):
    """The cell said no; ``violations`` has the fields that are wrong."""

    def __init__(self, code: str, message: str, violations: tuple[Violation, ...] = ()) -> None:
        super().__init__(message)
        self.code = code  # of gRPC, such as NOT_FOUND
        self.violations = violations


class CellUnreachable(CellError):
    """No replica answered in time; ``tried`` says what came of each address."""

    def __init__(self, tried: dict[str, str], seconds: float) -> None:
        lines = [f"  {address}: {said}" for address, said in tried.items()]
        super().__init__("\n".join([f"the cell did not answer within {seconds:g} s:", *lines]))
        self.tried = tried
