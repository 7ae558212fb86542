"""Which processes are there."""

import psutil


def reader_processes(parent: int | None = None) -> list[psutil.Process]:
    """The readers that a process (this one) has started and that have not ended."""
    found = []
    for process in psutil.Process(parent).children():
        try:
            # A process that was only just started still looks like its parent.
            if process.status() != psutil.STATUS_ZOMBIE and "pipeline.features.readers" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
