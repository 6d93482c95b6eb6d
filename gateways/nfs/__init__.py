"""The NFS gateway.

In reading order: `xdr` compiles message types to code; `rpc` turns a connection's bytes into calls and `auth` says who makes
them; `handles` makes and reads file handles, and finds the export, volume and user behind one; `ask` carries out what a handler
wants of a volume and answers when the gate is open; `status` maps outcomes. `v3` is the protocol itself, `mount` the way to the first
handle, `portmap` the way to the port, `gateway` puts all of it behind one port.

The gateway holds no state of the protocol: NFS version 3 has none, and what makes a retransmission harmless is a token in the volume. So any node can
answer any call, and a restart goes unnoticed.
"""
