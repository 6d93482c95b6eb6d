"""The NFS gateway.

In reading order: `xdr` compiles message types to code; `rpc` turns a connection's bytes into calls and `auth` says who makes
them; `handles` makes and reads file handles, and finds the export, volume and user behind one. `above` is the directory above all exports,
`climbing` the way up within one, `past` and `snapshot_list` the way into its snapshots, `rights` what ACCESS asks about, `listed`
remembers entries of listings as they are sent: the same for both versions.
`ask` carries out what a handler of version 3 wants of a volume and answers when the gate is open; `status` maps outcomes. `v3` and `v4` are the protocols
themselves, `mount` the way to version 3's first handle, `portmap` the way to the port, `gateway` puts all of it behind one port.

For version 3 the gateway holds no state: what makes a retransmission harmless is a token in the volume. Version 4 has clients, sessions and opens; they
are records of volumes, from which a gateway that starts again has them back. So a restart goes unnoticed.
"""
