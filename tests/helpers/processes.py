"""Processes that run."""

import psutil


def reader_processes(parent: int | None = None) -> list[psutil.Process]:
    """The running reader processes that a process has started (default: this process)."""
    found = []
    for process in psutil.Process(parent).children():
        try:
            # A process that has just started still has its parent's command line.
            if process.status() != psutil.STATUS_ZOMBIE and "pipeline.features.readers" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
