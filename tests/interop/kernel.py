"""Scripts for the kernel client: mount lines for a node, and a run that must succeed."""

from __future__ import annotations

import re

import pytest

from tests.interop.running import PASSWORD, USER, RunningNode
from tests.kernel_client import Options, run_script
from tests.kernel_client.guest import Unusable

PRELUDE = """set -eEu
trap 'echo "status $? at line $LINENO: $BASH_COMMAND"; dmesg | tail -8' ERR
fail() { echo "FAILED: $*"; exit 1; }
# In the background, `pid` is its process. For a function that is itself called there bash runs no trap when that returns: nobody would hear of it.
begin() { ( "$@" ) & pid=$!; }
# After cifs was mounted once: every answer from now on that means EAGAIN is noted.
traced() {
    mount -t tracefs tracefs /sys/kernel/tracing
    cd /sys/kernel/tracing/events/cifs/smb3_cmd_err; echo "rc == -11" > filter; echo 1 > enable; cd /job
}
spoilt() {  # what a program has said that failed, and what `linux_gave_up` looks for
    cat $1; dmesg | grep "sending data on socket" || true
    [ ! -e /sys/kernel/tracing/trace ] || echo "answers that mean EAGAIN: $(grep -c smb3_cmd_err: /sys/kernel/tracing/trace || true)"
    return 1
}
"""

# Linux (6.1 as traced, 6.12 by its source) repeats WRITEs that had no answer when the connection went, but gives up the one that it is just sending: its
# pages are lost, and the next fsync says ECONNABORTED. So all that may be under way at once has to fit into its socket's buffer, where sending does not
# wait: 20 credits, 16 KiB each. Nor does 6.1 repeat an fsync's FLUSH; here every WRITE is stable when it is answered.
LASTING = ",hard,nostrictsync,wsize=16384,max_credits=20,noautotune,handletimeout=10000"


def linux_gave_up(said: str) -> bool:
    """Whether a program was told of a lost connection by Linux 6.1's SMB client, which no server can prevent. Then the whole is done again.

    A WRITE that it was just sending, see above: its socket had been reset, as its own log says, and the next fsync said ECONNABORTED. The busier the guest,
    the later it notices the reset. Or an open whose CREATE had no answer yet when the connection went: that is not asked again (cifs_sync_mid_result in
    transport.c gives EAGAIN, and SMB2_open passes it on), though none of the server's answers meant EAGAIN.
    """
    lost = "Software caused connection abort" in said and re.search(r"Error -\d+ sending data on socket to server", said)
    unasked = re.search(r"(/c/under/\S* |func=open, ).*Resource temporarily unavailable", said)
    return bool(lost or (unasked and re.search(r"^answers that mean EAGAIN: 0$", said, re.MULTILINE)))


def mount_smb(node: RunningNode, options: str = "") -> str:
    extra = f",{options}" if options else ""
    return f"mount -t cifs //$HOST/{node.smb.share} /mnt -o port={node.smb.port},vers=3.1.1,username={USER},password={PASSWORD}{extra}\n"


def mount_nfs(node: RunningNode, options: str = "") -> str:
    port = node.nfs.port
    extra = f",{options}" if options else ""
    return f"mount -t nfs $HOST:/{node.nfs.share} /mnt -o vers=3,proto=tcp,port={port},mountport={port},mountproto=tcp,nolock{extra}\n"


def run_in_vm(node: RunningNode, script: str, *, timeout_s: float = 500, extra: tuple[str, ...] = ()) -> str:
    """Run in a fresh guest; anything but status 0 fails the test with all that is known."""
    try:
        outcome = run_script(PRELUDE + script, (), Options(cpus=1, timeout_s=timeout_s, extra=extra))
    except Unusable as reason:
        pytest.fail(str(reason))
    assert outcome.status == 0, f"status {outcome.status}\n{outcome.output}\n{outcome.trouble}\n{node.tail()}"
    return outcome.output
