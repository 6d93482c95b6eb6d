"""SMB2 commands, one module each: its messages, and what the server does about them (MS-SMB2 3.3.5.4 to 3.3.5.22)."""
