"""What all tests share."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# Started as a script, pytest has the environment's bin directory first on its path. impacket installs a script
# `smbclient.py` there, which would hide smbprotocol's package `smbclient`.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != os.path.dirname(os.path.abspath(sys.executable))]

# The suite's verdict on a commit is the same each time, whatever else the machine does; `SOFS_EXPLORE=1` looks where nobody has looked yet.
_ANY_SPEED = settings(print_blob=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", _ANY_SPEED, derandomize=True)
settings.register_profile("explore", _ANY_SPEED)
settings.load_profile("explore" if os.environ.get("SOFS_EXPLORE") else "same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that boot a virtual machine come first: at the end they would keep one worker busy for minutes while the others have nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("vm") is None)
