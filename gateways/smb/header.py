"""The headers of SMB2 messages, MS-SMB2 2.2.1 and 2.2.41, and the commands' numbers."""

import struct
from enum import IntEnum

FRAME = struct.Struct(">I")
"""The direct TCP header, MS-SMB2 2.1."""

SMB1 = b"\xffSMB"
PLAIN = b"\xfeSMB"
ENCRYPTED = b"\xfdSMB"

HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")
"""ProtocolId, StructureSize, CreditCharge, Status or ChannelSequence, Command, Credits, Flags, NextCommand, MessageId,
Reserved (low half of AsyncId), TreeId (high half), SessionId, Signature."""
HEADER_SIZE = 64
assert HEADER.size == HEADER_SIZE
NO_SIGNATURE = bytes(16)
NEXT_COMMAND_AT = 20

TRANSFORM = struct.Struct("<4s16s16sIHHQ")
"""ProtocolId, Signature, Nonce, OriginalMessageSize, Reserved, Flags, SessionId."""
TRANSFORM_SIZE = 52
assert TRANSFORM.size == TRANSFORM_SIZE
TRANSFORM_ENCRYPTED = 1

FILE_ID = struct.Struct("<QQ")
"""The persistent and the volatile half, MS-SMB2 2.2.14.1."""


class Command(IntEnum):
    """MS-SMB2 2.2.1.2."""

    NEGOTIATE = 0
    SESSION_SETUP = 1
    LOGOFF = 2
    TREE_CONNECT = 3
    TREE_DISCONNECT = 4
    CREATE = 5
    CLOSE = 6
    FLUSH = 7
    READ = 8
    WRITE = 9
    LOCK = 10
    IOCTL = 11
    CANCEL = 12
    ECHO = 13
    QUERY_DIRECTORY = 14
    CHANGE_NOTIFY = 15
    QUERY_INFO = 16
    SET_INFO = 17
    OPLOCK_BREAK = 18


FLAG_REPLY = 0x1
FLAG_ASYNC = 0x2
FLAG_RELATED = 0x4
FLAG_SIGNED = 0x8
FLAG_REPLAY = 0x20000000

UNASKED = 0xFFFFFFFF_FFFFFFFF
"""The message id of what the server sends by itself."""

ANY_FILE = 0xFFFFFFFF_FFFFFFFF
"""Both halves of the FileId that stands for "the file of the request before", and for "no file" in IOCTL."""
