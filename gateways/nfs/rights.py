"""What ACCESS asks about, the same in both versions (RFC 1813 3.3.4, RFC 8881 18.1), in the volume's terms."""

from sofs.types import Kind
from sofs.volume.api import Access, Rights

READ, LOOKUP, MODIFY, EXTEND, DELETE, EXECUTE = 1, 2, 4, 8, 16, 32
WRITING = MODIFY | EXTEND | DELETE
_FILE = ((READ, Access.READ_DATA), (MODIFY, Access.WRITE_DATA), (EXTEND, Access.APPEND_DATA), (EXECUTE, Access.EXECUTE))
_DIRECTORY = (
    (READ, Access.READ_DATA),
    (LOOKUP, Access.EXECUTE),
    (MODIFY, Access.WRITE_DATA),
    (EXTEND, Access.APPEND_DATA),
    (DELETE, Access.DELETE_CHILD),
)
ALL_RIGHTS = int(Access.READ_DATA | Access.WRITE_DATA | Access.APPEND_DATA | Access.EXECUTE | Access.DELETE_CHILD)
"""What the volume is asked for: what the bits mean depends on the object's kind, which only its answer tells."""


def granted(rights: Rights) -> int:
    """The bits that these rights to `ALL_RIGHTS` stand for."""
    bits = 0
    for bit, right in _DIRECTORY if rights.attributes.kind is Kind.DIRECTORY else _FILE:
        if rights.granted & right:
            bits |= bit
    return bits
