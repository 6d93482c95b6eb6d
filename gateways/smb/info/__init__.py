"""Classes of information about files, directories and file systems, MS-FSCC 2.4 and 2.5: how they look on the wire."""
