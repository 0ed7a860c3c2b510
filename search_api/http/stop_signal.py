"""Receives the stop signal before the server shuts the app down.

The server shuts the app down only after all requests are answered, so requests that wait for minutes of work have to
be ended earlier.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread, current_thread, main_thread
from types import FrameType


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on a separate thread when the process receives SIGINT (Ctrl-C) or SIGTERM.

    The server's handler is called as well. If a signal has no Python handler, or outside the main thread, `stop` is not
    called.
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
