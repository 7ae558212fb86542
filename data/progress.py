"""Progress of long work: a bar with rate and time left on a terminal, a plain line every so often in a log."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts finished units of work and shows the count on standard error.

    Args:
        total: number of units in all.
        unit: what is counted, in the singular. ``"B"`` counts bytes and shows them as kB, MB or GB.
        done: units that an earlier run finished; the rate does not include them.
        what: the name of the work, shown first.
    """

    def __init__(self, total: int, unit: str, done: int = 0, what: str = "") -> None:
        self._on_terminal = sys.stderr.isatty()
        self._in_bytes = unit == "B"
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
            unit_scale=self._in_bytes,
            desc=what or None,
            dynamic_ncols=True,
            disable=not self._on_terminal,
            smoothing=0.1,
        )
        self._what, self._unit = what, unit
        self._total, self._first, self._done = total, done, done
        self._started = self._last_line = time.monotonic()
        self._shown: dict[str, object] = {}

    def advance(self, count: int = 1, **shown: object) -> None:
        """Add ``count`` finished units. ``shown`` are figures to show beside the count, as in ``show``."""
        self._done += count
        self._bar.update(count)
        self.show(**shown)

    def show(self, **shown: object) -> None:
        """Show figures beside the count until others of the same name replace them."""
        self._shown |= shown
        if self._on_terminal:
            self._bar.set_postfix(self._shown, refresh=False)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._print_line()

    def note(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Finish the bar, or print a last line to the log if anything was done."""
        self._bar.close()
        if not self._on_terminal and self._done > self._first:
            self._print_line()

    def _print_line(self) -> None:
        now = time.monotonic()
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
        if self._in_bytes:
            done, total, speed = (tqdm.format_sizeof(size, "B") for size in (self._done, self._total, rate))
            counted = f"{done}/{total}, {speed}/s"
        else:
            counted = f"{self._done}/{self._total} {self._unit}s, {rate:.1f} {self._unit}s/s"
        name = f"{self._what}: " if self._what else ""
        figures = "".join(f", {figure} {value}" for figure, value in self._shown.items())
        print(f"{name}{counted}, {left} left{figures}", file=sys.stderr, flush=True)
        self._last_line = now
