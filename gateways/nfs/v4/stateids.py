"""What a stateid stands for (RFC 8881 8.2).

`other` is 4 bytes that name the volume and the 8 bytes of an `OpenId`: opens, lock owners' locks and delegations share its numbers. A delegation is backed
by an open of its own.
"""
