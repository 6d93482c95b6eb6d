"""The Linux kernel's own SMB and NFS clients, in a throwaway virtual machine.

Debian's kernel is booted in qemu with an initramfs made from this machine's own programs, and
runs one shell script as root. The script's output comes back as it is written, and so does its
exit status. In the guest, `$HOST` (10.0.2.2) is this machine's 127.0.0.1, so that any server that
listens on a loopback port can be mounted; on this machine nothing is mounted, loaded or changed.

- `cpio`: writes the archive a kernel unpacks as its initramfs.
- `guest`: what is inside: programs, modules, users, the init script; cached between runs.
- `vm`: finds a kernel, starts qemu, collects output and status.
- `__main__`: the command, `python -m tests.kernel_client SCRIPT`; README.md has examples.

Tests use `run_script`.
"""

from tests.kernel_client.vm import Options, Outcome, run_script

__all__ = ["Options", "Outcome", "run_script"]
