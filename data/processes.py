"""Worker processes that end with their parent."""

import os
import threading
import time

_SECONDS_BETWEEN_CHECKS = 0.5


def end_with_parent(parent_pid: int) -> None:
    """End this worker process as soon as its parent is gone, even if the parent was killed. Call it first.

    ``parent_pid`` is ``os.getpid()`` as the parent read it: the parent may be gone before the worker runs.
    """

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_SECONDS_BETWEEN_CHECKS)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
