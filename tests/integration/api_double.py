"""A stand-in for atoll-node and for the guests behind it: the node API on a unix socket, and for each sandbox a
"monitor" socket that speaks the hybrid vsock handshake and leads to TCP servers of the test."""
import base64
import contextlib
import hashlib
import http.server
import json
import os
import socket
import socketserver
import threading
import time
import urllib.parse
import uuid


PATIENCE = 60  # seconds for what comes at once, on a machine that has nothing else to do


def until(what, body, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not body():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def stalls(what, figure, most, quiet=0.5):
    """A figure that grows comes to rest, below `most`: what it is then."""
    seen, since, end = figure(), time.monotonic(), time.monotonic() + PATIENCE
    while time.monotonic() - since < quiet:
        time.sleep(0.05)
        now = figure()
        assert now < most, f"{what}: {now}, and it goes on"
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} s, it is {now}"
        if now != seen:
            seen, since = now, time.monotonic()
    return seen


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


class TcpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


def serve(server):
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()


def tear(connections):
    for connection in connections:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def pump(source, sink, patient=False):
    """One direction of a joined connection, with its half-close. With `patient` what the sink takes no more is thrown
    away: the answer that the other direction carries may still be on its way."""
    taken = True
    try:
        while data := source.recv(65536):
            try:
                if taken:
                    sink.sendall(data)
            except OSError:
                if not patient:
                    raise
                taken = False
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        tear((source, sink))


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > 64:
            return ""
        line += byte
    return line.decode().strip()


class Monitor:
    """vsock.sock of one sandbox. `ports` maps guest TCP ports to ports of this machine, `agent` is the agent's."""

    def __init__(self, path, agent, ports):
        self.agent, self.ports = agent, ports
        self.handshakes, self.open = [], []
        self.refusing = None  # called with the port before one that is closed is refused
        self.volumes, self.volume_connections = [], {}  # ids that the agent has mounted; by their number
        monitor = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                monitor.serve(self.request)

        self.server = UnixServer(path, Handler)
        os.chmod(path, 0o666)
        serve(self.server)

    def target(self, connection):
        line = read_line(connection)
        self.handshakes.append(line)
        if line == "CONNECT 49983":
            connection.sendall(b"OK 1073741824\n")
            return self.agent
        if line.startswith("CONNECT 11"):
            self.take_volume(connection, int(line[8:]) - 1100)
        if line != "CONNECT 1025":
            return None
        connection.sendall(b"OK 1073741825\n")
        line = read_line(connection)
        self.handshakes.append(line)
        number = int(line.split()[1])
        port = self.ports.get(number)
        if not port and self.refusing:
            self.refusing(number)
        connection.sendall(b"OK\n" if port else b"ERR connection refused\n")
        return port

    def take_volume(self, connection, index):
        """The agent's side of a mounted volume. The connection is the test's, until either side ends it."""
        if index >= len(self.volumes):
            return
        connection.sendall(b"OK 1073741826\n")
        line = read_line(connection)
        self.handshakes.append(line)
        if line != f"VOLUME {self.volumes[index]}":
            connection.sendall(b"ERR another volume is mounted there\n")
            return
        over = threading.Event()
        self.open.append(connection)
        connection.sendall(b"OK\n")
        self.volume_connections.setdefault(index, []).append((connection, over))
        over.wait(600)

    def serve(self, connection):
        port = self.target(connection)
        if port is None:
            return
        guest = socket.create_connection(("127.0.0.1", port))
        self.open += [connection, guest]
        back = threading.Thread(target=pump, args=(guest, connection), daemon=True)
        back.start()
        pump(connection, guest, patient=True)
        back.join()
        guest.close()

    def kill(self):
        """As when the monitor is killed: the socket file stays, nobody listens, connections break."""
        self.server.shutdown()
        self.server.server_close()
        tear(self.open)


def template(name):
    return {"name": name, "build_id": str(uuid.uuid4()), "vcpu_count": 2, "memory_mib": 512, "disk_mib": 1024,
            "created_at_ms": 1_700_000_000_000}


class Node:
    """The node API. Its sandboxes outlive it, as monitors do."""

    def __init__(self, directory, agent, ports):
        self.directory, self.agent, self.ports = directory, agent, ports
        self.path = os.path.join(directory, "node.sock")
        self.sandboxes, self.monitors, self.created = {}, {}, {}
        self.templates = [template("base"), template("code-interpreter-v1")]
        self.delay = 0  # seconds that a create takes
        self.age = 0  # how long ago, in seconds, the sandboxes to come say that they began
        self.metrics, self.logs = {}, {}  # by sandbox
        self.build_logs = {}  # by build
        self.request_ids = []
        self.refuse = None  # what a create is answered instead
        self.pause_delay = self.resume_delay = 0  # seconds
        self.snapshot_delay, self.snapshot_refuse = 0, None
        self.template_delay, self.template_refuse = 0, None
        self.resume_refuse = None  # what a resume is answered instead
        self.network_refuse = None  # what a change of its network is answered instead
        self.internet = {}  # by sandbox: what the node was told last
        self.asked = []  # method and path, with its query, of all requests
        self.done = []  # of those that were answered, or could not be
        self.made_at = {}  # by sandbox: when its create was done, seconds
        self.gates = {}
        self.start()

    @contextlib.contextmanager
    def holding(self, what):
        """Requests of a kind ("create", "pause", "resume", "snapshot", "template", "network") wait here until the gate is set, or in
        here is left: for what is to be looked at while one is under way."""
        gate = self.gates[what] = threading.Event()
        try:
            yield gate
        finally:
            del self.gates[what]
            gate.set()

    def take_time(self, what, seconds):
        time.sleep(seconds)
        gate = self.gates.get(what)
        assert gate is None or gate.wait(2 * PATIENCE), f"a {what} is held for too long"

    def count(self, method, end, of=None):
        """How many requests there were whose path ends so."""
        return sum(made == method and path.endswith(end) for made, path in list(self.asked if of is None else of))

    def start(self):
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def address_string(self):
                return "unix"

            def log_message(self, *_):
                pass

            def answer(self):
                node.open.append(self.connection)
                if self.server.dead:  # it was accepted just before
                    self.close_connection = True
                    return
                size = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(size)) if size else None
                if "X-Request-Id" in self.headers:
                    node.request_ids.append(self.headers["X-Request-Id"])
                try:
                    status, reply = node.answer(self.command, self.path, body)
                finally:
                    node.done.append((self.command, self.path))
                data = b"" if reply is None else json.dumps(reply).encode()
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = answer

        if os.path.exists(self.path):
            os.unlink(self.path)
        self.open = []
        self.server = UnixServer(self.path, Handler)
        self.server.dead = False
        os.chmod(self.path, 0o666)
        serve(self.server)

    def kill(self):
        self.server.dead = True
        self.server.shutdown()
        self.server.server_close()
        tear(self.open)

    def create(self, body):
        if not any(body["template"] in (item["name"], item["build_id"]) for item in self.templates):
            return 404, {"code": 404, "message": f"template '{body['template']}' not found"}
        sandbox_id = body["sandbox_id"]
        directory = os.path.join(self.directory, "sandboxes", sandbox_id)
        os.makedirs(directory)
        path = os.path.join(directory, "vsock.sock")
        self.monitors[sandbox_id] = Monitor(path, self.agent, self.ports)
        self.monitors[sandbox_id].volumes = [mount["volume_id"] for mount in body.get("volume_mounts", [])]
        self.created[sandbox_id] = body
        self.sandboxes[sandbox_id] = {
            "sandbox_id": sandbox_id, "template": body["template"], "build_id": str(uuid.uuid4()),
            "template_id": body["template_id"], "team_id": body["team_id"], "alias": body["alias"],
            "started_at_ms": int((time.time() - self.age) * 1000), "end_at_ms": body["end_at_ms"], "vcpu_count": 2,
            "memory_mib": 512, "disk_mib": 1024, "metadata": body["metadata"], "vsock_path": path, "pid": 1,
            "state": "running", "auto_pause": body.get("auto_pause", False),
            "auto_pause_memory": body.get("auto_pause_memory", True), "memory": True,
        }
        self.made_at[sandbox_id] = time.time()
        return 201, self.sandboxes[sandbox_id]

    def change(self, sandbox, what, body):
        """Pause, resume and snapshot, without a machine that would notice."""
        if what == "resume":
            self.take_time("resume", self.resume_delay)
            if self.resume_refuse:
                return self.resume_refuse
        if what == "pause":
            self.take_time("pause", self.pause_delay)
        paused = sandbox["state"] == "paused"
        if paused != (what == "resume"):
            return 409, {"code": 409, "message": "the sandbox is not in the state for that"}
        if what == "resume" and not body.get("boot", True) and not sandbox["memory"]:
            return 412, {"code": 412, "message": "the sandbox has no memory: it would be booted"}
        if what == "snapshot":
            self.take_time("snapshot", self.snapshot_delay)
            if self.snapshot_refuse:
                return self.snapshot_refuse
            self.templates.append({**template(body["build_id"]), "build_id": body["build_id"], "snapshot": True})
            return 204, None
        sandbox["state"] = "running" if paused else "paused"
        sandbox["memory"] = paused or body.get("memory", True)
        if what == "pause":
            return 204, None
        sandbox["end_at_ms"] = body["end_at_ms"]
        return 201, sandbox

    def one_template(self, method, ref):
        """By build, or by name if it is no snapshot; what a sandbox was made from stays."""
        builds = [item for item in self.templates
                  if item["build_id"] == ref or (item["name"] == ref and not item.get("snapshot"))]
        if not builds:
            return 404, {"code": 404, "message": f"there is no template '{ref}'"}
        if method == "GET":
            return 200, builds[::-1]
        self.take_time("template", self.template_delay)
        if self.template_refuse:
            return self.template_refuse
        needed = {key for item in builds for key in (item["name"], item["build_id"])}
        if any(sandbox["template"] in needed for sandbox in self.sandboxes.values()):
            return 409, {"code": 409, "message": f"template '{ref}' is needed by sandboxes"}
        self.templates = [item for item in self.templates if item not in builds]
        return 204, None

    def end(self, sandbox_id):
        self.sandboxes.pop(sandbox_id)
        self.monitors.pop(sandbox_id).kill()

    def kept(self, path, query):
        """What is kept of sandboxes besides themselves."""
        if path == "/v1/metrics":
            found = {name: self.metrics[name][-1] for name in query["sandbox_ids"].split(",") if name in self.metrics}
            return 200, found
        name, what = path.split("/")[3:]
        if what == "logs":
            return (200, self.logs[name]) if name in self.logs else (404, {"code": 404, "message": "no logs"})
        found = self.metrics.get(name, [])
        if isinstance(found, list):
            found = [item for item in found if int(query["start_s"]) <= item["time_s"] <= int(query["end_s"])]
        return 200, found

    def build_log(self, build, query):
        if not any(item["build_id"] == build for item in self.templates):
            return 404, {"code": 404, "message": f"there is no build '{build}'"}
        levels = ["debug", "info", "warn", "error"]
        backward = query.get("direction") == "backward"
        cursor = int(query.get("cursor_ms", 1 << 62 if backward else 0))
        wanted = [item for item in self.build_logs.get(build, []) if levels.index(item["level"]) >= levels.index(query.get("level", "debug")) and
                  (item["time_ms"] <= cursor if backward else item["time_ms"] >= cursor)][::-1 if backward else 1]
        first = int(query.get("offset", 0))
        return 200, {"build_id": build, "logs": wanted[first:first + int(query["limit"])]}

    def answer(self, method, path, body):
        self.asked.append((method, path))
        path, _, query = path.partition("?")
        if method == "GET" and path.startswith("/v1/templates/") and path.endswith("/logs"):
            return self.build_log(path.split("/")[3], dict(urllib.parse.parse_qsl(query, True)))
        if method == "GET" and path.endswith(("/metrics", "/logs")):
            return self.kept(path, dict(urllib.parse.parse_qsl(query, True)))
        parts = path.strip("/").split("/")
        if path == "/v1/health":
            return 200, {"mode": "kvm"}
        if path == "/v1/figures":
            return 200, {"creates_total": len(self.created), "sandboxes_running": 3, "bad name": 1, "text": "x"}
        if path == "/v1/templates":
            if not isinstance(self.templates, list):
                return 200, self.templates
            return 200, [item for item in self.templates if not item.get("snapshot")]
        if parts[:2] == ["v1", "templates"] and isinstance(self.templates, list):
            return self.one_template(method, parts[2])
        if parts == ["v1", "sandboxes"] and method == "POST":
            self.take_time("create", self.delay)
            self.internet[body["sandbox_id"]] = body["internet"]
            return self.refuse or self.create(body)
        if parts == ["v1", "sandboxes"]:
            return 200, [{**sandbox, "internet": self.internet[name]} for name, sandbox in list(self.sandboxes.items())]
        sandbox = self.sandboxes.get(parts[2])
        if sandbox is None:
            return 404, {"code": 404, "message": f"sandbox '{parts[2]}' does not exist"}
        if method == "POST":
            return self.change(sandbox, parts[3], body)
        if method == "PUT" and parts[3] == "network":
            self.take_time("network", 0)
            if self.network_refuse:
                return self.network_refuse
            self.internet[parts[2]] = body["internet"]
            return 204, None
        if method == "PUT":
            sandbox["end_at_ms"] = body["end_at_ms"]
            return 204, None
        if method == "DELETE":
            self.end(parts[2])
            return 204, None
        return 200, sandbox


class Guest:
    """A server in a guest. Remembers what it saw."""

    def __init__(self, name):
        self.name, self.seen, self.sent = name, [], 0
        self.aborted, self.release = threading.Event(), threading.Event()
        guest = self

        class Handler(GuestHandler):
            pass

        Handler.guest = guest
        self.server = TcpServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        serve(self.server)


class GuestHandler(http.server.BaseHTTPRequestHandler):
    """The path chooses the behaviour: "/torn" is on_torn."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        """The request's body, piece by piece."""
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.trailers = []
            while line := self.rfile.readline().strip():
                self.trailers.append(line.decode())
            return
        rest = int(self.headers.get("Content-Length", 0))
        while rest:
            data = self.rfile.read1(min(rest, 65536))
            if not data:
                return
            rest -= len(data)
            yield data

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def handle_any(self):
        self.guest.seen.append((self.command, self.path, self.headers))
        name = self.path.split("?")[0].strip("/").replace("-", "_").replace(".", "_")
        getattr(self, "on_" + name, self.on_echo)()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = handle_any

    def reply(self, status, data, *headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def on_echo(self):
        digest, size = hashlib.sha256(), 0
        for piece in self.body():
            digest.update(piece)
            size += len(piece)
        self.reply(200, json.dumps({
            "server": self.guest.name, "method": self.command, "path": self.path, "size": size,
            "sha256": digest.hexdigest(), "headers": self.headers.items()}).encode(),
            ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Connection", "X-Secret-Hop"), ("X-Secret-Hop", "hop"),
            ("X-Custom", "kept"))

    def on_metrics(self):
        self.reply(200, json.dumps({
            "ts": 1, "cpu_count": 2, "cpu_used_pct": 12.5, "mem_total": 1000, "mem_used": 500, "mem_cache": 7,
            "disk_used": 3, "disk_total": 9}).encode())

    def begin_chunked(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def on_stream(self):
        self.begin_chunked()
        for i in range(3):
            self.chunk(b"data: %d\n\n" % i)
            time.sleep(0.3)
        self.chunk(b"")

    def on_steps(self):
        """Three events, each when it is asked for."""
        self.begin_chunked()
        for i in range(3):
            if not self.guest.release.wait(PATIENCE):
                return
            self.guest.release.clear()
            self.chunk(b"data: %d\n\n" % i)
        self.chunk(b"")

    def on_trailers(self):
        """What came behind the body, in the answer and behind it."""
        self.trailers = []
        size = sum(map(len, self.body()))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "X-Sum, X-Other")
        self.end_headers()
        self.chunk(json.dumps({"size": size, "trailers": self.trailers}).encode())
        self.wfile.write(b"0\r\nX-Sum: %d\r\nX-Other: o\r\nContent-Type: a lie\r\n\r\n" % size)

    def on_endless(self):
        self.guest.aborted.clear()
        self.guest.sent = 0
        self.begin_chunked()
        try:
            while True:
                self.chunk(b"x" * 16384)
                self.guest.sent += 16384
        except OSError:
            self.guest.aborted.set()

    def on_silent(self):
        self.guest.aborted.clear()
        if not self.connection.recv(1):
            self.guest.aborted.set()

    def on_broken_upload(self):
        self.guest.aborted.clear()
        rest = int(self.headers["Content-Length"])
        while rest > 0:
            data = self.rfile.read1(rest)
            if not data:
                self.guest.aborted.set()
                self.close_connection = True
                return
            rest -= len(data)
        self.reply(200, b"")

    def on_torn(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")
        self.close_connection = True

    def on_garbage(self):
        self.wfile.write(b"this is no HTTP\r\n\r\n")
        self.close_connection = True

    def on_bytes(self):
        """As many bytes as the query says."""
        size = int(self.path.split("?")[1])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        while size:
            part = min(size, 65536)
            self.wfile.write(b"z" * part)
            size -= part

    def on_until_close(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        self.close_connection = True

    def on_early(self):
        """Answer before the body; close after it, as careful servers do (closing at once can reset the answer away)."""
        self.reply(413, b"too much", ("Connection", "close"))
        for _ in self.body():
            pass
        self.close_connection = True

    def on_slow_read(self):
        """Stop reading until we are told to go on."""
        size = 0
        for piece in self.body():
            if size == 0:
                self.guest.release.wait(2 * PATIENCE)
            size += len(piece)
        self.reply(200, str(size).encode())

    def accept_websocket(self, more=b""):
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + more +
                         b"Sec-WebSocket-Accept: " + base64.b64encode(hashlib.sha1(key.encode()).digest()) + b"\r\n\r\nhello")
        self.close_connection = True

    def on_ws(self):
        self.guest.aborted.clear()
        self.accept_websocket()
        try:
            while data := self.connection.recv(65536):
                self.wfile.write(b"<" + data + b">")
        finally:
            self.guest.aborted.set()

    def on_ws_late(self):
        time.sleep(0.2)
        self.on_ws()

    def on_ws_half(self):
        """Says its part, then listens to the end."""
        self.guest.aborted.clear()
        self.accept_websocket()
        self.connection.shutdown(socket.SHUT_WR)
        self.guest.heard = b""
        while data := self.connection.recv(65536):
            self.guest.heard += data
        self.guest.aborted.set()

    def on_ws_flood(self):
        """Says more than anybody takes; counts what it got rid of."""
        self.guest.sent = 0
        self.accept_websocket()
        try:
            while True:
                self.guest.sent += self.connection.send(b"f" * 65536)
        except OSError:
            self.guest.aborted.set()

    def on_ws_deaf(self):
        """Takes nothing."""
        self.accept_websocket()
        self.guest.release.wait(2 * PATIENCE)

    def on_ws_twice(self):
        self.accept_websocket(b"Sec-WebSocket-Accept: x\r\n")

    def on_unasked(self):
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        self.close_connection = True
