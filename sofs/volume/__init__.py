"""The volume: files, directories, locks and space over one log and one pool.

File-system logic runs only on the coordinator and ends in one batch; one pure `apply`, the same on every replica, changes
the records. A volume refuses to know of protocols, sessions and connections: it knows callers, opens and bindings.

A map by idea, in reading order. Who reads only the first three parts knows how everything else works.

What it is
- `api`: what gateways see: requests, replies, upcalls. `volume`: `LocalVolume`; `handlers`: one table from request to handler.
  `where`: which node serves it now.
- `keys`: the whole key space in one table. `format`: what a volume's first records say.

Records, and how they change and survive
- `batch`, `keyspace`, `overlay`: operations, the one way to change records, recent changes in memory. `inode`: the record changed most.
- `checkpoint`, `recovery`, `rebuild`: from memory to disk, back after a crash, and one more replica. `memory`: whether a replica still has everything.
- `standby`, `takeover`: a replica that follows another node's log, and how it becomes the coordinator's.

One request
- `core`: what handlers share, down to the one commit that ends a request. `tokens`: what makes a retry harmless. `duties`: what runs in the background.

Names
- `names`, `directory`, `listings`: what a file is called, where its entry stands, what is kept of directories that are listed in parts.
- `lookup`, `make`, `removal`, `rename`, `reparse`, `streams`: the requests. `watching`: who hears of what changes.

Who may
- `access`, `security`: rights from modes and descriptors. `attributes`, `descriptors`, `extended`: the requests.

Opens and locks (the rules between them are `sofs.locks`')
- `openfile`, `register`: an open in memory, and how it is found. `opens` finds or makes the file, `opening` gives the open its place among others,
  `closing` ends it. `locking`, `granting`: byte ranges and rights to cache; `sharing` asks the engine on behalf of others' requests; `upcalls` passes on
  what it has to say.
- Opens that outlive their connection: `kept` (records follow memory), `kept_records` (their form), `restoring` (memory follows records), `disconnection`
  (SMB's away and back), `clients` (what gateways ask of a client as a whole). `gateways`: those of other processes, and which are shut out;
  `fencing` does that.

Data
- `io`: the requests; `data`: what they call when all has been asked. `reader` (with `verified`), `writer`, `pages`, `ranges`, `clones`: the coordinator's
  side.
- `leaves`, `mapping`, `losses`, `windows`: a file's map, what `apply` makes of it, and what becomes of pages that nothing names any more.
  `maps`, `owning`, `origins`, `thaw`: clones of whole files.

Space
- `space`, `settings`, `extents`: who may still write, and where data lies. `cleaning` drives `destage`, `compact`, `protect` and `balance`, which
  move it (`moving`).

Beside all that
- `snapshots`, `quotas`, `remote` (the volume from another node): packages with chapters of their own. `check`: whether all of it is true.
"""
