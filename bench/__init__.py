"""`make bench`: the same work for sofs, Samba and NFS-Ganesha, side by side.

`servers` starts them on directories of one file system and counts their CPU time, all their processes together. `driver` keeps
a number of requests in flight per connection and times each operation. `nfs` (version 3), `nfs4` (4.1) and `smb` (signed, sealed, plain) are raw clients:
they build requests with `struct`, sign them, and look at nothing in a reply but its status and what the next request needs, so that
they cost less than any server and exactly the same for all. `workloads` are the rows; `__main__` runs them, every
workload at one server right after the other, because absolute figures drift by the hour.

What the figures mean: ops/s and latency are the client's view. `cpu` is the server's CPU time per operation in microseconds, which is
the steadier figure; work that a server has put off is waited for (at most `SETTLE_S`) and counted. The ratio of a row is the peer's CPU
over ours: at least 1.0 means that sofs needs no more than the peer. What the kernel's own workers do for a server, no process is
charged for: the writing back of the peers' files, and most of a sync of sofs (some 40 us each, `sofs/runtime/system_sync.py`).

What was written last, up to a quarter of the log (256 MiB), sofs leaves there: it is moved to its place only if it is still live when later writes push it
out, or when nothing is written for ten minutes. So that no row pays for an earlier one, each server is made to put everything in its place behind every
run that writes: sofs by `sofs volume settle`, the others by a sync of their file system. What that costs the server's processes is a figure of its own,
`later`, per operation of the row that caused it, and not part of `cpu` or of the ratio: the others' counterpart is done by the kernel, and charged to nobody.
It is what the row would have cost in addition had it been the last for ten minutes.
"""
