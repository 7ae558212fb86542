"""Worker processes: how many fit, and how they end with their parent."""

import os
import threading
import time

_SECONDS_BETWEEN_CHECKS = 0.5


def end_with_parent(parent_pid: int) -> None:
    """End this process as soon as its parent is gone, however the parent ended. Call this first in a worker process.

    A thread checks twice a second. The process ends without clean-up, even while native code hangs.

    Args:
        parent_pid: the parent's ``os.getpid()``, which the parent must pass on: by the time the worker asks for
            ``os.getppid()``, the parent may be gone and the worker adopted by another process.
    """

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_SECONDS_BETWEEN_CHECKS)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
