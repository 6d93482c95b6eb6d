"""What attributes depend on beside the file, for one operation: gathered here, from the volume where it has to be asked."""

from collections.abc import Callable

from gateways.nfs import above
from gateways.nfs.handles import Place
from gateways.nfs.v4.attributes import ACL_ASKED, SPACE_ASKED, WRITE_ONLY, Facts, supported
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import Ask, Outcome
from gateways.nfs.v4.status import Failure, Status
from sofs.types import Inode
from sofs.volume.api import Attributes, GetAttributes, GetSecurity, GetSpace, SpaceReply, Target, Text

_PARTS = 7
"""Owner, group and DACL (MS-SMB2 2.2.37)."""
UNDEFINED = 4
"""NFS4_CHANGE_TYPE_IS_UNDEFINED."""


def facts_of(c: Compound, place: Place) -> Facts:
    share, service = place.share, c.service
    # Where a snapshot is entered, its directory has the number that the list of snapshots gives for it.
    root = Inode(0) if place.snapshot else share.root
    return Facts(c.minor, service.owners, int(service.lease_s), place.fsid, place.handle, root, above.file_id(share))


def facts_above(c: Compound) -> Facts:
    """Those of the directory above all exports."""
    service = c.service
    return Facts(c.minor, service.owners, int(service.lease_s), above.FSID, lambda of: c.places.root_handle, above.SELF, above.SELF, UNDEFINED)


def readable(c: Compound, wanted: int) -> int:
    """Those of the attributes asked for that there are. Raises `Failure` (INVAL) if one of them can only be set (RFC 8881 5.5, 18.7.3)."""
    if wanted & WRITE_ONLY:
        raise Failure(Status.INVAL)
    return wanted & supported(c.minor)


def with_space(place: Place, facts: Facts, wanted: int, then: Callable[[], Outcome]) -> Outcome:
    """Goes on with `then` when the facts about space are there, if they are wanted."""
    if not wanted & SPACE_ASKED:
        return then()

    def answer(space: SpaceReply) -> Outcome:
        facts.space = space
        return then()

    return Ask(place.volume, GetSpace(place.caller, place.inode), answer)


def found(place: Place, target: Target, facts: Facts, wanted: int, then: Callable[[Attributes], Outcome]) -> Outcome:
    """Goes on with `then` when the file's attributes and all the facts that are wanted are there."""

    def attributes() -> Outcome:
        return Ask(place.volume, GetAttributes(target), lambda found: then(found.attributes))

    def security() -> Outcome:
        def answer(text: Text) -> Outcome:
            facts.security = text.text
            return then(text.attributes)

        return Ask(place.volume, GetSecurity(target, _PARTS), answer)

    return with_space(place, facts, wanted, security if wanted & ACL_ASKED else attributes)
