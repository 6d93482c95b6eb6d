"""The SMB gateway: SMB 2.0.2 to 3.1.1 on one side, volume calls on the other.

Bottom up, as it is best read: `wire`, `header` and `status` are the vocabulary; `names` and `patterns` translate paths; `crypto` derives keys, signs
and encrypts; `auth` says who a client is, and `guesses` who has guessed too often. `handle` has what a client holds: sessions, with a channel on each
of their connections, trees and opens; `leases` what it may cache, `durable` which opens outlive a connection. `connection` is the protocol proper,
without I/O: it takes whole messages, counts credits (`credits`), decrypts, and has each request answered, `compounds` several at once; `replies` are
what leaves. `exchange` is one request on its way, `admission` checks what it must show. `dispatch` is the table of commands with what each needs;
`commands/` has one module per command, with its messages (`contexts`: the extras of CREATE), `info/` the classes of information, `control/` the file
system controls, `rpc/` the named pipes.
`notices` keeps what opens that watch their directory have yet to tell, `previous` finds files as of a snapshot, `short_names` and `quotas` are what
their names say. `service` holds what all connections share and hears what volumes have to tell, `neighbours` says what is asked of
other nodes' gateways, `gateway` is all of it behind its listeners.

The gateway promises that nothing is told to a client before the volume's gate for it is open, and that a client can make it hold only a bounded
amount: credits, message sizes, sessions, trees, opens, compounds and create contexts have limits. It refuses to know how a file is stored.
"""
