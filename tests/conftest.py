"""What every test shares: profiles of hypothesis, and the rule that CI skips nothing."""

import os
import subprocess

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "ci",
    max_examples=200,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

ALL = os.environ.get("BORG_TEST_ALL") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine cannot run; with BORG_TEST_ALL=1 nothing is left out."""
    if ALL:
        return
    missing = {
        marker
        for marker, present in (("docker", _has_docker()), ("root", os.geteuid() == 0))
        if not present
    }
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in missing)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _has_docker() -> bool:
    if "DOCKER_HOST" not in os.environ:
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False)
    return done.returncode == 0
