"""The gateways: SMB and NFS on one side, volume calls on the other; no storage logic in here.

`server` is the one shell that owns clients' sockets, `buffers` the memory that their messages lie in, `parting` what becomes of connections whose address
moves; the protocols are cores without I/O behind it. `eager` starts coroutines that become tasks only when they must wait. `exports` (shares, and who may
see them) and `identity` (users, SIDs and numbers) serve both protocols: `nfs` and `smb`.
"""
