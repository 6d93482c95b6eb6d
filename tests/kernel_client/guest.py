"""What the guest holds: programs, kernel modules, users, and the script that starts it.

The base is the same for every run and is cached; a job adds one run's script and files. The kernel
takes both as joined archives.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.kernel_client.cpio import Cpio

# Programs that the guest gets, with their libraries. A missing one of NEEDED is an error, of
# WANTED a warning; busybox supplies any other common command.
NEEDED = "bash busybox modprobe mount umount mount.cifs mount.nfs mount.nfs4 umount.nfs".split()
WANTED = """umount.nfs4 fio xfs_io getfattr setfattr getfacl setfacl flock setpriv
 lsattr strace cp dd ls stat mv ln rm touch mkdir truncate sync md5sum sha256sum sort seq
 timeout date mkfifo mktemp chmod chown df du nproc grep sed find diff cmp
 request-key nfsidmap getcifsacl setcifsacl nfsstat""".split()

# Whole directories of modules, so that each one's dependencies come along.
MODULES = """crypto lib arch/x86/crypto fs/nfs fs/nfs_common fs/smb fs/cifs fs/lockd
 fs/netfs fs/fscache fs/nls net/sunrpc net/dns_resolver net/core/failover
 net/802/garp drivers/net/virtio_net drivers/net/net_failover drivers/virtio
 drivers/block/virtio_blk drivers/char/virtio_console drivers/char/hw_random""".split()

ETC = {
    "passwd": "root:x:0:0::/root:/bin/bash\nuser1:x:1001:1001::/:/bin/bash\nuser2:x:1002:1002::/:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "root:x:0:\nuser1:x:1001:\nuser2:x:1002:\nshared:x:1100:user1,user2\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n10.0.2.2 host\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "request-key.conf": "create id_resolver * * /usr/sbin/nfsidmap -t 600 %k %d\n",
}
ETC_OF_HOST = ("netconfig", "protocols", "services", "rpc")

INIT = Path(__file__).with_name("init.sh")


class Unusable(Exception):
    """Something the virtual machine needs is missing here; the text says what to install."""


def find_program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin")


def _add_programs(archive: Cpio) -> None:
    for program in NEEDED + WANTED:
        source = find_program(program)
        if source:
            folder = "/usr/sbin/" if "/sbin/" in source else "/usr/bin/"
            archive.file(os.path.realpath(source), folder + program)
        elif program in NEEDED:
            raise Unusable(f"{program} is not installed (tests/kernel_client/README.md lists the packages)")
        else:
            print(f"kernel client: without {program}: not installed", file=sys.stderr)
    busybox = find_program("busybox")
    assert busybox  # one of NEEDED
    for applet in subprocess.check_output([busybox, "--list"], text=True).split():
        if f"/usr/sbin/{applet}" not in archive.names:
            archive.link(f"/usr/bin/{applet}", "busybox")


def _add_modules(archive: Cpio, modules: str) -> None:
    """The wanted modules, with an index of dependencies that covers just these."""
    release = os.path.basename(modules)
    with tempfile.TemporaryDirectory() as scratch:
        top = f"{scratch}/lib/modules/{release}"
        for wanted in MODULES:
            for source in glob.glob(f"{modules}/kernel/{wanted}*"):
                target = f"{top}/kernel/{os.path.relpath(source, modules + '/kernel')}"
                os.makedirs(os.path.dirname(target), exist_ok=True)
                if os.path.isdir(source):
                    shutil.copytree(source, target, dirs_exist_ok=True)
                else:
                    shutil.copy(source, target)
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            if os.path.exists(f"{modules}/{name}"):
                shutil.copy(f"{modules}/{name}", top)
        depmod = find_program("depmod")
        if depmod is None:
            raise Unusable("depmod is not installed (package kmod)")
        subprocess.check_call([depmod, "-b", scratch, release])
        archive.tree(f"{scratch}/lib", "/usr/lib")


def _write_base(path: Path, modules: str) -> None:
    with Cpio(path) as archive:
        for name in ("proc", "sys", "dev", "mnt", "job", "root", "run", "var"):
            archive.directory("/" + name)
        archive.directory("/tmp", 0o1777)
        for name in ("bin", "sbin", "lib", "lib64"):
            archive.link("/" + name, "usr/" + name)
        for name, text in ETC.items():
            archive.add("/etc/" + name, data=text)
        for name in ETC_OF_HOST:
            if os.path.exists("/etc/" + name):
                archive.file("/etc/" + name, "/etc/" + name)
        archive.add("/init", 0o100755, INIT.read_text())
        _add_programs(archive)
        _add_modules(archive, modules)


def base(image: str, modules: str, rebuild: bool) -> Path:
    """The archive all runs share; rebuilt when this package, the kernel or a program changed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()) / f"kernel-client-{os.getuid()}"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = hashlib.sha256()
    for own in sorted(Path(__file__).parent.glob("*.[ps][yh]")):
        key.update(own.read_bytes())
    for source in [image, modules, *(find_program(program) or "" for program in NEEDED + WANTED)]:
        key.update(f"{source} {os.path.getmtime(source) if source else 0}\n".encode())
    kernel = os.path.basename(image)
    path = cache / f"{kernel}-{key.hexdigest()[:12]}.cpio"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first runs at once build it once
        if rebuild or not path.exists():
            for old in cache.glob(f"{kernel}-*.cpio"):
                old.unlink()
            fresh = path.with_suffix(".new")
            _write_base(fresh, modules)
            fresh.rename(path)
    return path


def write_job(path: Path, script: str, arguments: Sequence[str], extra: Sequence[str]) -> None:
    """What one run adds: the script's text, its arguments, and each of `extra` (`SOURCE[=NAME]`)."""
    with Cpio(path) as archive:
        archive.add("/job/.script", 0o100755, script)
        archive.add("/job/.start", data="exec bash /job/.script " + shlex.join(arguments) + "\n")
        for item in extra:
            source, _, name = item.partition("=")
            if not os.path.exists(source):
                found = find_program(source)
                if found is None:
                    raise Unusable(f"{item}: no such file or program to bring along")
                source = found
            name = name or os.path.basename(os.path.abspath(source))
            directory = os.path.isdir(source)
            top = "/usr/bin" if os.access(source, os.X_OK) and not directory else "/job"
            target = os.path.join(top, name)  # an absolute name stays as it is
            if directory:
                archive.tree(source, target)
            else:
                archive.file(source, target)
