"""Two independent SMB clients in Python: impacket and smbprotocol."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator

import pytest
from impacket.dcerpc.v5 import srvs, transport, wkst
from impacket.smbconnection import SessionError, SMBConnection
from smbclient import open_file, register_session, reset_connection_cache, scandir
from smbprotocol.connection import Connection, Dialects
from smbprotocol.exceptions import SMBResponseException
from smbprotocol.open import CreateDisposition, CreateOptions, FileAttributes, FilePipePrinterAccessMask, ImpersonationLevel, Open, ShareAccess
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from tests.interop.running import PASSWORD, USER, RunningNode

STATUS_SHARING_VIOLATION = 0xC0000043
STATUS_ACCESS_DENIED = 0xC0000022


@pytest.fixture
def impacket(node: RunningNode) -> Iterator[SMBConnection]:
    connection = SMBConnection(node.smb.host, node.smb.host, sess_port=node.smb.port, timeout=60)
    connection.login(USER, PASSWORD)
    yield connection
    connection.close()


def test_impacket_stores_and_fetches_a_file(node: RunningNode, impacket: SMBConnection) -> None:
    content = os.urandom(3_000_001)
    impacket.putFile(node.smb.share, "impacket.bin", io.BytesIO(content).read)
    back = io.BytesIO()
    impacket.getFile(node.smb.share, "impacket.bin", back.write)
    assert back.getvalue() == content
    assert [f.get_filesize() for f in impacket.listPath(node.smb.share, "impacket.bin")] == [3_000_001]
    impacket.deleteFile(node.smb.share, "impacket.bin")
    assert impacket.listPath(node.smb.share, "*")  # `.` and `..` are there


def test_impacket_makes_and_removes_directories(node: RunningNode, impacket: SMBConnection) -> None:
    impacket.createDirectory(node.smb.share, "i")
    impacket.rename(node.smb.share, "i", "j")
    assert "j" in [entry.get_longname() for entry in impacket.listPath(node.smb.share, "*")]
    impacket.deleteDirectory(node.smb.share, "j")


def test_impacket_is_refused_with_a_wrong_password(node: RunningNode) -> None:
    connection = SMBConnection(node.smb.host, node.smb.host, sess_port=node.smb.port, timeout=60)
    with pytest.raises(SessionError, match="STATUS_LOGON_FAILURE"):
        connection.login(USER, "wrong")
    connection.close()


def _rpc(impacket: SMBConnection, pipe: str, interface: tuple[bytes, bytes] | bytes):  # type: ignore[no-untyped-def]
    channel = transport.SMBTransport(impacket.getRemoteHost(), filename=pipe, smb_connection=impacket).get_dce_rpc()
    channel.connect()
    channel.bind(interface)
    return channel


def test_srvsvc_lists_the_shares(node: RunningNode, impacket: SMBConnection) -> None:
    shares = srvs.hNetrShareEnum(_rpc(impacket, "srvsvc", srvs.MSRPC_UUID_SRVS), 1)
    names = {entry["shi1_netname"][:-1] for entry in shares["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"]}
    assert {node.smb.share, "IPC$"} <= names


def test_srvsvc_tells_about_one_share_and_the_server(node: RunningNode, impacket: SMBConnection) -> None:
    channel = _rpc(impacket, "srvsvc", srvs.MSRPC_UUID_SRVS)
    info = srvs.hNetrShareGetInfo(channel, node.smb.share + "\0", 1)
    assert info["InfoStruct"]["ShareInfo1"]["shi1_netname"] == node.smb.share + "\0"
    assert srvs.hNetrServerGetInfo(channel, 101)["InfoStruct"]["ServerInfo101"]["sv101_version_major"] >= 6


def test_wkssvc_tells_the_workstation(impacket: SMBConnection) -> None:
    answer = wkst.hNetrWkstaGetInfo(_rpc(impacket, "wkssvc", wkst.MSRPC_UUID_WKST), 100)
    assert answer["WkstaInfo"]["WkstaInfo100"]["wki100_langroup"] == "WORKGROUP\0"


@pytest.fixture
def tree(node: RunningNode) -> Iterator[TreeConnect]:
    connection = Connection(uuid.uuid4(), node.smb.host, node.smb.port, require_signing=True)
    connection.connect(dialect=Dialects.SMB_3_1_1)
    session = Session(connection, USER, PASSWORD, require_encryption=False)
    session.connect()
    tree = TreeConnect(session, rf"\\{node.smb.host}\{node.smb.share}")
    tree.connect()
    yield tree
    connection.disconnect(close=True)


def _open(tree: TreeConnect, name: str, disposition: int, share: int = 0, options: int = 0) -> Open:
    opened = Open(tree, name)
    opened.create(
        ImpersonationLevel.Impersonation,
        FilePipePrinterAccessMask.GENERIC_READ | FilePipePrinterAccessMask.GENERIC_WRITE | FilePipePrinterAccessMask.DELETE,
        FileAttributes.FILE_ATTRIBUTE_NORMAL,
        share,
        disposition,
        options or CreateOptions.FILE_NON_DIRECTORY_FILE,
    )
    return opened


def test_smbprotocol_writes_and_reads_at_any_offset(tree: TreeConnect) -> None:
    opened = _open(tree, "offsets", CreateDisposition.FILE_CREATE)
    opened.write(b"abc", 0)
    opened.write(b"xyz", 1_000_003)
    opened.flush()
    assert opened.read(999_998, 10) == b"\0" * 5 + b"xyz"
    assert opened.read(0, 4) == b"abc\0"
    opened.close()


def test_smbprotocol_meets_a_sharing_violation(tree: TreeConnect) -> None:
    first = _open(tree, "exclusive", CreateDisposition.FILE_OPEN_IF)
    with pytest.raises(SMBResponseException) as refused:
        _open(tree, "exclusive", CreateDisposition.FILE_OPEN, ShareAccess.FILE_SHARE_READ)
    assert refused.value.status == STATUS_SHARING_VIOLATION
    first.close()
    _open(tree, "exclusive", CreateDisposition.FILE_OPEN).close()


def test_smbprotocol_deletes_on_close(tree: TreeConnect) -> None:
    options = CreateOptions.FILE_NON_DIRECTORY_FILE | CreateOptions.FILE_DELETE_ON_CLOSE
    _open(tree, "brief", CreateDisposition.FILE_CREATE, options=options).close()
    _open(tree, "brief", CreateDisposition.FILE_CREATE, options=options).close()


@pytest.mark.parametrize("dialect", [Dialects.SMB_3_0_0, Dialects.SMB_3_0_2, Dialects.SMB_3_1_1])
@pytest.mark.parametrize("encrypt", [False, True])
def test_smbprotocol_works_with_every_dialect(node: RunningNode, dialect: int, encrypt: bool) -> None:
    connection = Connection(uuid.uuid4(), node.smb.host, node.smb.port, require_signing=True)
    connection.connect(dialect=dialect)
    session = Session(connection, USER, PASSWORD, require_encryption=encrypt)
    session.connect()
    tree = TreeConnect(session, rf"\\{node.smb.host}\{node.smb.share}")
    tree.connect()
    opened = _open(tree, f"dialect-{dialect:x}-{encrypt}", CreateDisposition.FILE_CREATE)
    content = os.urandom(200_000)
    opened.write(content[:100_000], 0)
    opened.write(content[100_000:], 100_000)
    assert opened.read(0, 200_000) == content
    opened.close()
    connection.disconnect(close=True)


def test_the_high_level_client_walks_a_directory(node: RunningNode) -> None:
    register_session(node.smb.host, USER, PASSWORD, port=node.smb.port)
    base = rf"\\{node.smb.host}\{node.smb.share}"
    for number in range(3):
        with open_file(rf"{base}\walk-{number}", mode="wb", port=node.smb.port) as file:
            file.write(b"x" * number)
    # Not `entry.stat()`: it connects anew, and always to port 445.
    found = {entry.name: entry.smb_info.end_of_file for entry in scandir(base, port=node.smb.port) if entry.name.startswith("walk-")}
    assert found == {"walk-0": 0, "walk-1": 1, "walk-2": 2}
    reset_connection_cache()
