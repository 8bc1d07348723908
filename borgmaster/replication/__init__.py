"""The replicated log on PySyncObj, and all that makes it keep its promise."""

from borgmaster.replication.config import LogConfig
from borgmaster.replication.failure import EXIT_BUG, EXIT_DAMAGED, EXIT_DISK, LogFailed
from borgmaster.replication.log import ReplicatedLog

__all__ = ["EXIT_BUG", "EXIT_DAMAGED", "EXIT_DISK", "LogConfig", "LogFailed", "ReplicatedLog"]
