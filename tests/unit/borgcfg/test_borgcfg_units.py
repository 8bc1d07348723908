"""Units that users write: what they mean, and what is said about those that mean nothing."""

import pytest

from borgcfg.lang.units import BadUnit, cpu_milli, duration_ms, priority, size_bytes


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (cpu_milli, 0.5, 500),
        (cpu_milli, 4, 4_000),
        (cpu_milli, "0.25", 250),
        (cpu_milli, "250m", 250),
        (size_bytes, 1 << 30, 1 << 30),
        (size_bytes, "256MiB", 256 << 20),
        (size_bytes, "1.5 GiB", 3 << 29),
        (size_bytes, "4K", 4 << 10),
        (size_bytes, "2GB", 2_000_000_000),
        (size_bytes, 0.5 * (1 << 20), 1 << 19),
        (duration_ms, 10, 10_000),
        (duration_ms, 0.25, 250),
        (duration_ms, "500ms", 500),
        (duration_ms, "2m", 120_000),
        (duration_ms, "1h", 3_600_000),
        (priority, 150, 150),
        (priority, "Batch", 100),
        (priority, "free", 0),
    ],
)
def test_a_quantity_is_an_exact_integer(read, value, expected):
    result = read(value)
    assert result == expected
    assert type(result) is int


@pytest.mark.parametrize(
    ("read", "value", "message", "hint"),
    [
        (cpu_milli, "two", "'two' is no number of CPUs: write 0.5 or 4", ""),
        (cpu_milli, True, "true is no number of CPUs: write 0.5 or 4", ""),
        (cpu_milli, None, "nothing is no number of CPUs: write 0.5 or 4", ""),
        (cpu_milli, float("inf"), "inf is an absurd cpu", ""),
        (cpu_milli, float("nan"), "nan is an absurd cpu", ""),
        (size_bytes, "1" * 400 + "G", "inf is an absurd size", ""),
        (size_bytes, "64mib", "'64mib' has the unknown unit `mib`", "did you mean `MiB`?"),
        (size_bytes, "64", "'64' has no unit", 'write "256MiB" or "4GiB"'),
        (duration_ms, "10", "'10' has no unit", 'write "10s"'),
        (duration_ms, [], "[] is no duration", 'write 10, "10s", "500ms" or "2m"'),
        (priority, "prd", "'prd' is no priority", "did you mean `prod`?"),
        (priority, 1.5, "1.5 is no priority", "write a whole number from 0 to 450"),
    ],
)
def test_a_bad_quantity_says_what_would_be_right(read, value, message, hint):
    with pytest.raises(BadUnit) as caught:
        read(value)
    assert (str(caught.value), caught.value.hint) == (message, hint)
