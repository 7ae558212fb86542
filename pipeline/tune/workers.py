"""Worker processes for many small trainings, with one thread each."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from typing import TypeVar

from pebble import ProcessPool
from tqdm import tqdm

from data.processes import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def open_workers(num_workers: int, prepare: Callable[[], object] | None = None) -> Iterator[ProcessPool]:
    """Processes that stay until the context ends; if it ends with an exception, their work is stopped.

    ``prepare`` is called once in each process before its first task.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # the workers inherit these and read them when they import PyTorch
    context = multiprocessing.get_context("spawn")
    with ProcessPool(num_workers, initializer=_start, initargs=(os.getpid(), prepare), context=context) as pool:
        try:
            yield pool
        except BaseException:
            pool.stop()
            raise


def run_all(
    workers: ProcessPool, work: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[tuple[Task, Future[Result]]]:
    """Run ``work``, a picklable function, on every task, and yield each task with its future as soon as it is finished.

    Tasks start in the given order. The future raises what ``work`` raised, or ``pebble.ProcessExpired`` if the process
    was killed; a new process replaces it, and the other tasks continue.
    """
    futures: dict[Future[Result], Task] = {workers.schedule(work, args=[task]): task for task in tasks}
    for future in as_completed(futures):
        yield futures[future], future


def _start(parent_pid: int, prepare: Callable[[], object] | None) -> None:
    end_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops its workers
    # The default lock of the training loop's bars is shared between processes, and stopping a worker would leak it.
    tqdm.set_lock(threading.RLock())
    import torch  # not at the top, so that the parent reports a wrong option without loading PyTorch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as train.py does
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  the progress of each training would hide that of the command
    if prepare is not None:
        prepare()
