"""What the lock engine has to say, told to the gateways; and what it means for the volume's own books."""

import structlog

from sofs.errors import SofsError
from sofs.locks import Dropped, GrantKind, Recall, Revoked, Upcall
from sofs.types import Inode, OpenId, VolumeId
from sofs.volume import api
from sofs.volume.closing import aftermath, doomed
from sofs.volume.core import Core
from sofs.volume.openfile import StateKind
from sofs.volume.opening import forget, note_recall


class Teller:
    """Passes upcalls on to every gateway; each ignores what is not its own."""

    def __init__(self, core: Core, id: VolumeId, name: str) -> None:
        self._core = core
        self._id = id
        self._logger = structlog.get_logger(component="volume", volume=name)

    def tell(self, inode: Inode, upcall: Upcall) -> None:
        """From the lock engine, which has changed its state already."""
        if isinstance(upcall, Recall):
            if upcall.kind is GrantKind.DELEGATION:
                note_recall(self._core, inode)
            told = api.Recall(inode, *upcall)
            for gateway in self._core.upcalls:
                gateway.recall(self._id, told)
        elif isinstance(upcall, Revoked):
            self._revoked(inode, upcall)
        else:
            self._gave_way(upcall)

    def dropped(self, open: OpenId) -> None:
        for gateway in self._core.upcalls:
            gateway.dropped(self._id, open)

    def _revoked(self, inode: Inode, upcall: Revoked) -> None:
        self._logger.warning("grant_revoked", inode=inode, kind=upcall.kind.name)
        for gateway in self._core.upcalls:
            gateway.revoked(self._id, inode, upcall.key, upcall.kind, upcall.opens, upcall.delegation)

    def _gave_way(self, upcall: Dropped) -> None:
        """The engine has closed the open; the rest of its end follows here."""
        core = self._core
        gone = core.opens[upcall.open]
        parent_key = core.parent_key
        try:
            doomed(core, gone)
            forget(core, gone)
            aftermath(core, gone, upcall.delete)
        except SofsError as error:
            # What it was to delete stays; its records go with the next batch.
            self._logger.error("open_not_ended", open=gone.id, error=str(error))
        finally:
            core.parent_key = parent_key
        if gone.state is not StateKind.DELEGATION:  # of which `revoked` has told
            self._logger.info("open_gave_way", inode=gone.inode, open=gone.id)
            self.dropped(gone.id)
