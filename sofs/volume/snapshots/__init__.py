"""Snapshots of a volume: the records as they were, kept by saving what changes.

In reading order:

- `history`: which snapshots there are, and which of them holds a page; a value that `apply` carries along.
- `saving`: the first change of a record after a snapshot keeps the old value, under a key of its own.
- `deadlists`: pages that no living file names any more, and snapshots do.
- `operations`: what a batch says when a snapshot is taken, deleted or restored, and its pure `apply` functions.
- `past_keys`: the key space as of a snapshot; `past_volume`: the whole interface of a volume over it, read-only.
- `lifecycle`: taking, listing, deleting and restoring, at the coordinator, with what of it goes on in the background.
- `requests`: what gateways ask.

Of the rest, `batch`, `overlay` and `keyspace` know `history` and `saving`, `mapping` and `destage` know dead lists; nothing else has to know that there are
snapshots.
"""
