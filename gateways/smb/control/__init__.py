"""File system controls that come as IOCTL, MS-FSCC 2.3: one module per family, tied to their codes in `commands.ioctl`.

A control takes the `Exchange`, its input and the room for output, and gives the output's bytes. Nothing here knows the
IOCTL message itself.
"""
