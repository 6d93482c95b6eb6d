"""Small files that are read and replaced as a whole, over the port `Files`. (`durable` does it with files of the host that others read, too.)"""

from __future__ import annotations

from sofs.runtime.ports import Files


def read_whole(files: Files, path: str, most: int = 1 << 62) -> bytes | None:
    """The file, or at most so many bytes of it; None if there is none. Raises `DiskFailed`."""
    if not files.exists(path):
        return None
    file = files.open(path)
    try:
        data = bytearray(min(file.size, most))
        return bytes(data[: file.read_now(0, [memoryview(data)])])
    finally:
        file.close()


def replace(files: Files, path: str, data: bytes) -> None:
    """Whatever happens, the file has all of the former content or all of this; durable when it returns. Raises `DiskFailed`, `NoSpace`."""
    fresh = path + ".new"
    file = files.open(fresh, create=True)
    try:
        file.truncate(0)
        file.write(0, [data])
        file.sync_now()
    finally:
        file.close()
    files.rename(fresh, path)
    files.sync_directory(path.rpartition("/")[0])
