"""A PostgreSQL connection pooler like PgBouncer in transaction mode, with its restrictions.

It refuses startup parameters that it does not know, and gives each transaction of a client another server connection.
"""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

from sqlalchemy import make_url

KNOWN_PARAMETERS = {"user", "database", "client_encoding", "application_name"}
_PROTOCOL, _SSL, _GSS = 196608, 80877103, 80877104
_SERVER_CONNECTIONS = 2


@contextmanager
def pooler(url: str) -> Iterator[str]:
    """Run a pooler for the database at a URL of a local server, and yield the URL of the pooler."""
    parsed = make_url(url)
    address = str(Path(str(parsed.query["host"])) / ".s.PGSQL.5432")
    startup = f"user\0{parsed.username}\0database\0{parsed.database}\0client_encoding\0UTF8\0\0".encode()
    idle: Queue[socket.socket] = Queue()
    greeting = b""
    for _ in range(_SERVER_CONNECTIONS):
        server = socket.socket(socket.AF_UNIX)
        server.connect(address)
        server.sendall(struct.pack("!ii", len(startup) + 8, _PROTOCOL) + startup)
        greeting, _ = _answer(server)
        idle.put(server)

    class Client(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            parameters = _startup_parameters(client)
            if unknown := parameters.keys() - KNOWN_PARAMETERS:
                fields = f"SFATAL\0C08P01\0Munsupported startup parameter: {', '.join(unknown)}\0\0".encode()
                client.sendall(b"E" + struct.pack("!i", len(fields) + 4) + fields)
                return
            client.sendall(greeting)
            server = None
            while (message := _message(client)) and message[:1] != b"X":
                server = server or idle.get(timeout=60)
                server.sendall(message)
                answer, in_transaction = _answer(server)
                if not in_transaction:
                    idle.put(server)
                    server = None
                client.sendall(answer)
            if server:  # the client went away in a transaction
                server.sendall(b"Q" + struct.pack("!i", 13) + b"ROLLBACK\0")
                _answer(server)
                idle.put(server)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Client) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"postgresql://{parsed.username}@127.0.0.1:{listener.server_address[1]}/{parsed.database}"
        finally:
            listener.shutdown()
            thread.join()
            while not idle.empty():
                idle.get().close()


def _startup_parameters(client: socket.socket) -> dict[str, str]:
    while True:
        length, code = struct.unpack("!ii", _read(client, 8))
        if code not in (_SSL, _GSS):
            break
        client.sendall(b"N")
    parts = _read(client, length - 8).decode().split("\0")
    return dict(zip(parts[:-2:2], parts[1:-2:2], strict=False))


def _answer(server: socket.socket) -> tuple[bytes, bool]:
    """All messages until the server is ready for the next query, and whether it is in a transaction then."""
    answer = b""
    while True:
        message = _message(server)
        answer += message
        if not message or message[:1] == b"Z":
            return answer, message[-1:] != b"I"


def _message(source: socket.socket) -> bytes:
    """One message of the protocol; empty at the end of the connection."""
    header = _read(source, 5)
    return header + _read(source, struct.unpack("!i", header[1:])[0] - 4) if header else b""


def _read(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            return b""
        data += part
    return data
