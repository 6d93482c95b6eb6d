"""What an operator or the node decides about a volume's data, as one value."""

from dataclasses import dataclass

from sofs.pool import Policy
from sofs.types import PAGE, VolumeId

MIB = 1 << 20


@dataclass(frozen=True)
class DataSettings:
    """Sizes in bytes. The defaults come from the measurements that stand beside them."""

    volume: VolumeId
    policy: Policy
    """How extents are protected, and on which tier they lie."""
    direct_threshold: int = 1 * MIB
    """Writes from this size on may put their whole MiB into extents at once; smaller ones go into the log, and from there into extents later.

    Per MiB (two busy cores, `simple`, one log): an extent takes 1.2 ms of CPU and 1.8 ms until the answer, the log 0.4 ms and 0.3 ms, and another 1 to 2 ms
    later for destaging what is still live. Below 512 KiB the extent's own costs (two syncs, a slot) outweigh what it saves.
    """
    direct_fill: float = 0.75
    """Large writes go into extents directly only while at least this share of the log is in use, which is when destaging does not keep up. A stream of new
    data costs the same at 0.5, 0.75 and 1 (1.7 ms of CPU per MiB, destaging included); of data that is soon written again, 0.8 ms, 0.55 ms and 0.5 ms.
    """
    extent_size: int = 8 * MIB
    """Bytes that destaging and compaction pack into one extent, at most 8 MiB."""
    log_high: float = 0.5
    """Share of the log's capacity from which on destaging runs without waiting for idleness."""
    log_low: float = 0.25
    """Destaging stops here: what is younger may soon be written again, and then never has to be moved."""
    log_rest_s: float = 600.0
    """When nothing has been written for so long, the rest is destaged, too: in extents it is scrubbed, and large first reads are cheaper."""
    compact_below: float = 0.5
    """Extents with a smaller share of live pages are rewritten."""
    whole_from: int = (4 * MIB) // PAGE
    """Files of this many pages and more are cloned without looking at their leaves (`maps.py`); for smaller ones that would not save anything."""
    reserve: int = 32 * MIB
    """Space of the pool that no write is admitted into, so that cleaning and deleting always work."""
    moving_rate: int = 200 * MIB
    """Bytes a second that are at most written anew for re-protection or balance; each volume has this rate of its own."""
