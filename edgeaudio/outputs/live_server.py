"""The HTTP side of the live page: one document, one stream of events, and nobody else's pages let in."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from edgeaudio.errors import ConfigError
from edgeaudio.outputs.live_clients import Clients, Message

_LOG = logging.getLogger(__name__)

MAX_VIEWERS = 16
_MAX_CONNECTIONS = 4 * MAX_VIEWERS
_SOCKET_TIMEOUT_S = 10.0

# What the kernel holds for a browser that does not read; the rest is in its `Client`.
_SEND_BUFFER_BYTES = 1 << 17

#: A browser hears this often that the connection is alive.
BEAT_S = 2.0


class Page:
    """The document with its style and scripts inside, and the policy that lets it load nothing else."""

    def __init__(self) -> None:
        def part(name: str) -> str:
            return resources.files("edgeaudio.outputs").joinpath("page", name).read_text(encoding="utf-8")

        style, script = part("page.css"), "\n".join(part(name) for name in ("colours.js", "timeline.js", "page.js"))
        document = part("page.html").replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
        self.data = document.encode()
        self.policy = (
            f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class LiveServer(ThreadingHTTPServer):
    """Serves the page and its events from threads of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(
        self, host: str, port: int, clients: Clients, greeting: Callable[[], Message], names: tuple[str, ...] = ()
    ) -> None:
        """Bind and listen; `start` begins to answer.

        Args:
            host: name or address. port: 0 takes a free one.
            greeting: the first message of each client. names: host names that a browser may call this machine.
        Raises:
            ConfigError: the address cannot be bound.
        """
        self.clients, self.greeting, self.page = clients, greeting, Page()
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self.address_family = found[0]
            super().__init__(found[4][:2], _Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise ConfigError(
                f"--ui-listen: {host}:{port} cannot be listened on: {error.strerror}. Give another HOST:PORT."
            ) from error
        self.is_local = ipaddress.ip_address(self.server_name).is_loopback
        self._names = {name.lower() for name in names}
        if not self.is_local:
            own = socket.gethostname().lower()
            self._names |= {own, f"{own}.local", host.lower()}

    def server_bind(self) -> None:
        """As `HTTPServer`, but without asking the name service for our own name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}/"

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self.serve_forever, args=(0.2,), name="edgeaudio-ui-http", daemon=True).start()

    def knows(self, host_header: str | None) -> bool:
        """Whether a request that was sent to this name is meant for this server.

        A page of another site can have its name resolve to our address; the browser then lets it read our answers
        (DNS rebinding). Its requests carry its name, which is not one of ours.
        """
        try:
            name = urlsplit(f"//{host_header or ''}").hostname
        except ValueError:
            return False
        if name is None:
            return False
        if name in self._names or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.is_local

    def process_request(self, request: Any, client_address: Any) -> None:
        """Refuse more connections than there are slots: each would be a thread."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See `socketserver`."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves is no error worth a traceback."""
        _LOG.debug("ui: a connection ended", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    protocol_version = "HTTP/1.1"
    server_version = "edgeaudio"
    sys_version = ""
    timeout = _SOCKET_TIMEOUT_S

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        super().setup()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.close_connection = True
        path = urlsplit(self.path).path
        if not self.server.knows(self.headers.get("Host")):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "This server does not go by that name. Try its address.")
        elif path == "/":
            self._send_page()
        elif path != "/events":
            self._refuse(HTTPStatus.NOT_FOUND, "There is / and /events.")
        elif self._is_foreign():
            self._refuse(HTTPStatus.FORBIDDEN, "Pages of other sites may not read this.")
        else:
            self._send_events()

    def log_message(self, format: str, *args: Any) -> None:
        _LOG.debug("ui: " + format, *args)

    def _is_foreign(self) -> bool:
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site", "none")
        if origin is not None and urlsplit(origin).netloc.lower() != self.headers["Host"].lower():
            return True
        return site not in ("same-origin", "none")

    def _send_page(self) -> None:
        page = self.server.page
        self.send_response(HTTPStatus.OK)
        self._headers("text/html; charset=utf-8", len(page.data))
        self.send_header("Content-Security-Policy", page.policy)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page.data)

    def _send_events(self) -> None:
        client = self.server.clients.join(self.server.greeting)
        if client is None:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_VIEWERS} pages are open already. Close one.")
            return
        try:
            self.send_response(HTTPStatus.OK)
            self._headers("text/event-stream; charset=utf-8", None)
            self.end_headers()
            reported = 0
            while self.command == "GET":
                data = client.take(BEAT_S)
                if data is None:
                    return
                if client.dropped != reported:
                    reported = client.dropped
                    data += Message.of("lag", {"dropped": reported}).data
                self.wfile.write(data or Message.of("beat", {}).data)
        finally:
            self.server.clients.leave(client)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        body = f"{why}\n".encode()
        self.send_response(status)
        self._headers("text/plain; charset=utf-8", len(body))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _headers(self, content_type: str, length: int | None) -> None:
        self.send_header("Content-Type", content_type)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
