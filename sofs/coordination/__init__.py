"""Coordination: a small, strongly consistent store that decides who owns what; never asked per I/O.

`store` is the port: get, range, atomic compare-and-set transactions, leases, and watches that miss nothing. Its adapters
are `embedded` (in process, one file, laid out in `journal`: a single node, and the simulator) and `etcd` (a cluster). `keys` is the table of all keys;
values are JSON (`sofs.encoding.Record`).
While the store is down, whoever holds a volume goes on serving; only changes wait.
"""

from sofs.coordination.store import Change, Condition, Delete, Entry, Health, Lease, Listing, OutcomeUnknown, Put, Seen, Store, Transacted, Watch

__all__ = ["Change", "Condition", "Delete", "Entry", "Health", "Lease", "Listing", "OutcomeUnknown", "Put", "Seen", "Store", "Transacted", "Watch"]
