"""Owns wire messages as plain values for JSON and YAML: our field names, integers as integers, short enum names.

Specs come out in the schema of config files, so that what is printed can be submitted again.
"""

from typing import Any

from borgcell import convert
from borgcell.v1 import types_pb2
from google.protobuf.message import Message

from borgcfg.render.specs import spec_plain, task_spec_plain

Plain = dict[str, Any]


def message_plain(message: Message) -> Plain:
    """Every field of a message, set or not; absent messages are None."""
    if isinstance(message, types_pb2.JobSpec):
        return spec_plain(convert.job_spec_from_wire(message))
    if isinstance(message, types_pb2.TaskSpec):
        return task_spec_plain(convert.task_spec_from_wire(message))
    return {field.name: _field_plain(message, field) for field in message.DESCRIPTOR.fields}


def _field_plain(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: value[key] for key in sorted(value)}  # our maps hold scalars
    if field.is_repeated:
        return [_value_plain(item, field) for item in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _value_plain(value, field)


def _value_plain(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return message_plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        if known is None:
            return int(value)
        prefix = "".join(f"_{char}" if char.isupper() else char for char in field.enum_type.name)
        return known.name.removeprefix(f"{prefix[1:].upper()}_")
    return value
