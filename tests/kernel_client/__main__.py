"""The kernel client as a command.

    python -m tests.kernel_client [options] SCRIPT [ARG...]

Runs SCRIPT with bash as root in the guest and exits with its status; 124 on --timeout, 125 when
the machine gave none, with the end of the kernel log on stderr.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.kernel_client.guest import Unusable
from tests.kernel_client.vm import Options, run_script


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.kernel_client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kernel", help="vmlinuz path, or (part of) a release in /boot")
    p.add_argument("--mem", type=int, default=1024, help="MiB (default %(default)s)")
    p.add_argument("--smp", type=int, default=2, help="CPUs (default %(default)s)")
    p.add_argument("--timeout", type=float, default=300, help="seconds (default %(default)s)")
    p.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    p.add_argument(
        "--with",
        dest="extra",
        action="append",
        default=[],
        metavar="PATH_OR_PROG[=NAME]",
        help="a program with its libraries goes to /usr/bin, any other file or a directory to /job "
        "(the script's working directory); an absolute NAME is where it goes instead",
    )
    p.add_argument("--tap", metavar="IFNAME", help="a tap device for one more host on its bridge")
    p.add_argument("--address", metavar="CIDR", help="the guest's address, with --tap")
    p.add_argument("--append", default="", help="more kernel command line")
    p.add_argument("--log", help="keep the kernel's console log in this file")
    p.add_argument("--rebuild", action="store_true", help="remake the cached initramfs")
    p.add_argument("script", type=Path)
    p.add_argument("args", nargs=argparse.REMAINDER)
    return p


def write_through(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def main() -> int:
    p = parser()
    args = p.parse_args()
    if bool(args.tap) != bool(args.address):
        p.error("--tap and --address go together")
    for signum in (signal.SIGTERM, signal.SIGHUP):  # so that "finally" clauses run
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    options = Options(
        kernel=args.kernel,
        memory_mib=args.mem,
        cpus=args.smp,
        timeout_s=args.timeout,
        accelerator=args.accel,
        extra=args.extra,
        tap=args.tap,
        address=args.address,
        append=args.append,
        log=args.log,
        rebuild=args.rebuild,
    )
    try:
        outcome = run_script(args.script.read_text(), args.args, options, write_through)
    except Unusable as reason:
        print(f"kernel client: {reason}", file=sys.stderr)
        return 125
    if outcome.trouble:
        print(f"kernel client: {outcome.trouble}", file=sys.stderr)
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
