"""Several endpoints as one model: one queue, and whichever member may start a call first takes it."""

from asyncopt.pool.pool import Pool, PoolMember
from asyncopt.pool.values import Front, Member, common

__all__ = ["Front", "Member", "Pool", "PoolMember", "common"]
