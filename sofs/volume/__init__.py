"""The volume: files, directories, locks and space over one log and one pool.

File-system logic runs only on the coordinator and ends in one batch; one pure `apply`, the same on every replica, changes
the records. A volume refuses to know of protocols, sessions and connections: it knows callers, opens and bindings.

In reading order:

- `api`: what gateways see. `volume`: `LocalVolume`, one table from request to handler.
- `keys`, `batch`, `keyspace`, `overlay`, `checkpoint`, `recovery`: records, and how they change and survive.
- `names`, `directory`, `inode`: what a file is called, where its entry stands, what is known of it.
- `core`: what handlers share. `lookup`, `make`, `removal`, `rename`; `opens`, `closing`, `sharing`, `locking`; `attributes`,
  `descriptors`, `extended`, `streams`; `tokens`: the requests about names, opens and attributes.
- `security`, `access`: descriptors and rights.
- `io`: the requests about data, down to `data` with `mapping`, `leaves`, `windows`, `reader`, `writer`, `ranges`, `clones`;
  `maps`, `owning`, `origins`, `thaw`: clones of whole files.
- `history`, `saving`, `deadlists`, `snapshot_operations`: what snapshots keep; `past`, `past_volume`: how they are read; `snapshots`,
  `snapshotting`: how they come and go.
- `counting`, `quotas`, `quota_requests`: what owners use, and may use.
- `space`, `extents`, `cleaning`, `destage`, `compact`: where data lies, and how it moves. `check`: whether all of it is true.
"""
