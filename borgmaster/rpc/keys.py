"""Owns the reading of keys from requests: malformed ones are refused with the field."""

from borgcell.types import JobKey, TaskKey, is_machine_name, is_name
from borgcell.v1 import cell_pb2

from borgmaster.rpc.status import invalid


def job_key(message: cell_pb2.JobKey, field: str = "job") -> JobKey:
    """The key. Raises Refused unless user and name are names."""
    for part, text in (("user", message.user), ("name", message.name)):
        if not is_name(text):
            raise invalid(f"{field}.{part}", f"{text[:80]!r} is not a name")
    return JobKey(message.user, message.name)


def task_key(message: cell_pb2.TaskKey, field: str = "task") -> TaskKey:
    """The key. Raises Refused unless user and job are names and the index is not negative."""
    for part, text in (("user", message.user), ("job", message.job)):
        if not is_name(text):
            raise invalid(f"{field}.{part}", f"{text[:80]!r} is not a name")
    if message.index < 0:
        raise invalid(f"{field}.index", f"{message.index} is negative")
    return TaskKey(message.user, message.job, message.index)


def machine_name(text: str, field: str = "name") -> str:
    """The name. Raises Refused unless it can name a machine."""
    if not is_machine_name(text):
        raise invalid(
            field,
            f"{text[:80]!r} is not a machine name: use letters, digits and inner '.', '-', '_'; at most 63",
        )
    return text


def request_id(text: str) -> str:
    """The request id. Raises Refused when it is too long to be kept."""
    if len(text) > 128:
        raise invalid("request_id", "is longer than 128 characters")
    return text
