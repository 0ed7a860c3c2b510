"""Hearing early that the process is to end.

A server ends its app only when every request has been answered. Those that wait for minutes of work have to be told
before.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread, current_thread, main_thread
from types import FrameType


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop`, on a thread of its own, as soon as Ctrl-C or SIGTERM comes, beside what the server does then.

    Where no server has taken these signals, or outside of the main thread, nothing is called.
    """
    numbers = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
    handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}

    def handle(number: int, frame: FrameType | None) -> None:
        Thread(target=stop, name="stop").start()
        handlers[signal.Signals(number)](number, frame)

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
