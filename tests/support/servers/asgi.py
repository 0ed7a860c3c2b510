"""Serves an app over HTTP from a thread of the test process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from cli.http_protocol import HttpProtocol
from cli.web_server import LOOP


@contextmanager
def serving(app: Starlette, port: int = 0, root_path: str = "") -> Iterator[str]:
    """Serve the app as the product is served, and yield its URL. Without a port, a free one is taken.

    `root_path` is uvicorn's option.
    """
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, root_path=root_path, loop=LOOP, http=HttpProtocol))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(120)
        assert not thread.is_alive()
