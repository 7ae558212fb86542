"""Many trainings side by side: one process and one thread each, quiet, and gone as soon as the command is."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from typing import TypeVar

from pebble import ProcessPool
from tqdm import tqdm

from data.processes import available_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

NUM_CORES = available_cores()


def in_workers(
    work: Callable[[Task], Result], tasks: Sequence[Task], num_workers: int, prepare: Callable[[], object] | None = None
) -> Iterator[tuple[Task, Future[Result]]]:
    """``work`` on every task, in processes of their own; each task and its finished future, as they end.

    Args:
        work: a function of a module.
        tasks: what it is called with, begun in this order.
        num_workers: processes.
        prepare: called once in each process before its first task.

    The future raises what ``work`` raised, or ``pebble.ProcessExpired`` where the process was killed; the others go on.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # heard by the workers, which import PyTorch anew
    context = multiprocessing.get_context("spawn")
    with ProcessPool(num_workers, initializer=_start, initargs=(prepare,), context=context) as pool:
        try:
            futures: dict[Future[Result], Task] = {pool.schedule(work, args=[task]): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future
        except BaseException:
            pool.stop()
            raise


def _start(prepare: Callable[[], object] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent stops its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The bars' own lock, one for all processes, would be reported as leaked whenever a worker is stopped.
    tqdm.set_lock(threading.RLock())
    import torch  # here: the parent may have to answer a typo first

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as train.py does
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  a bar for each of hundreds of trainings would bury the one that counts
    if prepare is not None:
        prepare()


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on beside those of the next start."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
