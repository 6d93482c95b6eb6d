"""The kernel's NFS client with 4.1 and 4.2: two mounts that see each other's locks, what stays open when names go, holes, clones, xattrs, delegations."""

from __future__ import annotations

import pytest

from tests.interop.kernel import run_in_vm
from tests.interop.running import SHARE, SOFS, RunningNode
from tests.interop.test_libnfs import run

pytestmark = pytest.mark.vm

SCRIPT = """
mkdir /a /b
mount -t nfs4 $HOST:/ /mnt -o vers=4.2,port=%(port)d
[ "$(ls /mnt)" = "$(printf 'second\\n%(share)s')" ] || fail "the exports: $(ls /mnt)"
touch /mnt/new 2>/dev/null && fail "the list of exports can be written"
mkdir -p /mnt/second/deep/er; echo across > /mnt/second/deep/er/file
[ "$(stat -c %%d /mnt/second)" != "$(stat -c %%d /mnt/%(share)s)" ] || fail "two exports, one file system"
mv /mnt/second/deep/er/file /mnt/%(share)s/moved     # copied: not a rename
[ "$(cat /mnt/%(share)s/moved)" = across ]
umount -R /mnt
mount -t nfs4 $HOST:/second/deep /mnt -o vers=4.1,port=%(port)d
[ "$(ls /mnt)" = er ] || fail "not the subdirectory"
umount /mnt

# Two clients: minor versions are clients of their own.
mount -t nfs4 $HOST:/%(share)s /a -o vers=4.2,port=%(port)d,nconnect=4
mount -t nfs4 $HOST:/%(share)s /b -o vers=4.1,port=%(port)d
stats() { awk -v mount=$1 -v op=$2: '$1 == "device" { here = $5 == mount } here && $1 == op { print $2 }' /proc/self/mountstats; }
echo "mounted"

# Names, modes, special files
cd /a; mkdir names; cd names
mkfifo fifo; ln -s target link; echo one > one; ln one hard; chmod 640 one; mknod null c 1 3
[ -p fifo ] && [ "$(readlink link)" = target ] && [ "$(stat -c '%%a %%h' hard)" = "640 2" ]
touch -d '2001-02-03 04:05:06.123456700' one; [ "$(stat -c %%y one | cut -c1-27)" = "2001-02-03 04:05:06.1234567" ]
chown 1001:1002 one; [ "$(stat -c %%u:%%g one)" = 1001:1002 ] || fail "owners: $(stat -c %%u:%%g one)"
truncate -s 1T huge; [ "$(stat -c %%s huge)" = 1099511627776 ]
mkdir many; for i in $(seq 300); do : > many/$i; done; [ "$(ls /b/names/many | wc -l)" = 300 ]
cp -a /a/names /a/copied
(cd /a/names; find . -printf '%%p %%y %%m %%u %%g %%s %%l %%T@\\n' | sort | grep -v '^[.] ') > /tmp/left
(cd /a/copied; find . -printf '%%p %%y %%m %%u %%g %%s %%l %%T@\\n' | sort | grep -v '^[.] ') > /tmp/right
diff /tmp/left /tmp/right
rm -r /b/copied; [ ! -e /a/copied ]
rm -r many; rmdir /a/nothing 2>/dev/null && fail rmdir
df /a | grep -q "$HOST" || fail df
cd /
echo "names"

# Locks of one mount hold the other up
echo lock > /a/lock
exec 8<>/a/lock 9<>/b/lock
flock -x 8; flock -n -x 9 && fail "two hold one lock"; flock -n -s 9 && fail "shared beside exclusive"
flock -u 8; flock -n -s 9; flock -n -s 8; flock -n -x 8 && fail "exclusive beside shared"
flock -u 9; flock -n -x 8
(flock -x 9; echo got > /tmp/got) & waiting=$!
sleep 1; [ ! -e /tmp/got ] || fail "did not wait"
flock -u 8; wait $waiting; [ -e /tmp/got ]
exec 8>&- 9>&-
echo "locks"

# What is open stays, whatever happens to its name
echo content > /a/open; exec 7<>/a/open
mv /b/open /b/renamed; echo more >> /a/renamed; [ "$(cat <&7)" = "$(printf 'content\\nmore')" ] || fail "renamed while open"
rm /b/renamed; echo last >&7; exec 7>&-; [ ! -e /a/renamed ]
echo mine > /a/open; exec 7<>/a/open; rm /a/open; echo still >&7; [ "$(cat /proc/self/fd/7)" = still ] || fail "not what was written"; exec 7>&-
[ -z "$(ls -A /b | grep nfs || true)" ] || fail "left over: $(ls -A /b)"
echo "open"

# Extended attributes
echo x > /a/x; setfattr -n user.colour -v blue /a/x; setfattr -n user.empty /a/x
[ "$(getfattr --only-values -n user.colour /a/x)" = blue ]
[ "$(getfattr /a/x | grep -c user)" = 2 ] || fail "$(getfattr -d /a/x)"
setfattr -x user.colour /a/x; getfattr -n user.colour /a/x 2>/dev/null && fail "still there"
echo "xattrs"

# Holes, clones and copies
cd /a
fio --name=whole --filename=/a/source --size=8m --rw=write --bs=1m --ioengine=psync --end_fsync=1 --output-format=terse > /tmp/fio || fail "$(cat /tmp/fio)"
xfs_io -f -c 'reflink /a/source' clone; cmp source clone
[ "$(stats /a CLONE)" -ge 1 ] || fail "no CLONE"
xfs_io -f -c 'copy_range /a/source' copy; cmp source copy
[ "$(stats /a COPY)" -ge 1 ] || fail "no COPY"
cp --reflink=auto source auto; cmp source auto
xfs_io -c 'fpunch 1m 1m' clone; cmp -n 1048576 -i 1048576 clone /dev/zero; cmp -n 1048576 clone source; cmp source copy
[ "$(xfs_io -r -c 'seek -h 0' clone | tail -1 | tr -s ' \\t' ' ')" = "HOLE 1048576" ] || fail "$(xfs_io -r -c 'seek -h 0' clone)"
[ "$(xfs_io -r -c 'seek -d 1m' clone | tail -1 | tr -s ' \\t' ' ')" = "DATA 2097152" ] || fail "$(xfs_io -r -c 'seek -d 1m' clone)"
xfs_io -f -c 'falloc 0 3m' reserved; [ "$(stat -c %%s reserved)" = 3145728 ]; [ "$(stat -c %%b reserved)" -ge 6144 ]
rm source clone copy auto reserved; cd /
echo "holes"

# Data from both mounts
for mount in /a /b; do
    fio --name=data --directory=$mount --size=8m --bsrange=512-64k --bs_unaligned=1 --rw=randrw --fsync=32 \\
        --verify=crc32c --verify_fatal=1 --do_verify=1 --ioengine=psync --output-format=terse > /tmp/fio || fail "$(cat /tmp/fio)"
    echo 3 > /proc/sys/vm/drop_caches
    cmp /a/data.0.0 /b/data.0.0; rm $mount/data.0.0
done
[ "$(grep -c '^[[:space:]]*xprt:' /proc/self/mountstats)" -ge 5 ] || fail "connections: $(grep xprt: /proc/self/mountstats)"
echo "data"

# A delegation: opened often, asked for once; and given back when another client writes
echo first > /a/kept; sync; cat /a/kept > /dev/null
before=$(stats /a OPEN); for i in $(seq 20); do cat /a/kept > /dev/null; done; after=$(stats /a OPEN)
echo "opened 20 times with $((after - before)) OPENs"
[ $((after - before)) -le 3 ] || fail "no delegation"
returned=$(stats /a DELEGRETURN); echo second > /b/kept; [ "$(cat /a/kept)" = second ]
[ "$(stats /a DELEGRETURN)" -gt "$returned" ] || fail "no delegation was returned"
# What the holder of a write delegation has not sent yet shows in the size that others see
echo start > /a/dirty; exec 6<>/a/dirty; echo hello world >&6
[ "$(stat -c %%s /b/dirty)" = 12 ] || fail "a size of $(stat -c %%s /b/dirty)"
exec 6>&-
umount /a /b
echo "delegations"
"""


def test_two_mounts_of_4_1_and_4_2_are_one_file_system(node: RunningNode) -> None:
    run(SOFS, "share", "create", "second", "--data", str(node.data))
    run_in_vm(node, SCRIPT % {"port": node.nfs.port, "share": SHARE})
    assert "operation_failed" not in node.log.read_text(), node.tail()
