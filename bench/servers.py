"""The servers: started on directories of one file system, stopped, and their CPU time counted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

from bench.nfs import NfsFiles
from bench.nfs4 import Nfs4Files
from bench.smb import Protection, SmbFiles
from sofs.admin import api
from sofs.admin.client import AdminClient

__all__ = ["PROTECTIONS", "PROTOCOLS", "Files", "Ganesha", "Samba", "Server", "Sofs", "busy_s", "tree_s"]

Files = NfsFiles | Nfs4Files | SmbFiles
PROTECTIONS = {"smb": Protection.SIGNED, "smb-seal": Protection.SEALED, "smb-plain": Protection.PLAIN}
PROTOCOLS = ("nfs", "nfs4", *PROTECTIONS)

HOST = "127.0.0.1"
USER, PASSWORD, SHARE = "nobody", "Bench-Horse-9", "bench"
TICK = os.sysconf("SC_CLK_TCK")
START_S = 60.0


class Server(ABC):
    """One server with its data below `home`."""

    name: str

    def __init__(self, home: Path) -> None:
        self.home = home / self.name
        self.home.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Prepares what the server needs; gives how it is started, in the foreground."""

    @abstractmethod
    def ports(self) -> list[int]:
        """Where it listens when it is up."""

    def files(self, protocol: str) -> Files | None:
        """A client for `protocol`, if the server speaks it."""
        return None

    def start(self) -> None:
        log = (self.home / "output").open("wb")
        # A session of its own: smbd ends its whole process group when it is stopped.
        self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        for port in self.ports():
            while not _listening(port):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} did not start:\n{(self.home / 'output').read_text(errors='replace')[-2000:]}")
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def put_in_place(self) -> None:
        """Has everything that was written put where it stays: no row is to pay for what an earlier one left behind."""
        subprocess.run(["sync", "--file-system", str(self.home)], check=True)

    def cpu_s(self) -> float:
        """CPU time of the server's processes so far: those that live, and those of its children that have ended."""
        assert self._process is not None
        return tree_s(self._process.pid)


def _listening(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1).close()
        return True
    except OSError:
        return False


def _stat(pid: str) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree_s(root: int) -> float:
    """utime, stime, and cutime, cstime of a process and all below it."""
    stats: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stats[int(entry)] = _stat(entry)
            except OSError:
                continue
    family = {root}
    grown = True
    while grown:
        more = {pid for pid, stat in stats.items() if int(stat[1]) in family and pid not in family}
        family |= more
        grown = bool(more)
    return sum(sum(map(int, stats[pid][11:15])) for pid in family if pid in stats) / TICK


def busy_s() -> float:
    """CPU time that all processors have spent on anything but waiting."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]))
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICK


class Sofs(Server):
    """`sofs quickstart`: one disk directory, policy `simple`, one volume, as the others have one local file system."""

    name = "sofs"
    smb_port, nfs_port = 4450, 20490

    def command(self) -> list[str]:
        conf = self.home / "data" / "conf"
        conf.mkdir(parents=True)
        # Clients that do not ask for signing get none; those of the signed rows do.
        (conf / "sofs.toml").write_text('[smb]\nsigning = "offered"\n')
        program = Path(sys.executable).with_name("sofs")
        ports = ["--smb-port", str(self.smb_port), "--nfs-port", str(self.nfs_port)]
        return [
            str(program),
            "quickstart",
            "--data",
            str(self.home / "data"),
            *ports,
            "--listen",
            HOST,
            "--user",
            f"{USER}:{PASSWORD}",
            "--share",
            SHARE,
        ]

    def ports(self) -> list[int]:
        return [self.smb_port, self.nfs_port]

    def put_in_place(self) -> None:
        admin = AdminClient(data=self.home / "data")
        for volume in admin.ask(api.Operations.volumes):
            admin.ask(api.Operations.settle_volume, volume.name)
        super().put_in_place()

    def files(self, protocol: str) -> Files | None:
        if protocol in PROTECTIONS:
            return SmbFiles(HOST, self.smb_port, USER, PASSWORD, SHARE, protocol, PROTECTIONS[protocol])
        if protocol == "nfs4":
            return Nfs4Files(HOST, self.nfs_port, SHARE)
        return NfsFiles(HOST, self.nfs_port, self.nfs_port, f"/{SHARE}")


class Samba(Server):
    """Debian's smbd on a local directory. `case sensitive` is set, as Samba's create gets slower with every file of a
    directory without it, and signing is up to the client, as it is at sofs; all else is the default."""

    name = "samba"
    port = 4451

    def command(self) -> list[str]:
        data = self.home / "data"
        data.mkdir()
        data.chmod(0o777)
        folders = "\n".join(
            f"{key} = {self.home}" for key in ("private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir")
        )
        config = self.home / "smb.conf"
        config.write_text(
            f"[global]\n{folders}\nsmb ports = {self.port}\nserver role = standalone server\nserver min protocol = SMB3\n"
            "server signing = auto\ndisable spoolss = yes\nload printers = no\nlog level = 0\n"
            f"log file = {self.home}/log\ncase sensitive = yes\n[{SHARE}]\npath = {data}\nread only = no\n"
        )
        subprocess.run(
            ["smbpasswd", "-c", str(config), "-s", "-a", USER], input=f"{PASSWORD}\n{PASSWORD}\n".encode(), check=True, capture_output=True
        )
        return ["smbd", "-F", "--no-process-group", "-s", str(config)]

    def ports(self) -> list[int]:
        return [self.port]

    def files(self, protocol: str) -> Files | None:
        if protocol in PROTECTIONS:
            return SmbFiles(HOST, self.port, USER, PASSWORD, SHARE, protocol, PROTECTIONS[protocol])
        return None


class Ganesha(Server):
    """NFS-Ganesha with its VFS backend on a local directory. Needs a rpcbind, and root for file handles."""

    name = "ganesha"
    nfs_port, mount_port = 20491, 20492

    def command(self) -> list[str]:
        data = self.home / "data"
        data.mkdir()
        data.chmod(0o777)
        config = self.home / "ganesha.conf"
        config.write_text(
            f"NFS_CORE_PARAM {{ Protocols = 3, 4; NFS_Port = {self.nfs_port}; MNT_Port = {self.mount_port};"
            " Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; }\n"
            "EXPORT_DEFAULTS { Access_Type = RW; Squash = None; SecType = sys; Transports = TCP; Protocols = 3, 4; }\n"
            f"NFSv4 {{ Graceless = true; Delegations = false; RecoveryRoot = {self.home}; }}\n"
            f"EXPORT {{ Export_Id = 1; Path = {data}; Pseudo = /{SHARE}; FSAL {{ Name = VFS; }} CLIENT {{ Clients = *; }} }}\n"
            "LOG { Default_Log_Level = WARN; }\n"
        )
        return ["ganesha.nfsd", "-F", "-f", str(config), "-L", str(self.home / "log"), "-p", str(self.home / "pid")]

    def ports(self) -> list[int]:
        return [self.nfs_port, self.mount_port]

    def files(self, protocol: str) -> Files | None:
        if protocol == "nfs4":
            return Nfs4Files(HOST, self.nfs_port, SHARE)
        return NfsFiles(HOST, self.nfs_port, self.mount_port, f"/{SHARE}") if protocol == "nfs" else None
