"""A real etcd of Debian's, on free ports of the loopback, for one test."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class EtcdServer:
    """One member; starts, stops, freezes and thaws."""

    def __init__(self, directory: Path, tls: tuple[Path, Path, Path] | None = None) -> None:
        """`tls`: files with the authority of clients' certificates, and with its own certificate and key."""
        self._directory = directory
        self._tls = tls
        self.port, self._peer_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        client, peer = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peer_port}"
        options = []
        if self._tls is not None:
            authority, certificate, key = self._tls
            options = ["--client-cert-auth", f"--trusted-ca-file={authority}", f"--cert-file={certificate}", f"--key-file={key}"]
        with open(self._directory / "etcd.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    "etcd", "--name=one", f"--data-dir={self._directory}/data", f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}", "--unsafe-no-fsync",
                    "--heartbeat-interval=50", "--election-timeout=500", "--logger=zap", "--log-outputs=stderr",
                    *options,
                ],
                stdout=log, stderr=log, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": ""},
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, (self._directory / "etcd.log").read_text()
            time.sleep(0.02)
        raise AssertionError((self._directory / "etcd.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def lose(self) -> None:
        """Starts again without its data."""
        self.stop()
        shutil.rmtree(self._directory / "data")
        self.start()

    def freeze(self) -> None:
        """Lets it take connections and requests, and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Its threads stop one after another, and one of them could still answer.
        tasks = Path(f"/proc/{self._process.pid}/task")
        while any(_state(task) != "T" for task in tasks.iterdir()):
            time.sleep(0.001)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _state(task: Path) -> str:
    """A thread's state (proc(5)); "T" is stopped."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
