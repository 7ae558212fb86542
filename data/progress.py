"""Progress of long work: a bar with rate and time left on a terminal, a plain line every so often elsewhere."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts ``done`` of ``total`` units and shows it on standard error."""

    def __init__(self, total: int, unit: str, done: int = 0, what: str = "") -> None:
        self._on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
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
        """``count`` more units are done; ``shown`` are figures to show beside the count until others replace them."""
        self._done += count
        self._bar.update(count)
        self.show(**shown)

    def show(self, **shown: object) -> None:
        self._shown |= shown
        if self._on_terminal:
            self._bar.set_postfix(self._shown, refresh=False)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._print_line()

    def note(self, text: str) -> None:
        """A line that stays, above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        if not self._on_terminal and self._done > self._first:
            self._print_line()

    def _print_line(self) -> None:
        now = time.monotonic()
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
        figures = "".join(f", {name} {value}" for name, value in self._shown.items())
        counted = f"{self._done}/{self._total} {self._unit}s, {rate:.1f} {self._unit}s/s, {left} left{figures}"
        print(f"{self._what + ': ' if self._what else ''}{counted}", file=sys.stderr, flush=True)
        self._last_line = now
