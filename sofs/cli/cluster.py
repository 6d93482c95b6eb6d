"""`sofs cluster …`: how a cluster begins, grows, shrinks and is.

`init`, `join` and `leave` change a node that does not run: its data directory, its configuration file and the records in etcd. `token`, `evict` and
`recover` need only etcd, as the node's configuration names it. `status` asks a running node.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sofs.admin import api
from sofs.cli import show
from sofs.cli.target import Data, Json, Target, data_directory, on_node
from sofs.errors import InvalidArgument

cluster = typer.Typer(help="The cluster of which the node is a member.", no_args_is_help=True)

Addresses = Annotated[
    list[str] | None, typer.Option("--address", metavar="IP:PORT", help="Where the other nodes reach this one; may be repeated, for several cables.")
]
Name = Annotated[str | None, typer.Option(help="The node's name in the cluster (default: the file's, or the host's).")]


@cluster.command("init")
def init(
    data: Data = None,
    etcd: Annotated[list[str] | None, typer.Option("--etcd", metavar="HOST:PORT", help="A member of etcd; repeat it for each.")] = None,
    prefix: Annotated[str | None, typer.Option(help="What all keys in etcd begin with (default: sofs/).")] = None,
    address: Addresses = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Make a stopped node the first of a new cluster, with all it holds. Repeat it if it was interrupted."""
    from sofs.cli.enrolment import found_cluster

    done = found_cluster(data_directory(data).absolute(), etcd or [], prefix, address or [], name)
    if json:
        show.as_json(done)
        return
    typer.echo(f"cluster {done.cluster} founded, {done.copied} records copied; node {done.name} is its first member")
    typer.echo("Start it (`sofsd`, or `sofs quickstart`); `sofs cluster token` lets further nodes join.")


@cluster.command("token")
def token(
    data: Data = None,
    reusable: Annotated[bool, typer.Option("--reusable", help="For any number of nodes, until it expires.")] = False,
    expires_h: Annotated[float, typer.Option(help="For how many hours it is good.")] = 24.0,
    json: Json = False,
) -> None:
    """Print a token that lets a node join. Whoever has it can: keep it to yourself."""
    from sofs.cli.enrolment import make_token

    if not 0 < expires_h <= 8760:
        raise InvalidArgument("--expires-h takes a number of hours up to 8760")
    made = make_token(data_directory(data).absolute(), reusable, expires_h * 3600)
    show.tell({"token": made}, made, json)


@cluster.command("join")
def join(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="As `sofs cluster token` on a member prints it.")],
    data: Data = None,
    address: Addresses = None,
    name: Name = None,
    etcd: Annotated[
        list[str] | None,
        typer.Option("--etcd", metavar="HOST:PORT", help="Where etcd is for this host (default: as the token has it); may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a new node, which has no data yet, a member. Repeat it if it was interrupted."""
    from sofs.cli.enrolment import join_cluster

    done = join_cluster(data_directory(data).absolute(), token, address or [], name, etcd or [])
    show.tell(done, f"node {done.name} ({done.node}) is a member of cluster {done.cluster}; start it, and give it disks with `sofs disk add`", json)


@cluster.command("leave")
def leave(data: Data = None, json: Json = False) -> None:
    """Take a stopped node, which holds no disks any more, out of its cluster."""
    from sofs.cli.enrolment import leave_cluster

    done = leave_cluster(data_directory(data).absolute())
    show.tell(done, f"node {done.name} has left cluster {done.cluster}; its data directory can be removed", json)


@cluster.command("evict")
def evict(
    node: Annotated[str, typer.Argument(help="Name or id of the member that is lost for good.")],
    data: Data = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="You vouch that its process has ended and never reaches disks and network again: what it served is taken over at once, and if it "
            "lives all the same, clients may lose what they were told is written. Needed if it says that it runs, or if only it has a volume's log.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Bar a member that will not come back. Its disks are given up, and what it held is rebuilt elsewhere.

    Without --force it may live, cut off from the others: what it served is taken over once its promises have run out.
    """
    from sofs.cli.enrolment import evict_member

    done = evict_member(data_directory(data).absolute(), node, force)
    show.tell(done, f"node {done.name} is evicted; what its disks held is made anew elsewhere", json)


@cluster.command("recover")
def recover(
    data: Data = None,
    etcd: Annotated[
        list[str] | None, typer.Option("--etcd", metavar="HOST:PORT", help="The new, empty etcd (default: the file's); repeat it for each member.")
    ] = None,
    json: Json = False,
) -> None:
    """After the loss of etcd with all its data: put the records back, as this node knows them.

    Run it on every node; each adds what it knows better. Nodes that run may go on doing so, if etcd is where it was; none may be started before all are done.
    """
    from sofs.cli.enrolment import recover_cluster

    done = recover_cluster(data_directory(data).absolute(), etcd or [])
    if json:
        show.as_json(done)
    else:
        typer.echo(f"cluster {done.cluster}: {done.restored} records restored, {done.raised} configurations raised, {done.kept} were there already")
        typer.echo("Run this on every other node, too, before you start any that does not run.")


@cluster.command("status")
@on_node
def status(on: Target) -> None:
    """How the cluster is: etcd, members, volumes."""
    found = on.client.ask(api.Operations.cluster)
    if on.json:
        show.as_json(found)
        return
    quorum = "etcd has a quorum" if found.quorum else "etcd has no quorum: nothing can be changed, and failovers wait for it"
    typer.echo(f"cluster {found.id}, feature level {found.level}; {quorum}; asked on node {found.node}")
    typer.echo("")
    show.table(found.store, show.STORE_MEMBERS, "No etcd.")
    typer.echo("")
    show.table(found.members, show.MEMBERS, "No members.")
    typer.echo("")
    show.table(found.volumes, show.COORDINATED, "No volumes.")
