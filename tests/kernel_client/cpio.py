"""A "newc" cpio archive, the form in which the kernel takes its initramfs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from types import TracebackType

MERGED_USR = re.compile(r"/(bin|sbin|lib|lib64)/")  # links into /usr, as in Debian


class Cpio:
    """An archive being written. Parents are made by themselves; the first of two equal names wins."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.names = {"/usr"}
        self._libraries: set[str] = set()
        self._put("usr", 0o40755, b"")

    def __enter__(self) -> Cpio:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._put("TRAILER!!!", 0, b"")
            self._file.write(bytes(-self._file.tell() % 512))
        self._file.close()

    def _put(self, name: str, mode: int, data: bytes) -> None:
        raw = name.encode() + b"\0"
        # inode, mode, uid, gid, links, time, size, device x2, special device x2, name length, check
        fields = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        record = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        self._file.write(record + bytes(-len(record) % 4) + data + bytes(-len(data) % 4))

    def add(self, name: str, mode: int = 0o100644, data: bytes | str = b"") -> None:
        name = os.path.normpath(name)
        if MERGED_USR.match(name):
            name = "/usr" + name
        if name in self.names:
            return
        parent = os.path.dirname(name)
        if parent != "/":
            self.directory(parent)
        self.names.add(name)
        self._put(name[1:], mode, data.encode() if isinstance(data, str) else data)

    def directory(self, name: str, mode: int = 0o755) -> None:
        self.add(name, 0o040000 | mode)

    def link(self, name: str, target: str) -> None:
        self.add(name, 0o120777, target)

    def file(self, source: str, name: str) -> None:
        """A file of this machine and, if it is a dynamic program, the libraries it is linked with."""
        data = Path(source).read_bytes()
        self.add(name, 0o100000 | os.stat(source).st_mode & 0o777, data)
        if data.startswith(b"\x7fELF") and not source.endswith(".ko"):
            listing = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
            for library in re.findall(r"(/\S+) \(0x", listing):
                if library not in self._libraries:
                    self._libraries.add(library)
                    self.add(library, 0o100755, Path(library).read_bytes())

    def tree(self, source: str, name: str) -> None:
        """A directory of this machine with all that is in it."""
        for at, directories, files in os.walk(source):
            for entry in directories + files:
                full = os.path.join(at, entry)
                to = os.path.join(name, os.path.relpath(full, source))
                if os.path.islink(full):
                    self.link(to, os.readlink(full))
                elif entry in directories:
                    self.directory(to)
                else:
                    self.file(full, to)
