"""Checks of tests/integration/api: metrics, logs and networks of sandboxes, volumes, figures and request ids."""
import http.client
import json
import os
import re
import signal
import socket
import time
import urllib.parse

from api_double import PATIENCE, until

UNKNOWN = "i" + "0" * 19


def refused(reply, status, message=None):
    assert reply.status == status, f"status {reply.status}: {reply.data[:300]}"
    assert reply.json["code"] == status and isinstance(reply.json["message"], str), reply.data
    if message:
        assert message in reply.json["message"], reply.data


def sample(time_s, share=12.5):
    return {"time_s": time_s, "cpu_count": 2, "cpu_used_pct": share, "mem_total": 512 << 20, "mem_used": 100 << 20,
            "mem_cache": 50 << 20, "disk_total": 1 << 30, "disk_used": 300 << 20}


def metrics(service, node):
    sandbox = service.create()
    assert service.ask("GET", f"/sandboxes/{sandbox}/metrics").json == []
    node.metrics[sandbox] = [sample(1_700_000_000 + 5 * i) for i in range(10)]
    found = service.ask("GET", f"/sandboxes/{sandbox}/metrics?start=1700000010&end=1700000020").json
    assert [entry["timestampUnix"] for entry in found] == [1700000010, 1700000015, 1700000020], found
    assert found[0] == {"timestamp": "2023-11-14T22:13:30.000Z", "timestampUnix": 1700000010, "cpuCount": 2,
                        "cpuUsedPct": 12.5, "memUsed": 100 << 20, "memTotal": 512 << 20, "memCache": 50 << 20,
                        "diskUsed": 300 << 20, "diskTotal": 1 << 30}, found[0]
    assert len(service.ask("GET", f"/sandboxes/{sandbox}-abc/metrics").json) == 10
    refused(service.ask("GET", f"/sandboxes/{sandbox}/metrics?start=-1"), 400)
    refused(service.ask("GET", f"/sandboxes/{sandbox}/metrics?start=x"), 400)
    refused(service.ask("GET", f"/sandboxes/{sandbox}/metrics?start=9&end=8"), 400)
    refused(service.ask("GET", f"/sandboxes/{UNKNOWN}/metrics"), 404)
    latest = service.ask("GET", f"/sandboxes/metrics?sandbox_ids={UNKNOWN},{sandbox}").json
    assert list(latest["sandboxes"]) == [sandbox], latest
    assert latest["sandboxes"][sandbox]["timestampUnix"] == 1700000045
    refused(service.ask("GET", "/sandboxes/metrics"), 400)
    refused(service.ask("GET", "/sandboxes/metrics?sandbox_ids=%2E%2E"), 400)
    refused(service.ask("GET", "/sandboxes/metrics?sandbox_ids=" + ",".join(["a"] * 101)), 400, "maximum is 100")
    assert service.ask("GET", "/sandboxes/metrics?sandbox_ids=" + ",".join(["a"] * 100)).json == {"sandboxes": {}}
    node.metrics[sandbox] = {"no": "list"}
    refused(service.ask("GET", f"/sandboxes/{sandbox}/metrics"), 500)


def logs(service, node):
    sandbox = service.create()
    assert service.ask("GET", f"/sandboxes/{sandbox}/logs").json == {"logs": [], "logEntries": []}
    team = node.sandboxes[sandbox]["team_id"]
    node.logs[sandbox] = {"team_id": team, "logs": [
        {"seq": 1, "time_ms": 1_700_000_000_123, "level": "info", "message": "process start",
         "fields": {"logger": "envd", "pid": "7"}}]}
    entry = {"timestamp": "2023-11-14T22:13:20.123Z", "level": "info", "message": "process start",
             "fields": {"logger": "envd", "pid": "7"}}
    old = service.ask("GET", f"/sandboxes/{sandbox}/logs?start=5&limit=7").json
    assert old["logEntries"] == [entry], old
    assert old["logs"][0]["timestamp"] == entry["timestamp"]
    assert json.loads(old["logs"][0]["line"]) == {"timestamp": entry["timestamp"], "level": "info", "pid": "7",
                                                  "message": "process start", "logger": "envd"}
    # (The API asks for other things by itself.)
    asked = lambda: [path for _, path in node.asked if "/logs?" in path][-1]
    assert asked() == f"/v1/sandboxes/{sandbox}/logs?limit=7&cursor_ms=5", asked()
    new = service.ask("GET", f"/v2/sandboxes/{sandbox}/logs?cursor=9&level=warn&search=a%26b%20c").json
    assert new == {"logs": [entry]}, new
    assert asked().endswith("/logs?limit=1000&direction=backward&cursor_ms=9&level=warn&search=a%26b%20c")
    for query in ("limit=1001", "limit=-1", "limit=x", "direction=up", "level=loud", "search=" + "s" * 257, "cursor="):
        refused(service.ask("GET", f"/v2/sandboxes/{sandbox}/logs?{query}"), 400)
    assert service.ask("DELETE", f"/sandboxes/{sandbox}").status == 204
    assert service.ask("GET", f"/v2/sandboxes/{sandbox}/logs").json == {"logs": [entry]}, "gone with its sandbox"
    node.logs[sandbox]["team_id"] = "another"
    refused(service.ask("GET", f"/v2/sandboxes/{sandbox}/logs"), 404)
    refused(service.ask("GET", f"/sandboxes/{UNKNOWN}/logs"), 404)
    refused(service.ask("GET", "/sandboxes/%2E%2E/logs"), 400)


def networks(service, node):
    plain = service.create()
    shown = service.ask("GET", f"/sandboxes/{plain}").json
    assert shown["allowInternetAccess"] is None and "network" not in shown, shown
    assert node.internet[plain] is True
    kept = {"allowPublicTraffic": True, "maskRequestHost": "localhost:${PORT}"}
    given = {"allowOut": ["1.1.1.1"], "maskRequestHost": "localhost:${PORT}"}
    sandbox = service.create(allow_internet_access=False, network={**given, "unknown": 1})
    shown = service.ask("GET", f"/sandboxes/{sandbox}").json
    assert node.internet[sandbox] is False
    assert shown["allowInternetAccess"] is False and shown["network"] == {**given, **kept}, shown

    def put(body):
        return service.ask("PUT", f"/sandboxes/{sandbox}/network", body)
    wanted = {"allowOut": ["*.example.com", "10.0.0.0/8", "::1"], "denyOut": ["0.0.0.0/0", "2001:db8::/32"],
              "rules": {"api.example.com": [{"transform": {"headers": {"X-A": "b"}}}]}}
    assert put({"allow_internet_access": True}).status == 204 and node.internet[sandbox] is True
    assert put({"allow_internet_access": False}).status == 204 and node.internet[sandbox] is False
    # What is denied in part is not reached at all.
    assert put({**wanted, "allow_internet_access": True}).status == 204 and node.internet[sandbox] is False
    shown = service.ask("GET", f"/sandboxes/{sandbox}").json
    assert shown["allowInternetAccess"] is True, shown
    assert shown["network"] == {**kept, **wanted}, shown
    service.end(signal.SIGKILL)
    service.start()
    assert service.ask("GET", f"/sandboxes/{sandbox}").json["network"] == shown["network"]
    # A crash in the middle of a change: the node has it otherwise than it is kept, and is told.
    service.end(signal.SIGKILL)
    node.internet[sandbox], node.internet[plain] = True, False
    service.start()
    until("the node is told", lambda: node.internet[sandbox] is False and node.internet[plain] is True)
    assert put({}).status == 204 and node.internet[sandbox] is True
    node.network_refuse = (500, {"code": 500, "message": "no rules today"})
    refused(put({"denyOut": ["7.7.7.7"]}), 500)
    node.network_refuse = None
    shown = service.ask("GET", f"/sandboxes/{sandbox}").json
    assert shown["network"] == kept and shown["allowInternetAccess"] is None
    assert put({"denyOut": ["9.9.9.9"]}).status == 204
    copy = service.ask("POST", f"/sandboxes/{sandbox}/fork", {"count": 1, "timeout": 300}).json[0]["sandbox"]["sandboxID"]
    assert node.internet[copy] is False
    assert service.ask("GET", f"/sandboxes/{copy}").json["network"]["denyOut"] == ["9.9.9.9"]
    refused(put({"allowOut": ["example.com"]}), 400, "denyOut")
    for body in ({"denyOut": ["example.com"]}, {"denyOut": ["1.2.3.4/33"]}, {"denyOut": "1.2.3.4"}, {"allowOut": [7]},
                 {"allowOut": ["a b"]}, {"denyOut": ["1.2.3"]}, {"rules": []}, {"rules": {"": []}},
                 {"rules": {"a.b": [{}, {}]}}, {"rules": {"a.b": [{"transform": {"headers": {"X": "a\r\nb"}}}]}},
                 {"allow_internet_access": "no"}, {"denyOut": ["1.1.1.1"] * 1001}):
        refused(put(body), 400)
    refused(put({"egressProxy": {"address": "a:1"}}), 403)
    refused(service.ask("POST", "/v2/sandboxes", {"templateID": "base", "network": {"denyOut": ["x"]}}), 400)
    refused(service.ask("PUT", f"/sandboxes/{UNKNOWN}/network", {}), 404)
    assert service.ask("POST", f"/sandboxes/{sandbox}/pause").status == 204
    refused(put({}), 409)
    for ended in (sandbox, plain):
        assert service.ask("DELETE", f"/sandboxes/{ended}").status == 204


def changes_of_networks_come_in_order(service, node):
    """The node is asked for one at a time, and one that fails takes nothing back but itself."""
    sandbox = service.create(timeout=600)
    asked = lambda: node.count("PUT", f"/{sandbox}/network")

    def begin(body):
        """A change that is under way, or waits: what came after it has been answered, twice."""
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
        connection.request("PUT", f"/sandboxes/{sandbox}/network", json.dumps(body), {"X-API-KEY": service.key})
        for _ in range(2):
            assert service.ask("GET", "/teams").status == 200
        return lambda: connection.getresponse().status

    def shown():
        return service.ask("GET", f"/sandboxes/{sandbox}").json

    with node.holding("network"):
        off, on = begin({"allow_internet_access": False}), begin({"allow_internet_access": True})
        until("the node is asked", asked)
        assert shown()["allowInternetAccess"] is False
    assert (off(), on(), asked()) == (204, 204, 2)
    assert node.internet[sandbox] is True and shown()["allowInternetAccess"] is True
    node.network_refuse = (500, {"code": 500, "message": "no"})
    with node.holding("network"):
        off, rules = begin({"allow_internet_access": False}), begin({"denyOut": ["9.9.9.9"]})
        until("the node is asked", lambda: asked() == 3)
    assert (off(), rules(), asked()) == (500, 500, 4)
    node.network_refuse = None
    assert node.internet[sandbox] is True and shown()["allowInternetAccess"] is True
    assert "denyOut" not in shown().get("network", {}), shown()
    # Of one that ends meanwhile.
    with node.holding("network"):
        off, on = begin({"allow_internet_access": False}), begin({"allow_internet_access": True})
        until("the node is asked", lambda: asked() == 5)
        assert service.ask("DELETE", f"/sandboxes/{sandbox}").status == 204
    assert (off(), on(), asked()) == (204, 404, 5)


# --- volumes ---

class Volume:
    def __init__(self, service, name):
        reply = service.ask("POST", "/volumes", {"name": name})
        assert reply.status == 201, reply.data
        self.service, self.id, self.token = service, reply.json["volumeID"], reply.json["token"]

    def ask(self, method, what, path, body=None, token=None, **query):
        query = urllib.parse.urlencode({"path": path, **query})
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return self.service.ask(method, f"/volumecontent/{self.id}/{what}?{query}", body, key=False, headers=headers)

    def put(self, path, data, **query):
        return self.ask("PUT", "file", path, data, **query)

    def names(self, path, **query):
        reply = self.ask("GET", "dir", path, **query)
        assert reply.status == 200, reply.data
        return sorted(entry["path"] for entry in reply.json)

    def refuses(self, reply, status, message=""):
        assert reply.status == status, f"status {reply.status}: {reply.data[:300]}"
        assert reply.json["code"] == str(status) and message in reply.json["message"], reply.data


def volumes(service, node):
    assert service.ask("GET", "/volumes").json == []
    volume = Volume(service, "data-1")
    assert service.ask("GET", "/volumes").json == [{"volumeID": volume.id, "name": "data-1"}]
    found = service.ask("GET", f"/volumes/{volume.id}")
    assert found.json == {"volumeID": volume.id, "name": "data-1", "token": volume.token}, found.data
    refused(service.ask("POST", "/volumes", {"name": "data-1"}), 400, "already exists")
    for name in ("", "a b", "../x", "a/b", "ä", "n" * 128, 7, None):
        refused(service.ask("POST", "/volumes", {"name": name}), 400)
    refused(service.ask("GET", "/volumes/nonsense"), 404)
    refused(service.ask("GET", "/volumes", key=False), 401)
    volume.put("a", b"1")
    service.end(signal.SIGKILL)
    service.start()
    assert volume.ask("GET", "file", "a").data == b"1", "gone with a crash"
    assert service.ask("DELETE", f"/volumes/{volume.id}").status == 204
    refused(service.ask("DELETE", f"/volumes/{volume.id}"), 404)
    volume.refuses(volume.ask("GET", "file", "a"), 404)
    until("its files go", lambda: not os.listdir(f"{service.data}/volumes"))
    assert service.ask("GET", "/volumes").json == []


def volume_content(service, node):
    volume = Volume(service, "content")
    refuses = volume.refuses
    root = volume.ask("GET", "path", "/").json
    assert (root["type"], root["path"], root["name"], root["mode"]) == ("directory", "/", "", 0o777), root
    made = volume.put("/hello.txt", b"hello", mode=0o600, uid=1000, gid=7)
    assert made.status == 201, made.data
    entry = made.json
    assert {key: entry[key] for key in ("name", "type", "path", "size", "mode", "uid", "gid")} == {
        "name": "hello.txt", "type": "file", "path": "/hello.txt", "size": 5, "mode": 0o600, "uid": 1000, "gid": 7}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["mtime"]), entry
    assert volume.ask("GET", "path", "hello.txt").json == entry
    got = volume.ask("GET", "file", "//hello.txt/")
    assert got.data == b"hello" and got.headers["Content-Type"] == "application/octet-stream", got.data
    refuses(volume.put("hello.txt", b"x"), 409, "already exists")
    assert volume.put("hello.txt", b"", force="true").json["size"] == 0
    assert volume.ask("GET", "file", "hello.txt").data == b""
    assert volume.ask("GET", "path", "hello.txt").json["mode"] == 0o666, "a new file, not the old one's mode"
    refuses(volume.put("no/such", b"x"), 404)
    refuses(volume.put("hello.txt/below", b"x"), 404)
    refuses(volume.ask("POST", "dir", "a/b/c"), 404)
    assert volume.ask("POST", "dir", "a/b/c", force="true", mode=0o700).json["mode"] == 0o700
    assert volume.ask("POST", "dir", "a/b/c", force="true").status == 201
    refuses(volume.ask("POST", "dir", "a/b/c"), 409)
    refuses(volume.ask("POST", "dir", "hello.txt", force="true"), 409)
    refuses(volume.put("a/b", b"x", force="true"), 409, "is a directory")
    assert volume.names("/") == ["/a", "/hello.txt"]
    assert volume.names("/", depth=2) == ["/a", "/a/b", "/hello.txt"]
    assert volume.names("/a", depth=9) == ["/a/b", "/a/b/c"]
    refuses(volume.ask("GET", "dir", "hello.txt"), 404)
    refuses(volume.ask("GET", "file", "a"), 404)
    changed = volume.ask("PATCH", "path", "a/b", {"uid": 5, "mode": 0o751})
    assert (changed.json["uid"], changed.json["gid"], changed.json["mode"]) == (5, 0, 0o751), changed.data
    for body in (b"{", {"mode": -1}, {"mode": 0o10000}, {"uid": "x"}, {"uid": 2 ** 32}):
        refuses(volume.ask("PATCH", "path", "a/b", body), 400)
    refuses(volume.ask("PATCH", "path", "a/nothing", {"uid": 1}), 404)
    assert volume.ask("DELETE", "path", "a").status == 204
    refuses(volume.ask("DELETE", "path", "a"), 404)
    refuses(volume.ask("DELETE", "path", "/"), 400)
    refuses(volume.ask("GET", "path", "a/b"), 404)
    refuses(volume.ask("POST", "file", "x"), 405)
    refuses(volume.ask("GET", "nothing", "x"), 404)


def volume_guards(service, node):
    volume, other = Volume(service, "mine"), Volume(service, "other")
    refuses = volume.refuses
    volume.put("secret", b"s")
    refuses(volume.ask("GET", "file", "secret", token=other.token), 401)
    refuses(volume.ask("GET", "file", "secret", token="x"), 401)
    refuses(service.ask("GET", f"/volumecontent/{volume.id}/file?path=secret", key=True), 401)
    refuses(service.ask("GET", f"/volumecontent/{UNKNOWN}/file?path=x", headers={"Authorization": "Bearer x"}), 404)
    place = f"{service.data}/volumes/{volume.id}/files"
    for path in ("../x", "a/../../x", "..", "n" * 256, "/".join(["d"] * 2000), "", b"\xff", "a/.."):
        refuses(volume.ask("GET", "file", path), 400)
    refuses(service.ask("GET", f"/volumecontent/{volume.id}/file", key=False,
                        headers={"Authorization": f"Bearer {volume.token}"}), 400)
    # Links can only come from elsewhere, and lead nowhere.
    os.symlink("/etc", f"{place}/out")
    os.symlink("secret", f"{place}/in")
    os.symlink("/etc/passwd", f"{place}/file")
    os.mkfifo(f"{place}/pipe")
    link = volume.ask("GET", "path", "out").json
    assert (link["type"], link["target"]) == ("symlink", "/etc"), link
    for path in ("out/passwd", "in", "file", "out/."):
        assert volume.ask("GET", "file", path).status in (400, 404), path
    for path in ("out", "out/ssl"):
        assert volume.ask("GET", "dir", path).status in (400, 404), path
    assert volume.ask("GET", "file", "pipe").status == 404
    assert volume.put("out/atoll-test", b"x").status in (400, 404)
    assert volume.ask("POST", "dir", "out/atoll-test", force="true").status in (400, 404, 409)
    assert not os.path.exists("/etc/atoll-test")
    assert volume.ask("PATCH", "path", "file", {"mode": 0}).status == 400
    assert volume.put("file", b"mine", force="true").status == 201, "a link is replaced, not followed"
    assert volume.ask("GET", "file", "file").data == b"mine"
    assert volume.ask("DELETE", "path", "out").status == 204
    assert os.path.isdir("/etc")
    refuses(volume.put("x", b"x", mode=0o10000), 400)
    refuses(volume.put("x", b"x", uid="-1"), 400)
    refuses(volume.put("x", b"x", force="maybe"), 400)


def resident(service):
    with open(f"/proc/{service.process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])


def volume_streams(service, node):
    volume = Volume(service, "large")
    block = os.urandom(1 << 20)
    size = 96

    def send(path, count, torn=False, force="false"):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        connection.putrequest("PUT", f"/volumecontent/{volume.id}/file?path={path}&force={force}")
        connection.putheader("Authorization", f"Bearer {volume.token}")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        try:
            for _ in range(count):
                connection.send(b"%x\r\n" % len(block) + block + b"\r\n")
            if torn:
                return None
            connection.send(b"0\r\n\r\n")
            return connection.getresponse().status
        except (BrokenPipeError, ConnectionResetError):
            return 507
        finally:
            connection.close()

    before = resident(service)
    assert send("big", size) == 201
    assert resident(service) - before < 32 << 10, "an upload is kept in memory"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("GET", f"/volumecontent/{volume.id}/file?path=big",
                       headers={"Authorization": f"Bearer {volume.token}"})
    reply = connection.getresponse()
    time.sleep(0.3)
    assert resident(service) - before < 32 << 10, "a download is kept in memory"
    for _ in range(size):
        assert reply.read(1 << 20) == block
    connection.close()
    assert send("torn", 3, torn=True) is None
    uploads = f"{service.data}/volumes/{volume.id}/uploads"
    until("what a client left is removed", lambda: not os.listdir(uploads))
    volume.refuses(volume.ask("GET", "path", "torn"), 404)
    # 200 MiB is what the tests allow (Service.start).
    volume.refuses(volume.put("more", b"\0" * (110 << 20)), 507, "may use 200 MiB")
    assert send("more", 110) == 507
    assert send("big", 90, force="true") == 201, "the reserve of a failed upload is kept"
    assert volume.ask("DELETE", "path", "big").status == 204
    assert send("other", 120) == 201, "a deleted file still counts"
    assert volume.names("/") == ["/other"]


def scrape(service):
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{service.directory}/metrics.sock")
    connection.request("GET", "/metrics")
    reply = connection.getresponse()
    assert reply.status == 200 and reply.headers["Content-Type"].startswith("text/plain")
    text = reply.read().decode()
    connection.close()
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = re.fullmatch(r'([a-z_]+(?:\{(?:[a-z]+="[^"]*",?)+\})?) ([0-9.e+-]+)', line).groups()
            assert name not in found, f"{name} is there twice"
            found[name] = float(value)
            assert f"# TYPE {re.sub('(_bucket|_sum|_count)?({.*)?$', '', name)} " in text, name
    return found


def request_ids(service, node):
    reply = service.ask("GET", "/v2/sandboxes")
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["X-Request-Id"])
    reply = service.ask("POST", "/v2/sandboxes", {"templateID": "base"}, headers={"X-Request-Id": "mine-1.a_B"})
    assert reply.status == 201 and reply.headers["X-Request-Id"] == "mine-1.a_B"
    assert node.request_ids[-1] == "mine-1.a_B"
    for wrong in ("", "a b", "x" * 65, 'a"b', "a=b"):
        reply = service.ask("GET", "/v2/sandboxes", headers={"X-Request-Id": wrong})
        assert re.fullmatch("[0-9a-f]{32}", reply.headers["X-Request-Id"]), wrong
    assert service.ask("GET", "/nowhere", headers={"X-Request-Id": "lost"}).headers["X-Request-Id"] == "lost"
    # A request is logged when it has ended, which its client may see first.
    for line in (r"request id=mine-1\.a_B method=POST route=/sandboxes status=201 ms=\d+ team=\S+\n",
                 r"request id=lost method=GET route=none status=404 ms=\d+ team=-\n"):
        until("the line of a request", lambda wanted=line: re.search(wanted, service.logged().decode()))


def figures(service, node):
    assert os.stat(f"{service.directory}/metrics.sock").st_mode & 0o7 == 0, "anyone can read them"
    lost = 'atoll_api_requests_total{method="GET",route="none",status="404"}'
    label = 'method="GET",route="/sandboxes/*"'
    before = scrape(service)
    service.ask("GET", "/nowhere")
    sandbox = service.create()
    for _ in range(3):
        service.ask("GET", f"/sandboxes/{sandbox}")
    after = scrape(service)
    assert after[lost] == before.get(lost, 0) + 1, after
    count = f"atoll_api_request_seconds_count{{{label}}}"
    assert after[count] == before.get(count, 0) + 3
    buckets = [after[f'atoll_api_request_seconds_bucket{{{label},le="{bound}"}}'] for bound in ("0.005", "1", "+Inf")]
    assert buckets == sorted(buckets) and buckets[-1] == after[count], buckets
    assert after['atoll_api_sandboxes{state="running"}'] >= 1
    assert after["atoll_api_connections"] >= 0
    assert after["atoll_node_up"] == 1 and after["atoll_node_creates_total"] == len(node.created)
    assert after["atoll_node_sandboxes_running"] == 3 and len([n for n in after if n.startswith("atoll_node")]) == 3
    node.kill()
    try:
        assert scrape(service)["atoll_node_up"] == 0
    finally:
        node.start()
    until("the service answers", lambda: service.ask("GET", "/templates").status == 200)
    refused(service.ask("GET", "/metrics"), 404)


CHECKS = [request_ids, figures, metrics, logs, networks, changes_of_networks_come_in_order, volumes, volume_content,
          volume_guards, volume_streams]
