"""Quotas: what users, groups, directory trees and the volume use, and may use.

`counting` keeps the counts, in `apply`, at the one place through which every change of an inode passes; `limits` says who is refused, and how much room
is left; `requests` has what gateways ask, and the background work that the first quota and one of a directory take.
"""
