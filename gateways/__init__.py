"""The gateways: SMB and NFS on one side, volume calls on the other; no storage logic in here."""
