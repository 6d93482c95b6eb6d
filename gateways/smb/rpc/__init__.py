"""Named pipes of IPC$: DCE/RPC over SMB (MS-RPCE), with the services that list shares and name the server."""
