"""`make failover`: real nodes, a real etcd, real faults, under writers that verify.

`laboratory` is a lab of four nodes and three members of etcd in network namespaces. `smb`, `nfs3` and `nfs4` are clients that reconnect and send
again, as those of an operating system do (`retrying` is what they have in common); `writers` have them change files and keep a ledger of what was
acknowledged. `faults` are what happens to the cluster meanwhile; `harness` puts rounds together, compares through another node and the other
protocol, and reports.

After a loss of power clients do what those of an operating system do: unstable writes whose verifier has changed are written again, NFSv4 locks are
reclaimed, and what was open for a single change and is not known any more is given up, with that change; only what the server had said to be stable
counts then.

Time-outs of the clients: a request that has no answer for `REPLY_S` is sent again, over a new connection; after `GIVE_UP_S` it counts as an error.
"""

REPLY_S = 2.0
CONNECT_S = 1.0
GIVE_UP_S = 150.0
COMMIT_AFTER_S = 0.1
"""Behind an unstable write, so that a loss of power finds some that are not stable yet."""
