"""What all tests share."""

import os
import sys

# Started as a script, pytest has the environment's bin directory first on its path. impacket installs a script
# `smbclient.py` there, which would hide smbprotocol's package `smbclient`.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != os.path.dirname(os.path.abspath(sys.executable))]
