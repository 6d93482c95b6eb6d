"""NT status codes (MS-ERREF 2.3.1), and the table that gives every outcome of a volume its code."""

from enum import IntEnum

from sofs import errors
from sofs.errors import SofsError


class Status(IntEnum):
    SUCCESS = 0x00000000
    PENDING = 0x00000103
    NOTIFY_CLEANUP = 0x0000010B
    NOTIFY_ENUM_DIR = 0x0000010C
    BUFFER_OVERFLOW = 0x80000005
    NO_MORE_FILES = 0x80000006
    NO_MORE_ENTRIES = 0x8000001A
    EA_LIST_INCONSISTENT = 0x80000014
    STOPPED_ON_SYMLINK = 0x8000002D
    UNSUCCESSFUL = 0xC0000001
    NOT_IMPLEMENTED = 0xC0000002
    INVALID_INFO_CLASS = 0xC0000003
    INFO_LENGTH_MISMATCH = 0xC0000004
    INVALID_HANDLE = 0xC0000008
    INVALID_PARAMETER = 0xC000000D
    NO_SUCH_FILE = 0xC000000F
    INVALID_DEVICE_REQUEST = 0xC0000010
    END_OF_FILE = 0xC0000011
    MORE_PROCESSING_REQUIRED = 0xC0000016
    INVALID_VIEW_SIZE = 0xC000001F
    ACCESS_DENIED = 0xC0000022
    BUFFER_TOO_SMALL = 0xC0000023
    OBJECT_NAME_INVALID = 0xC0000033
    OBJECT_NAME_NOT_FOUND = 0xC0000034
    OBJECT_NAME_COLLISION = 0xC0000035
    OBJECT_PATH_NOT_FOUND = 0xC000003A
    OBJECT_PATH_SYNTAX_BAD = 0xC000003B
    CRC_ERROR = 0xC000003F
    SHARING_VIOLATION = 0xC0000043
    QUOTA_EXCEEDED = 0xC0000044
    EA_TOO_LARGE = 0xC0000050
    NONEXISTENT_EA_ENTRY = 0xC0000051
    NO_EAS_ON_FILE = 0xC0000052
    FILE_LOCK_CONFLICT = 0xC0000054
    LOCK_NOT_GRANTED = 0xC0000055
    DELETE_PENDING = 0xC0000056
    INVALID_OWNER = 0xC000005A
    PRIVILEGE_NOT_HELD = 0xC0000061
    LOGON_FAILURE = 0xC000006D
    TOO_MANY_SESSIONS = 0xC00000CE
    ACCOUNT_LOCKED_OUT = 0xC0000234
    INVALID_ACL = 0xC0000077
    INVALID_SECURITY_DESCR = 0xC0000079
    RANGE_NOT_LOCKED = 0xC000007E
    DISK_FULL = 0xC000007F
    INSUFFICIENT_RESOURCES = 0xC000009A
    MEDIA_WRITE_PROTECTED = 0xC00000A2
    DEVICE_NOT_READY = 0xC00000A3
    BAD_IMPERSONATION_LEVEL = 0xC00000A5
    INVALID_PIPE_STATE = 0xC00000AD
    PIPE_DISCONNECTED = 0xC00000B0
    FILE_IS_A_DIRECTORY = 0xC00000BA
    NOT_SUPPORTED = 0xC00000BB
    NETWORK_NAME_DELETED = 0xC00000C9
    BAD_NETWORK_NAME = 0xC00000CC
    REQUEST_NOT_ACCEPTED = 0xC00000D0
    NOT_SAME_DEVICE = 0xC00000D4
    PIPE_EMPTY = 0xC00000D9
    INVALID_OPLOCK_PROTOCOL = 0xC00000E3
    INTERNAL_ERROR = 0xC00000E5
    UNEXPECTED_IO_ERROR = 0xC00000E9
    DIRECTORY_NOT_EMPTY = 0xC0000101
    NOT_A_DIRECTORY = 0xC0000103
    CANCELLED = 0xC0000120
    CANNOT_DELETE = 0xC0000121
    FILE_CLOSED = 0xC0000128
    INVALID_LEVEL = 0xC0000148
    INVALID_DEVICE_STATE = 0xC0000184
    IO_DEVICE_ERROR = 0xC0000185
    FS_DRIVER_REQUIRED = 0xC000019C
    INVALID_LOCK_RANGE = 0xC00001A1
    USER_SESSION_DELETED = 0xC0000203
    INSUFFICIENT_SERVER_RESOURCES = 0xC0000205
    DUPLICATE_OBJECTID = 0xC000022A
    RETRY = 0xC000022D
    TOO_MANY_LINKS = 0xC0000265
    NOT_A_REPARSE_POINT = 0xC0000275
    IO_REPARSE_TAG_INVALID = 0xC0000276
    IO_REPARSE_TAG_MISMATCH = 0xC0000277
    IO_REPARSE_DATA_INVALID = 0xC0000278
    IO_REPARSE_TAG_NOT_HANDLED = 0xC0000279
    INVALID_TOKEN = 0xC0000465
    INVALID_SID = 0xC0000078
    NETWORK_SESSION_EXPIRED = 0xC000035C
    REQUEST_OUT_OF_SEQUENCE = 0xC000042A
    FILE_NOT_AVAILABLE = 0xC0000467
    FILE_TOO_LARGE = 0xC0000904
    INVALID_SIGNATURE = 0xC000A000
    NO_PREAUTH_INTEGRITY_HASH_OVERLAP = 0xC05D0000


class Failure(SofsError):
    """An outcome that only SMB has a word for. `data` replaces the empty error response's data (MS-SMB2 2.2.2)."""

    def __init__(self, status: Status, data: bytes = b"") -> None:
        super().__init__(status.name)
        self.status = status
        self.data = data


STATUS: dict[type[SofsError], Status] = {
    SofsError: Status.INTERNAL_ERROR,
    errors.NotFound: Status.OBJECT_NAME_NOT_FOUND,
    errors.PathNotFound: Status.OBJECT_PATH_NOT_FOUND,
    errors.Stale: Status.FILE_CLOSED,
    errors.Exists: Status.OBJECT_NAME_COLLISION,
    errors.NotDirectory: Status.NOT_A_DIRECTORY,
    errors.IsDirectory: Status.FILE_IS_A_DIRECTORY,
    errors.NotEmpty: Status.DIRECTORY_NOT_EMPTY,
    errors.NotSymlink: Status.NOT_A_REPARSE_POINT,
    errors.ReparsePoint: Status.IO_REPARSE_TAG_NOT_HANDLED,
    errors.SymlinkInPath: Status.STOPPED_ON_SYMLINK,
    errors.InvalidName: Status.OBJECT_NAME_INVALID,
    errors.NameTooLong: Status.OBJECT_NAME_INVALID,
    errors.TooManyLinks: Status.TOO_MANY_LINKS,
    errors.CrossVolume: Status.NOT_SAME_DEVICE,
    errors.SharingViolation: Status.SHARING_VIOLATION,
    errors.LockConflict: Status.FILE_LOCK_CONFLICT,
    errors.LockNotHeld: Status.RANGE_NOT_LOCKED,
    errors.DeletePending: Status.DELETE_PENDING,
    errors.Busy: Status.REQUEST_NOT_ACCEPTED,
    errors.Delayed: Status.FILE_NOT_AVAILABLE,
    errors.Closed: Status.FILE_CLOSED,
    errors.NotRecalled: Status.UNSUCCESSFUL,
    errors.LocksHeld: Status.FILE_LOCK_CONFLICT,
    errors.Grace: Status.FILE_NOT_AVAILABLE,
    errors.NoGrace: Status.OBJECT_NAME_NOT_FOUND,
    errors.AccessDenied: Status.ACCESS_DENIED,
    errors.NotPermitted: Status.ACCESS_DENIED,
    errors.ReadOnly: Status.MEDIA_WRITE_PROTECTED,
    errors.CannotDelete: Status.CANNOT_DELETE,
    errors.NoSpace: Status.DISK_FULL,
    # Not QUOTA_EXCEEDED: NTFS answers so when a hard limit is reached, and programs know only that.
    errors.QuotaExceeded: Status.DISK_FULL,
    errors.FileTooLarge: Status.FILE_TOO_LARGE,
    errors.NoData: Status.END_OF_FILE,
    errors.BufferTooSmall: Status.BUFFER_TOO_SMALL,
    errors.InvalidArgument: Status.INVALID_PARAMETER,
    errors.NotSupported: Status.NOT_SUPPORTED,
    errors.Cancelled: Status.CANCELLED,
    errors.Changed: Status.RETRY,
    errors.Fenced: Status.USER_SESSION_DELETED,
    errors.Unavailable: Status.FILE_NOT_AVAILABLE,
    errors.Damaged: Status.CRC_ERROR,
    errors.DiskFailed: Status.IO_DEVICE_ERROR,
    errors.DiskRefused: Status.DEVICE_NOT_READY,
    errors.ExtentGone: Status.RETRY,
    errors.ConfigError: Status.INTERNAL_ERROR,
}


def status_of(error: SofsError) -> Status:
    """The status that tells a client of `error`."""
    if isinstance(error, Failure):
        return error.status
    return STATUS[type(error)]


def is_error(status: int) -> bool:
    """Whether an error response (MS-SMB2 2.2.2) goes with it, rather than the command's own."""
    return status >> 30 == 3 and status != Status.MORE_PROCESSING_REQUIRED
