"""The Linux kernel's cifs (3.1.1, signed and sealed) and nfs (v3), in a virtual machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.interop.kernel import mount_nfs, mount_smb, run_in_vm
from tests.interop.running import RunningNode

pytestmark = pytest.mark.vm

MOUNTS = {"smb": mount_smb, "smb-sealed": lambda node: mount_smb(node, "seal"), "nfs3": mount_nfs}

FIO = """
fio --name=verify --directory=/mnt/%(dir)s --size=12m --bsrange=512-128k --bs_unaligned=1 --rw=randrw \
    --verify=crc32c --verify_fatal=1 --do_verify=1 --ioengine=psync --end_fsync=1 --output-format=terse >/tmp/fio \
    || { cat /tmp/fio; fail fio; }
fio --name=direct --directory=/mnt/%(dir)s --size=8m --bs=4k --rw=randrw --direct=1 --ioengine=libaio --iodepth=16 \
    --verify=crc32c --verify_fatal=1 --output-format=terse >/tmp/fio || { cat /tmp/fio; fail "fio direct"; }
rm /mnt/%(dir)s/verify* /mnt/%(dir)s/direct*
"""

TREE = """
cp -a /job/source /mnt/%(dir)s/copy
umount /mnt                                    # so that the comparison asks the server, not the cache
%(mount)s
diff -r /job/source /mnt/%(dir)s/copy
rm -r /mnt/%(dir)s/copy
[ ! -e /mnt/%(dir)s/copy ] || fail "still there"
"""

NAMES = """
cd /mnt/%(dir)s
echo one > a; echo two > b
mv a c; [ "$(cat c)" = one ]; [ ! -e a ]
mv b c; [ "$(cat c)" = two ]; [ ! -e b ]       # replaces
mkdir d; mv c d/c; mv d e; [ "$(cat e/c)" = two ]
exec 3<> e/c; rm e/c; echo more >&3            # unlinked while open: SMB shows the name until the close
exec 3>&-
[ ! -e e/c ]
rmdir e
for i in $(seq 300); do echo $i > f$i; done
[ "$(ls | grep -c '^f')" = 300 ]
rm f*
[ -z "$(ls -A)" ] || fail "left over: $(ls -A)"
cd /
"""

LOCKS = """
cd /mnt/%(dir)s
echo x > lock
flock -x lock -c 'flock -n -x lock -c "echo got it twice" && exit 1; exit 0'
flock -n -x lock -c true
rm lock
cd /
"""


# One boot for each kind of mount: where the guest's processor is interpreted, that takes as long as the work.
EVERYDAY = {"fio": FIO, "a source tree": TREE, "names": NAMES, "locks": LOCKS}


@pytest.mark.parametrize("kind", MOUNTS)
def test_fio_verifies_a_tree_is_copied_and_names_and_locks_behave(node: RunningNode, kind: str, tmp_path: Path) -> None:
    source = shutil.copytree(Path(__file__).parents[2] / "sofs", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    names = {"dir": f"everyday-{kind}", "mount": MOUNTS[kind](node)}
    script = names["mount"] + f"mkdir /mnt/{names['dir']}\n"
    for title, part in EVERYDAY.items():
        script += f"echo 'begin: {title}'\n" + part % names
    output = run_in_vm(node, script + "umount /mnt\n", extra=(str(source),))
    assert output.count("begin: ") == len(EVERYDAY)


def test_cifs_punches_holes_and_shares_extents(node: RunningNode) -> None:
    script = """
cd /mnt
xfs_io -f -c "pwrite -S 0x61 0 4m" -c fsync punched
xfs_io -c "fpunch 1m 1m" punched
xfs_io -c "pread -v 1m 16" punched | grep -q "00 00 00 00 00 00 00 00" || fail "no hole"
xfs_io -c "pread -v 2m 16" punched | grep -q "61 61 61 61" || fail "too much"
xfs_io -f -c "reflink punched 0 0 4m" clone
cmp punched clone
xfs_io -c "pwrite -S 0x62 0 4k" -c fsync clone
cmp -s punched clone && fail "the clone is the same file"
xfs_io -c "pread -v 0 16" punched | grep -q "61 61 61 61" || fail "the clone changed its source"
rm punched clone
cd /
umount /mnt
"""
    run_in_vm(node, mount_smb(node) + script)


def test_nfs_keeps_owners_modes_links_and_special_files(node: RunningNode) -> None:
    script = """
mkdir /mnt/posix; cd /mnt/posix
echo x > f; chmod 640 f; chown 1001:1100 f
[ "$(stat -c '%a %u %g' f)" = "640 1001 1100" ]
ln f g; [ "$(stat -c %h f)" = 2 ]; rm f; [ "$(stat -c %h g)" = 1 ]
ln -s ../elsewhere s; [ "$(readlink s)" = ../elsewhere ]
mkfifo p; [ -p p ]
mknod c c 1 3; [ "$(stat -c '%t %T' c)" = "1 3" ]
touch -d @1000000000.123456700 g; [ "$(stat -c %Y g)" = 1000000000 ]
setpriv --reuid 1002 --regid 1002 --clear-groups cat g && fail "read another's file"
setpriv --reuid 1001 --regid 1001 --clear-groups cat g
truncate -s 1t sparse; [ "$(stat -c %s sparse)" = 1099511627776 ]
rm g s p c sparse; cd /; rmdir /mnt/posix
umount /mnt
"""
    run_in_vm(node, mount_nfs(node) + script)


def test_the_two_protocols_see_one_file(node: RunningNode) -> None:
    script = (
        """
mkdir /nfs
echo "from smb" > /mnt/shared
"""
        + mount_nfs(node).replace("/mnt", "/nfs")
        + """
[ "$(cat /nfs/shared)" = "from smb" ]
echo "from nfs" > /nfs/other; sync
[ "$(cat /mnt/other)" = "from nfs" ]
rm /nfs/shared; [ ! -e /nfs/shared ]
umount /nfs; rm /mnt/other; umount /mnt
"""
    )
    run_in_vm(node, mount_smb(node, "cache=none,actimeo=0") + script)
