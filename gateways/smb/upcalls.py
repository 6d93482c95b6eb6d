"""What volumes tell the SMB gateway, passed on to who deals with it."""

from typing import TYPE_CHECKING

from sofs.locks import GrantKind
from sofs.types import Inode, OpenId, VolumeId
from sofs.volume.api import Recall

if TYPE_CHECKING:
    from gateways.smb.service import SmbService


class Upcalls:
    """`sofs.volume.api.Upcalls`. Each is told of all opens, and leaves alone those that are not the gateway's."""

    def __init__(self, service: "SmbService") -> None:
        self._service = service

    def recall(self, volume: VolumeId, recall: Recall) -> None:
        self._service.leases.recall(volume, recall)

    def revoked(
        self, volume: VolumeId, inode: Inode, key: bytes, kind: GrantKind, opens: tuple[OpenId, ...], delegation: OpenId
    ) -> None:
        self._service.leases.revoked(volume, key)

    def dropped(self, volume: VolumeId, open: OpenId) -> None:
        self._service.durables.dropped(volume, open)

    def noticed(self, volume: VolumeId, open: OpenId, action: int, name: bytes) -> None:
        self._service.notices.noticed(volume, open, action, name)

    def fenced(self, gateway: int) -> None:
        if gateway == self._service.gateway:
            self._service.fenced()

    def resumed(self, volume: VolumeId) -> None:
        self._service.watch_again(volume)
