"""The types of every procedure of NFSv3 and MOUNT, for vectors, fuzzing and the tests' client."""

from typing import Any, NamedTuple

from gateways.nfs.v3 import messages as m
from gateways.nfs.xdr import Void

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
    (NFS, 1): Types("GETATTR", m.GetAttributesArgs, m.Attributes),
    (NFS, 2): Types("SETATTR", m.SetAttributesArgs, m.Wcc, m.Wcc),
    (NFS, 3): Types("LOOKUP", m.LookupArgs, m.LookedUp, m.PostOp),
    (NFS, 4): Types("ACCESS", m.AccessArgs, m.Granted, m.PostOp),
    (NFS, 5): Types("READLINK", m.ReadLinkArgs, m.LinkText, m.PostOp),
    (NFS, 6): Types("READ", m.ReadArgs, m.ReadData, m.PostOp),
    (NFS, 7): Types("WRITE", m.WriteArgs, m.Written, m.Wcc),
    (NFS, 8): Types("CREATE", m.CreateArgs, m.Created, m.Wcc),
    (NFS, 9): Types("MKDIR", m.MakeDirectoryArgs, m.Created, m.Wcc),
    (NFS, 10): Types("SYMLINK", m.SymlinkArgs, m.Created, m.Wcc),
    (NFS, 11): Types("MKNOD", m.MakeNodeArgs, m.Created, m.Wcc),
    (NFS, 12): Types("REMOVE", m.RemoveArgs, m.Wcc, m.Wcc),
    (NFS, 13): Types("RMDIR", m.RemoveArgs, m.Wcc, m.Wcc),
    (NFS, 14): Types("RENAME", m.RenameArgs, m.Renamed, m.Renamed),
    (NFS, 15): Types("LINK", m.LinkArgs, m.Linked3, m.Linked3),
    (NFS, 16): Types("READDIR", m.ReadDirectoryArgs, m.Listing, m.PostOp),
    (NFS, 17): Types("READDIRPLUS", m.ReadDirectoryPlusArgs, m.ListingPlus, m.PostOp),
    (NFS, 18): Types("FSSTAT", m.FileSystemArgs, m.FileSystemSpace, m.PostOp),
    (NFS, 19): Types("FSINFO", m.FileSystemArgs, m.FileSystemInfo, m.PostOp),
    (NFS, 20): Types("PATHCONF", m.FileSystemArgs, m.PathLimits, m.PostOp),
    (NFS, 21): Types("COMMIT", m.CommitArgs, m.Committed, m.Wcc),
    (MOUNT, 0): Types("NULL", Void, Void, status=False),
    (MOUNT, 1): Types("MNT", m.MountPath, m.Mounted),
    (MOUNT, 3): Types("UMNT", m.MountPath, Void, status=False),
    (MOUNT, 4): Types("UMNTALL", Void, Void, status=False),
    (MOUNT, 5): Types("EXPORT", Void, m.ExportList, status=False),
}
PROCEDURES = {types.name: number for (program, number), types in TYPES.items() if program == NFS}
