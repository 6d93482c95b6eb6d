"""The operations on filehandles, attributes, names and data: one line of the table for each."""

from collections.abc import Mapping

from gateways.nfs.v4 import copying, data, directories, filehandles, metadata, names, sparse, xattrs
from gateways.nfs.v4.compound import Compound
from gateways.nfs.v4.operation import CURRENT_FH, SAVED_FH, Operation, Outcome
from gateways.nfs.v4.status import Failure, Status
from gateways.nfs.v4.types import NoArguments
from sofs import errors
from sofs.errors import SofsError
from sofs.types import Kind, Level

Statuses = Mapping[type[SofsError], Status]
_BOTH = CURRENT_FH | SAVED_FH
_FILE, _DIRECTORY, _STABLE = Kind.FILE, Kind.DIRECTORY, Level.STABLE
_IO: Statuses = {errors.SharingViolation: Status.LOCKED, errors.DeletePending: Status.STALE}
"""Another client's open or mandatory lock is in the way of reading and writing (PROTOCOLS: v4 I/O gets LOCKED)."""
_NAME: Statuses = {errors.SharingViolation: Status.FILE_OPEN, errors.CannotDelete: Status.FILE_OPEN, errors.InvalidName: Status.BADNAME}
_XATTR: Statuses = {errors.NoData: Status.NOXATTR, errors.NoSpace: Status.XATTR2BIG, errors.InvalidName: Status.INVAL}


def _not_supported(c: Compound, args: NoArguments) -> Outcome:
    raise Failure(Status.NOTSUPP)


FILE_OPERATIONS: dict[int, Operation] = {
    3: Operation("ACCESS", metadata.AccessArgs, metadata.access, CURRENT_FH, above=metadata.access_above),
    5: Operation("COMMIT", data.CommitArgs, data.commit, CURRENT_FH, level=_STABLE, above=Status.ISDIR, works_on=_FILE),
    6: Operation("CREATE", names.CreateArgs, names.create, CURRENT_FH, modifies=True, level=_STABLE, statuses=_NAME, works_on=_DIRECTORY),
    9: Operation("GETATTR", metadata.GetAttributesArgs, metadata.getattr, CURRENT_FH, above=metadata.getattr_above),
    10: Operation("GETFH", NoArguments, filehandles.getfh, CURRENT_FH, above=filehandles.getfh),
    11: Operation("LINK", names.LinkArgs, names.link, _BOTH, modifies=True, level=_STABLE, statuses=_NAME, works_on=_DIRECTORY),
    15: Operation("LOOKUP", filehandles.LookupArgs, filehandles.lookup, CURRENT_FH, above=filehandles.lookup_above, works_on=_DIRECTORY),
    16: Operation("LOOKUPP", NoArguments, filehandles.lookupp, CURRENT_FH, above=Status.NOENT, works_on=_DIRECTORY),
    17: Operation("NVERIFY", metadata.VerifyArgs, metadata.nverify, CURRENT_FH, above=metadata.nverify_above),
    19: Operation("OPENATTR", NoArguments, _not_supported, CURRENT_FH, above=_not_supported),
    22: Operation("PUTFH", filehandles.putfh_arguments, filehandles.putfh),
    23: Operation("PUTPUBFH", NoArguments, filehandles.putrootfh),
    24: Operation("PUTROOTFH", NoArguments, filehandles.putrootfh),
    25: Operation("READ", data.read_arguments, data.read, CURRENT_FH, above=Status.ISDIR, statuses=_IO, works_on=_FILE),
    26: Operation("READDIR", directories.ReadDirectoryArgs, directories.readdir, CURRENT_FH, above=directories.readdir_above, works_on=_DIRECTORY),
    27: Operation("READLINK", NoArguments, names.readlink, CURRENT_FH, above=Status.INVAL, statuses={errors.NotSymlink: Status.WRONG_TYPE}),
    28: Operation("REMOVE", names.RemoveArgs, names.remove, CURRENT_FH, modifies=True, level=_STABLE, statuses=_NAME, works_on=_DIRECTORY),
    29: Operation("RENAME", names.RenameArgs, names.rename, _BOTH, modifies=True, level=_STABLE, statuses=_NAME, works_on=_DIRECTORY),
    31: Operation("RESTOREFH", NoArguments, filehandles.restorefh),
    32: Operation("SAVEFH", NoArguments, filehandles.savefh, CURRENT_FH, above=filehandles.savefh),
    34: Operation("SETATTR", metadata.SetAttributesArgs, metadata.setattr, CURRENT_FH, modifies=True, level=_STABLE, failure=bytes(4), statuses=_IO),
    37: Operation("VERIFY", metadata.VerifyArgs, metadata.verify, CURRENT_FH, above=metadata.verify_above),
    38: Operation("WRITE", data.write_arguments, data.write, CURRENT_FH, modifies=True, above=Status.ISDIR, statuses=_IO, works_on=_FILE),
    59: Operation("ALLOCATE", sparse.RangeArgs, sparse.allocate, CURRENT_FH, modifies=True, level=_STABLE, minor=2, statuses=_IO, works_on=_FILE),
    60: Operation("COPY", copying.CopyArgs, copying.copy, _BOTH, modifies=True, level=_STABLE, minor=2, statuses=_IO, works_on=_FILE),
    61: Operation("COPY_NOTIFY", NoArguments, _not_supported, minor=2),
    62: Operation("DEALLOCATE", sparse.RangeArgs, sparse.deallocate, CURRENT_FH, modifies=True, level=_STABLE, minor=2, statuses=_IO, works_on=_FILE),
    63: Operation("IO_ADVISE", sparse.AdviseArgs, sparse.io_advise, CURRENT_FH, above=Status.ISDIR, minor=2),
    66: Operation("OFFLOAD_CANCEL", copying.OffloadArgs, copying.offload_cancel, CURRENT_FH, minor=2),
    67: Operation("OFFLOAD_STATUS", copying.OffloadArgs, copying.offload_status, CURRENT_FH, minor=2),
    68: Operation("READ_PLUS", data.read_arguments, sparse.read_plus, CURRENT_FH, above=Status.ISDIR, minor=2, statuses=_IO, works_on=_FILE),
    69: Operation("SEEK", sparse.SeekArgs, sparse.seek, CURRENT_FH, above=Status.ISDIR, minor=2, statuses=_IO, works_on=_FILE),
    70: Operation("WRITE_SAME", NoArguments, _not_supported, minor=2),
    71: Operation("CLONE", copying.CloneArgs, copying.clone, _BOTH, modifies=True, level=_STABLE, minor=2, statuses=_IO, works_on=_FILE),
    72: Operation("GETXATTR", xattrs.NameArgs, xattrs.getxattr, CURRENT_FH, above=Status.NOXATTR, minor=2, statuses=_XATTR),
    73: Operation("SETXATTR", xattrs.SetArgs, xattrs.setxattr, CURRENT_FH, modifies=True, level=_STABLE, minor=2, statuses=_XATTR),
    74: Operation("LISTXATTRS", xattrs.ListArgs, xattrs.listxattrs, CURRENT_FH, above=xattrs.list_above, minor=2, statuses=_XATTR),
    75: Operation("REMOVEXATTR", xattrs.NameArgs, xattrs.removexattr, CURRENT_FH, modifies=True, level=_STABLE, minor=2, statuses=_XATTR),
}
