"""`sofs check`: every count and reference of a volume recomputed from scratch and compared. It never changes anything.

    maps       leaves, inodes' pages, references, places, live pages, log pages, reserved pages
    clones     what files see through frozen maps, and who reads through which
    snapshots  what was saved, its index, the dead lists and their counts
    names      entries, links, directories, streams, orphans, descriptors
    quotas     what every owner uses
    kept       what is recorded about clients: kept opens, their ranges, grants, slots
    whole      all of these; then extents on the disks against extents recorded; and with `read_data` every page of every file against its
               checksum, on every copy of the log and of each extent

Offline, the records are those of a volume that has been opened (so its log has been replayed) and serves nobody. Online they are a
copy of a checkpoint: records that do not change while they are looked at (`view`). What happens to the disks meanwhile is then allowed for by asking
the living volume again before something is called missing.
"""

from sofs.volume.check.view import Finding, RecordsView
from sofs.volume.check.whole import Report, check

__all__ = ["Finding", "RecordsView", "Report", "check"]
