"""The command `sofs`.

- `quickstart`: one node in the foreground, with all it needs made at first start.
- `objects`: disks, pools, volumes, shares, users and opens of a running node.
- `snapshots`: snapshots of volumes. `quotas`: what users, groups, directories and volumes may use.
- `inspect`: `status` and `check`.
- `cluster`: the cluster of which the node is a member; `enrolment` does its work on a stopped node.
- `nodes`, `vips`: a cluster's nodes, and its virtual addresses.
- `lab`: a whole cluster on this machine.
- `target`: which node a command means. `show`: answers as tables or JSON.

Every command takes `--json` and then writes one JSON value (`check`: and nothing else) on stdout. The exit status is 0 when it did
what was asked, 1 when not (the reason is on stderr), 2 for a wrong command line.
"""

from __future__ import annotations

import sys

import typer

from sofs.cli import cluster, inspect, lab, nodes, objects, quickstart, quotas, snapshots, vips
from sofs.errors import SofsError

app = typer.Typer(
    name="sofs",
    help="sofs, a scale-out file server: SMB3 and NFS shares on crash-safe, checksummed volumes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("quickstart")(quickstart.quickstart)
app.command("status")(inspect.status)
app.command("check")(inspect.check)
for name, group in objects.GROUPS.items():
    app.add_typer(group, name=name)
app.add_typer(cluster.cluster, name="cluster")
app.add_typer(nodes.node, name="node")
app.add_typer(vips.vip, name="vip")
app.add_typer(snapshots.snapshot, name="snapshot")
app.add_typer(quotas.quota, name="quota")
app.add_typer(lab.lab, name="lab")


def main() -> None:
    """Run a command; outcomes become a line on stderr and status 1."""
    try:
        app()
    except SofsError as error:
        print(f"sofs: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Nothing more can be told.
        sys.stderr.close()
        sys.exit(1)
