"""One account's quota, and every question once, for several processes and machines."""

from asyncopt.shared.at import coordinator_at
from asyncopt.shared.coordinator import Beat, Coordinator, SharingFailed
from asyncopt.shared.share import Share
from asyncopt.shared.sharing import Sharing

__all__ = ["Beat", "Coordinator", "Share", "Sharing", "SharingFailed", "coordinator_at"]
