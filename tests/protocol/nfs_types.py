"""The types of every procedure of NFSv3 and MOUNT, for vectors, fuzzing and the tests' client."""

from typing import Any, NamedTuple

from gateways.nfs.v3 import messages as m
from gateways.nfs.xdr import Void
from tests.protocol import nfs3_results as r3

NFS, MOUNT = 100003, 100005


class Types(NamedTuple):
    """What a procedure takes, and what follows its status when that is OK and when it is not."""

    name: str
    arguments: Any
    success: Any
    failure: Any = Void
    status: bool = True
    """False: the results have no status."""


TYPES: dict[tuple[int, int], Types] = {
    (NFS, 0): Types("NULL", Void, Void, status=False),
    (NFS, 1): Types("GETATTR", m.GetAttributesArgs, r3.Attributes),
    (NFS, 2): Types("SETATTR", m.SetAttributesArgs, r3.Wcc, r3.Wcc),
    (NFS, 3): Types("LOOKUP", m.LookupArgs, r3.LookedUp, r3.PostOp),
    (NFS, 4): Types("ACCESS", m.AccessArgs, r3.Granted, r3.PostOp),
    (NFS, 5): Types("READLINK", m.ReadLinkArgs, r3.LinkText, r3.PostOp),
    (NFS, 6): Types("READ", r3.ReadArgs, r3.ReadData, r3.PostOp),
    (NFS, 7): Types("WRITE", r3.WriteArgs, r3.Written, r3.Wcc),
    (NFS, 8): Types("CREATE", m.CreateArgs, r3.Created, r3.Wcc),
    (NFS, 9): Types("MKDIR", m.MakeDirectoryArgs, r3.Created, r3.Wcc),
    (NFS, 10): Types("SYMLINK", m.SymlinkArgs, r3.Created, r3.Wcc),
    (NFS, 11): Types("MKNOD", m.MakeNodeArgs, r3.Created, r3.Wcc),
    (NFS, 12): Types("REMOVE", m.RemoveArgs, r3.Wcc, r3.Wcc),
    (NFS, 13): Types("RMDIR", m.RemoveArgs, r3.Wcc, r3.Wcc),
    (NFS, 14): Types("RENAME", m.RenameArgs, r3.Renamed, r3.Renamed),
    (NFS, 15): Types("LINK", m.LinkArgs, r3.Linked3, r3.Linked3),
    (NFS, 16): Types("READDIR", m.ReadDirectoryArgs, r3.Listing, r3.PostOp),
    (NFS, 17): Types("READDIRPLUS", m.ReadDirectoryPlusArgs, r3.ListingPlus, r3.PostOp),
    (NFS, 18): Types("FSSTAT", m.FileSystemArgs, r3.FileSystemSpace, r3.PostOp),
    (NFS, 19): Types("FSINFO", m.FileSystemArgs, r3.FileSystemInfo, r3.PostOp),
    (NFS, 20): Types("PATHCONF", m.FileSystemArgs, r3.PathLimits, r3.PostOp),
    (NFS, 21): Types("COMMIT", m.CommitArgs, r3.Committed, r3.Wcc),
    (MOUNT, 0): Types("NULL", Void, Void, status=False),
    (MOUNT, 1): Types("MNT", m.MountPath, m.Mounted),
    (MOUNT, 3): Types("UMNT", m.MountPath, Void, status=False),
    (MOUNT, 4): Types("UMNTALL", Void, Void, status=False),
    (MOUNT, 5): Types("EXPORT", Void, m.ExportList, status=False),
}
PROCEDURES = {types.name: number for (program, number), types in TYPES.items() if program == NFS}
