"""What the lock engine has to say, told to the gateways; and what it means for the volume's own books."""

import structlog

from sofs.errors import SofsError
from sofs.locks import Dropped, GrantKind, Recall, Revoked, Upcall
from sofs.types import Inode
from sofs.volume import api
from sofs.volume.closing import aftermath, doomed
from sofs.volume.core import Core
from sofs.volume.openfile import StateKind
from sofs.volume.opening import forget, note_recall


class Teller:
    """Says to the gateways in the volume's words what the engine says in its own."""

    def __init__(self, core: Core, name: str) -> None:
        self._core = core
        self._logger = structlog.get_logger(component="volume", volume=name)

    def tell(self, inode: Inode, upcall: Upcall) -> None:
        """From the lock engine, which has changed its state already."""
        if isinstance(upcall, Recall):
            if upcall.kind is GrantKind.DELEGATION:
                note_recall(self._core, inode)
            self._core.tell(api.Recall(inode, *upcall))
        elif isinstance(upcall, Revoked):
            self._logger.warning("grant_revoked", inode=inode, kind=upcall.kind.name)
            self._core.tell(api.Revoked(inode, upcall.key, upcall.kind, upcall.opens, upcall.delegation))
        else:
            self._gave_way(upcall)

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
        if gone.state is not StateKind.DELEGATION:  # of which `Revoked` has told
            self._logger.info("open_gave_way", inode=gone.inode, open=gone.id)
            core.tell(api.Dropped(gone.id))
