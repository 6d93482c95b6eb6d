"""The kernel's NFS client of every version in `.snapshot`: trees as they were, each a file system of its own, and read-only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.kernel import run_in_vm
from tests.interop.running import RunningNode
from tests.interop.smb import smbclient
from tests.interop.test_commands import ask

pytestmark = pytest.mark.vm

SCRIPT = """
for options in vers=3,proto=tcp,port=%(port)d,mountport=%(port)d,mountproto=tcp,nolock vers=4.1,port=%(port)d vers=4.2,port=%(port)d; do
    mount -t nfs $HOST:/%(share)s /mnt -o $options
    ls -A /mnt | grep -q snapshot && fail ".snapshot is listed"
    [ "$(ls /mnt/.snapshot)" = "$(printf 'evening\\nmorning')" ] || fail "$options: $(ls -la /mnt/.snapshot)"
    past=/mnt/.snapshot/morning
    [ "$(md5sum < $past/folder/large)" = "$(md5sum < /mnt/.snapshot/evening/folder/large)" ] && fail "$options: both the same"
    [ "$(cat $past/folder/file)" = first ] || fail "$options: $(cat $past/folder/file)"
    [ "$(cat /mnt/.snapshot/evening/folder/file)" = second ]
    [ "$(cat /mnt/folder/file)" = third ]
    [ "$(ls $past/folder)" = "$(printf 'file\\ngone\\nlarge')" ] || fail "$options: $(ls $past/folder)"
    [ ! -e /mnt/folder/gone ] && [ "$(cat $past/folder/gone)" = here ]
    [ "$(stat -c %%d $past)" != "$(stat -c %%d /mnt)" ] || fail "$options: one file system"
    [ "$(stat -c %%i $past/folder/file)" = "$(stat -c %%i /mnt/folder/file)" ] || fail "$options: another file"
    [ "$(cd $past/folder/../..; ls)" = "$(printf 'evening\\nmorning')" ] || fail "$options: two dots"
    touch $past/folder/new 2>/dev/null && fail "$options: created"
    rm -f $past/folder/file 2>/dev/null && fail "$options: removed"
    (echo x > $past/folder/file) 2>/dev/null && fail "$options: written"
    mkdir /mnt/.snapshot/other 2>/dev/null && fail "$options: a directory in the list"
    cp -a $past/folder /tmp/copied && [ "$(find /tmp/copied -type f | wc -l)" = 3 ]; rm -r /tmp/copied
    [ "$(find /mnt/.snapshot -name file | wc -l)" = 2 ] || fail "$options: $(find /mnt/.snapshot)"
    umount -R /mnt
    echo "done $options"
done
"""


def test_snapshots_are_walked_compared_and_copied_but_not_changed(node: RunningNode, tmp_path: Path) -> None:
    def put(name: str, data: bytes) -> None:
        (tmp_path / "source").write_bytes(data)
        smbclient(node, f"put {tmp_path / 'source'} folder\\{name}")

    smbclient(node, "mkdir folder")
    put("file", b"first\n")
    put("gone", b"here\n")
    put("large", b"a" * 3_000_000)
    ask(node, "snapshot", "create", "default", "morning")
    put("file", b"second\n")
    put("large", b"b" * 3_000_000)
    smbclient(node, "del folder\\gone")
    ask(node, "snapshot", "create", "default", "evening")
    put("file", b"third\n")
    output = run_in_vm(node, SCRIPT % {"port": node.nfs.port, "share": node.nfs.share})
    assert output.count("done vers=") == 3
