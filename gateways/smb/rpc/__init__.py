"""Named pipes of IPC$: DCE/RPC over SMB (MS-RPCE), with the services that list shares (`srvsvc`) and name the server (`wkssvc`).

`pipe` is the file that a client writes to and reads from, `pdu` what goes through it.
"""
