"""One virtual machine: find a kernel, start qemu, stream what the script writes, return its status."""

from __future__ import annotations

import ctypes
import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.kernel_client import guest

TIMED_OUT = 124
NO_STATUS = 125
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Options:
    """How a machine is made. `tap` and `address` make it a host on a bridge instead of a loopback client."""

    kernel: str | None = None  # a vmlinuz, or part of a release in /boot
    memory_mib: int = 1024
    cpus: int = 2
    timeout_s: float = 300
    accelerator: str = "auto"  # or kvm, tcg
    extra: Sequence[str] = field(default=())  # SOURCE[=NAME] each
    tap: str | None = None
    address: str | None = None
    append: str = ""  # more kernel command line
    log: str | None = None  # where the kernel's console goes
    rebuild: bool = False


@dataclass(frozen=True)
class Outcome:
    """`status` is the script's, or TIMED_OUT, or NO_STATUS (then `trouble` ends with the kernel's log)."""

    status: int
    output: str
    trouble: str = ""


def find_kernel(wanted: str | None) -> tuple[str, str]:
    """A kernel image and the module directory that belongs to it; `Unusable` when there is none."""
    if wanted and os.path.exists(wanted):
        image = wanted
    else:
        found = _by_release(f"/boot/vmlinuz-*{wanted or 'cloud'}*")
        if not found and not wanted:
            found = _by_release("/boot/vmlinuz-*")
        if not found:
            raise guest.Unusable("no kernel found: apt-get install linux-image-cloud-amd64")
        image = found[-1]
    release = os.path.basename(image).removeprefix("vmlinuz-")
    # An unpacked package (dpkg -x) has its modules beside boot/.
    root = os.path.dirname(os.path.dirname(os.path.abspath(image)))
    for modules in (f"{root}/lib/modules/{release}", f"{root}/usr/lib/modules/{release}"):
        if os.path.isdir(modules):
            return image, modules
    raise guest.Unusable(f"no modules for {image}")


def _by_release(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern), key=lambda path: [int(number) for number in re.findall(r"\d+", path)])


def choose_accelerator(wanted: str) -> str:
    """KVM only where it runs an ordinary kernel: under a nested "pvm" host that gets no further
    than its decompressor."""
    if wanted != "auto":
        return wanted
    processor = os.path.exists("/sys/module/kvm_intel") or os.path.exists("/sys/module/kvm_amd")
    return "kvm" if processor and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _command(options: Options, image: str, initrd: Path, log: str, status: Path) -> list[str]:
    accelerator = choose_accelerator(options.accelerator)
    # qemu 7.2 interprets cmpxchg16b wrongly now and then; kernels from 6.5 on use it.
    cpu = "host" if accelerator == "kvm" else "max,-cx16"
    network = f"tap,id=net,ifname={options.tap},script=no,downscript=no" if options.tap else "user,id=net"
    # no_timer_check: on a busy host the interpreted timer ticks too late for the kernel's self-test, which then panics.
    kernel_words = f"console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check {options.append}"
    if options.address:
        kernel_words += f" kc.address={options.address}"
    # fmt: off
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-accel", accelerator, "-m", str(options.memory_mib), "-smp", str(options.cpus), "-cpu", cpu,
        "-kernel", image, "-initrd", str(initrd), "-append", kernel_words,
        "-serial", f"file:{log}",
        "-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci", "-device", "virtio-serial",
        "-chardev", "stdio,id=out,signal=off", "-device", "virtserialport,chardev=out,name=out",
        "-chardev", f"file,id=status,path={status}", "-device", "virtserialport,chardev=status,name=status",
    ]
    # fmt: on


def _follow(command: list[str], timeout_s: float, sink: Callable[[bytes], object]) -> bool:
    """Run qemu and pass on what the guest writes; whether it ended by itself in time."""
    # Pipes of ours: qemu makes them non-blocking, and hangs up "out" if stdin ends.
    machine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=_die_with_parent)
    late = threading.Event()

    def stop() -> None:
        late.set()
        machine.kill()

    timer = threading.Timer(timeout_s, stop)
    timer.start()
    assert machine.stdin and machine.stdout
    try:
        while chunk := os.read(machine.stdout.fileno(), 65536):
            sink(chunk)
        machine.wait()
    finally:
        timer.cancel()
        machine.kill()
        machine.wait()
        machine.stdin.close()
        machine.stdout.close()
    return not late.is_set()


def _tail(path: str) -> str:
    try:
        return "".join(Path(path).read_text(errors="replace").splitlines(keepends=True)[-40:])
    except FileNotFoundError:
        return ""


def run_script(script: str, arguments: Sequence[str] = (), options: Options | None = None, sink: Callable[[bytes], object] | None = None) -> Outcome:
    """Run the text of a shell script in a fresh guest. `sink` sees its output while it is written."""
    options = options or Options()
    if shutil.which("qemu-system-x86_64") is None:
        raise guest.Unusable("no qemu: apt-get install qemu-system-x86")
    image, modules = find_kernel(options.kernel)
    base = guest.base(image, modules, options.rebuild)
    output: list[bytes] = []

    def keep(chunk: bytes) -> None:
        output.append(chunk)
        if sink:
            sink(chunk)

    with tempfile.TemporaryDirectory(prefix="kernel-client-") as scratch:
        job, initrd, status = (Path(scratch, name) for name in ("job", "initrd", "status"))
        guest.write_job(job, script, arguments, options.extra)
        with initrd.open("wb") as joined:
            for part in (base, job):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, joined, 1 << 20)
        log = options.log or f"{scratch}/log"
        in_time = _follow(_command(options, image, initrd, log, status), options.timeout_s, keep)
        text = b"".join(output).decode(errors="replace")
        if not in_time:
            trouble = f"stopped after {options.timeout_s:g} s; kernel log:\n{_tail(log)}"
            return Outcome(TIMED_OUT, text, trouble)
        try:
            return Outcome(int(status.read_text()), text)
        except (OSError, ValueError):
            trouble = f"the machine gave no exit status; its kernel log ends:\n{_tail(log)}"
            return Outcome(NO_STATUS, text, trouble)
