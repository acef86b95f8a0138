"""Checks of tests/integration/api: volumes that sandboxes have mounted. What the agent in the guest would ask for is
asked for here, over the monitor's socket (src/volume/volume.h)."""
import errno
import os
import signal
import stat
import struct
import time

from api_data import Volume, refused
from api_double import PATIENCE, until

HEAD = struct.Struct("<IIHHIIIIIQqqIHH")
REPLY = struct.Struct("<IIII QQQqqq IIII")
ENTRY = struct.Struct("<QQII")
(STAT, SET, READLINK, SYMLINK, MKDIR, CREATE, UNLINK, RMDIR, RENAME, READ, WRITE, READDIR, SPACE, SYNC) = range(1, 15)
AGAIN, NOREPLACE = 1, 2
BY_MODE, BY_SIZE, BY_MTIME = 1, 8, 32


class Agent:
    """The newest connection for one mount of a sandbox."""

    def __init__(self, node, sandbox, index=0):
        all_ = node.monitors[sandbox].volume_connections
        until("atoll-api connects", lambda: all_.get(index))
        self.connection, self.over = all_[index].pop()
        self.connection.settimeout(PATIENCE)
        self.tag, self.stash = 0, {}

    def send(self, op, path=b"", other=b"", data=b"", flags=0, valid=0, mode=0, uid=0, gid=0, count=0, offset=0,
             mtime=0):
        path, other = (os.fsencode(text) for text in (path, other))
        self.tag += 1
        self.connection.sendall(HEAD.pack(HEAD.size + len(path) + len(other) + len(data), self.tag, op, flags, valid,
                                          mode, uid, gid, count, offset, 0, mtime, len(data), len(path), len(other))
                                + path + other + data)
        return self.tag

    def bytes(self, size):
        data = b""
        while len(data) < size:
            piece = self.connection.recv(size - len(data))
            assert piece, "the connection ended"
            data += piece
        return data

    def receive(self, tag):
        while tag not in self.stash:
            head = REPLY.unpack(self.bytes(REPLY.size))
            assert head[0] == REPLY.size + head[3]
            self.stash[head[1]] = head[2], head[4:], self.bytes(head[3])
        return self.stash.pop(tag)

    def do(self, op, path=b"", other=b"", data=b"", fails=0, **more):
        code, attributes, answer = self.receive(self.send(op, path, other, data, **more))
        assert code == fails, f"{op} {path!r}: {errno.errorcode.get(code, code)}"
        return answer if op in (READLINK, READ, READDIR, SPACE) else attributes

    def names(self, path=b"", count=65536):
        names, at = [], 0
        while data := self.do(READDIR, path, count=count, offset=at):
            while data:
                _, at, _, size = ENTRY.unpack_from(data)
                names.append(os.fsdecode(data[ENTRY.size:ENTRY.size + size]))
                data = data[ENTRY.size + size:]
        return sorted(names)

    def ended(self):
        try:
            return self.connection.recv(1) == b""
        except ConnectionError:
            return True

    def close(self):
        self.connection.close()
        self.over.set()


def mounting(service, volume, path="/data", **more):
    return service.create(timeout=600, volumeMounts=[{"name": volume.name, "path": path}], **more)


def new_volume(service, name):
    volume = Volume(service, name)
    volume.name = name
    return volume


def other_team(service):
    with open(f"{service.data}/admin-token") as file:
        token = file.read().strip()
    reply = service.ask("POST", "/admin/teams", {"name": "others"}, key=False, headers={"X-Admin-Token": token})
    assert reply.status == 201, reply.data
    return reply.json["apiKey"]["key"]


def mounts_are_checked(service, node):
    volume = new_volume(service, "checked")
    key = other_team(service)
    assert service.ask("POST", "/volumes", {"name": "of-others"}, key=key).status == 201
    before = len(node.created)
    for mounts, message in (
            ([("of-others", "/a")], "invalid mounts:\n\t- volume mount #0: volume 'of-others' not found"),
            ([("checked", "")], "#0: path cannot be empty"), ([("checked", "data")], "#0: path must be absolute"),
            ([("checked", "/a/../b")], "#0: path must not contain any '.' or '..' components"),
            ([("checked", "/a/")], "#0: path must not contain"), ([("checked", "//a")], "#0: path must not contain"),
            ([("checked", "/")], "root"), ([("checked", "/" + "n" * 256)], "255"), ([("checked", "/a" * 600)], "1023"),
            ([("checked", "/a\nb")], "control"), ([(volume.id, "/a")], "not found"), ([("' OR 1 --", "/a")], "not found"),
            ([("checked", "/a"), ("checked", "/a")], "invalid mounts:\n\t- volume mount #1: path '/a' is already used"),
            ([("x", "/a"), ("checked", "/b"), ("y", "")],
             "invalid mounts:\n\t- volume mount #0: volume 'x' not found\n\t- volume mount #2: volume 'y' not found"),
            ([("x" * 500, "/a")], "not found"), ([("x", "/a")] * 16, "not found"),
            ([("checked", f"/{i}") for i in range(17)], "at most 16")):
        body = {"templateID": "base", "volumeMounts": [{"name": name, "path": path} for name, path in mounts]}
        refused(service.ask("POST", "/sandboxes", body), 400, message)
    for mounts in ("x", {}, ["x"], [{}], [{"name": "checked"}], [{"name": 1, "path": "/a"}], [None]):
        refused(service.ask("POST", "/sandboxes", {"templateID": "base", "volumeMounts": mounts}), 400)
    refused(service.ask("POST", "/sandboxes", {"templateID": "base", "volumeMounts": [{"name": "checked", "path": "/a"}]},
                        key=key), 400, "volume 'checked' not found")
    assert len(node.created) == before, "the node was asked"


def mounts_are_kept(service, node):
    volume, second = new_volume(service, "kept"), new_volume(service, "kept-2")
    shown = [{"name": "kept", "path": "/data"}, {"name": "kept-2", "path": "/srv/b"}]
    told = [{"volume_id": volume.id, "path": "/data"}, {"volume_id": second.id, "path": "/srv/b"}]
    sandbox = service.create(timeout=600, volumeMounts=shown)
    assert node.created[sandbox]["volume_mounts"] == told
    plain = service.create(volumeMounts=[])
    assert "volume_mounts" not in node.created[plain]

    def check(sandbox):
        assert service.ask("GET", f"/sandboxes/{sandbox}").json["volumeMounts"] == shown
        rows = service.ask("GET", "/v2/sandboxes").json
        assert [row["volumeMounts"] for row in rows if row["sandboxID"] == sandbox] == [shown]
    check(sandbox)
    Agent(node, sandbox, 0).do(CREATE, "one", mode=0o600)
    Agent(node, sandbox, 1).do(CREATE, "two", mode=0o600)
    assert (volume.names("/"), second.names("/")) == (["/one"], ["/two"])
    forked = service.ask("POST", f"/sandboxes/{sandbox}/fork", {"count": 1, "timeout": 600}).json[0]["sandbox"]["sandboxID"]
    assert node.created[forked]["volume_mounts"] == told
    check(forked)
    assert Agent(node, forked, 1).names() == ["two"]

    agent = Agent(node, plain_resumed(service, node, sandbox), 0)
    check(sandbox)
    assert agent.names() == ["one"]
    service.end(signal.SIGKILL)
    assert agent.ended()
    service.start()
    assert Agent(node, sandbox, 0).names() == ["one"]
    check(sandbox)
    for one in (sandbox, forked, plain):
        assert service.ask("DELETE", f"/sandboxes/{one}").status == 204


def plain_resumed(service, node, sandbox):
    """Paused and resumed, with the connections of before being left over."""
    connections = node.monitors[sandbox].volume_connections
    assert service.ask("POST", f"/sandboxes/{sandbox}/pause").status == 204
    connections.clear()
    assert service.ask("POST", f"/v2/sandboxes/{sandbox}/connect", {"timeout": 600}).status == 201
    return sandbox


def mounted_files(service, node):
    volume = new_volume(service, "files")
    sandbox = mounting(service, volume)
    agent = Agent(node, sandbox)
    assert node.monitors[sandbox].handshakes.count(f"VOLUME {volume.id}") == 1, "it is connected to at once, at the first try"
    root = agent.do(STAT)
    assert (stat.S_ISDIR(root[6]), stat.S_IMODE(root[6]), root[8:]) == (True, 0o777, (0, 0))
    made = agent.do(CREATE, "a.txt", mode=0o640, uid=1000, gid=1001)
    assert (made[6], made[8], made[9], made[1]) == (stat.S_IFREG | 0o640, 1000, 1001, 0) and made[0]
    agent.do(CREATE, "a.txt", fails=errno.EEXIST)
    assert agent.do(CREATE, "a.txt", flags=AGAIN)[0] == made[0]
    agent.do(WRITE, "a.txt", data=b"hello")
    agent.do(WRITE, "a.txt", data=b"world", offset=10)
    agent.do(CREATE, "a.txt", flags=AGAIN, fails=errno.EEXIST)
    assert agent.do(READ, "a.txt", count=100) == b"hello" + bytes(5) + b"world"
    assert agent.do(READ, "a.txt", count=3, offset=4) == b"o\0\0" and agent.do(READ, "a.txt", count=9, offset=99) == b""
    assert volume.ask("GET", "file", "a.txt").data == b"hello" + bytes(5) + b"world"
    entry = volume.ask("GET", "path", "a.txt").json
    assert (entry["size"], entry["mode"], entry["uid"], entry["gid"]) == (15, 0o640, 1000, 1001)
    now = agent.do(SET, "a.txt", valid=BY_MODE | BY_SIZE | BY_MTIME, mode=0o4755, offset=5, mtime=1_500_000_000_000_000_007)
    assert (now[1], stat.S_IMODE(now[6]), now[4], now[8]) == (5, 0o4755, 1_500_000_000_000_000_007, 1000)
    place = f"{service.data}/volumes/{volume.id}/files"
    assert stat.S_IMODE(os.stat(f"{place}/a.txt").st_mode) == 0o600, "a guest's mode reached the host"
    assert volume.put("b.txt", b"from outside", mode=0o604, uid=5).status == 201
    seen = agent.do(STAT, "b.txt")
    assert (seen[1], stat.S_IMODE(seen[6]), seen[8], seen[0]) == (12, 0o604, 5, os.stat(f"{place}/b.txt").st_ino)

    agent.do(MKDIR, "d", mode=0o700, uid=7)
    agent.do(MKDIR, "d/e", mode=0o700)
    agent.do(RMDIR, "d", fails=errno.ENOTEMPTY)
    agent.do(UNLINK, "d", fails=errno.EISDIR)
    agent.do(RMDIR, "a.txt", fails=errno.ENOTDIR)
    agent.do(RENAME, "a.txt", "d/e/c", flags=0)
    agent.do(RENAME, "a.txt", "d/e/c", flags=AGAIN)
    agent.do(RENAME, "b.txt", "d/e/c", flags=NOREPLACE, fails=errno.EEXIST)
    agent.do(RENAME, "d", "d/e/f", fails=errno.EINVAL)
    agent.do(RENAME, "d", "moved")
    assert volume.names("/", depth=3) == ["/b.txt", "/moved", "/moved/e", "/moved/e/c"]
    agent.do(RENAME, "b.txt", "moved/e/c")
    assert agent.do(READ, "moved/e/c", count=100) == b"from outside"
    agent.do(UNLINK, "moved/e/c")
    agent.do(UNLINK, "moved/e/c", flags=AGAIN)
    agent.do(UNLINK, "moved/e/c", fails=errno.ENOENT)
    agent.do(SYMLINK, "link", "/etc/passwd")
    assert agent.do(READLINK, "link") == b"/etc/passwd" and agent.do(STAT, "link")[6] == stat.S_IFLNK | 0o777
    agent.do(READ, "link", count=10, fails=errno.ELOOP)
    agent.do(SET, "link", valid=BY_SIZE, fails=errno.ELOOP)
    assert volume.ask("GET", "file", "link").status == 400
    agent.do(SYNC, "moved")
    agent.do(SYNC)
    for i in range(300):
        agent.do(CREATE, f"moved/e/{i}", mode=0o600)
    agent.do(CREATE, b"moved/e/\xff", mode=0o600)
    names = sorted([str(i) for i in range(300)] + ["\udcff"])
    assert agent.names("moved/e", count=200) == names == agent.names("moved/e")
    assert len(volume.names("/moved/e")) == 300, "what is no UTF-8 cannot be told"

    for path in ("../x", "/etc", "moved/../../x", ".", "moved//e", "moved/e/", "moved/./e", "\x01/.."):
        agent.do(STAT, path, fails=errno.EINVAL)
    agent.do(RENAME, "moved", "../moved", fails=errno.EINVAL)
    agent.do(SYMLINK, "out", "../..")
    agent.do(CREATE, "out/x", mode=0o600, fails=errno.ENOTDIR)
    agent.do(RENAME, "moved", "out/moved", fails=errno.ENOTDIR)
    agent.do(READDIR, "out", count=4096, fails=errno.ENOTDIR)
    agent.do(STAT, "n" * 256, fails=errno.ENAMETOOLONG)
    agent.do(STAT, "/".join(["d"] * 1536) + "x", fails=errno.ENAMETOOLONG)
    agent.do(READ, "moved/e/1", count=1 << 20, fails=errno.EINVAL)
    service.ask("DELETE", f"/sandboxes/{sandbox}")


def mounted_quota(service, node):
    """Of 200 MiB, as the content API has it."""
    volume = new_volume(service, "quota")
    sandbox = mounting(service, volume)
    agent = Agent(node, sandbox)
    size, free = struct.unpack("<QQ", agent.do(SPACE))
    assert size == 200 << 20 and 0 < free <= size
    agent.do(CREATE, "big", mode=0o600)
    agent.do(SET, "big", valid=BY_SIZE, offset=199 << 20)
    agent.do(SET, "big", valid=BY_SIZE, offset=201 << 20, fails=errno.ENOSPC)
    agent.do(WRITE, "big", data=b"x", offset=300 << 20, fails=errno.ENOSPC)
    agent.do(WRITE, "big", data=b"x", offset=(1 << 63) - 1, fails=errno.EFBIG)
    agent.do(SET, "big", valid=BY_SIZE, offset=1 << 63, fails=errno.EFBIG)
    assert volume.put("more", bytes(2 << 20)).status == 507
    for i in range(300):
        code = agent.receive(agent.send(CREATE, f"f{i}", mode=0o600))[0]
        if code:
            break
    assert code == errno.ENOSPC and 200 < i < 260, i
    agent.do(SYMLINK, "l", "x", fails=errno.ENOSPC)
    agent.do(MKDIR, "m", fails=errno.ENOSPC)
    agent.do(UNLINK, "f0")
    agent.do(MKDIR, "m")
    agent.do(RENAME, "f1", "big")
    assert struct.unpack("<QQ", agent.do(SPACE))[1] > 198 << 20
    assert volume.put("more", bytes(2 << 20)).status == 201
    service.ask("DELETE", f"/sandboxes/{sandbox}")


def mounts_are_served_again(service, node):
    volume = new_volume(service, "again")
    sandbox = mounting(service, volume)
    agent = Agent(node, sandbox)
    agent.do(CREATE, "x", mode=0o600)
    # Many writes that are not waited for, and a connection that is cut: what is sent again is what stays.
    for i in range(200):
        agent.send(WRITE, "x", data=b"%05d" % i)
    agent.close()
    agent = Agent(node, sandbox)
    agent.do(WRITE, "x", data=b"again", flags=AGAIN)
    time.sleep(0.2)
    assert agent.do(READ, "x", count=10) == b"again"
    for bad in (HEAD.pack(HEAD.size + 1, *[0] * 14) + b"x", HEAD.pack(HEAD.size, 1, 99, *[0] * 12),
                HEAD.pack(HEAD.size + 3, 1, STAT, *[0] * 10, 3, 0) + b"a\0b", b"\xff" * 100):
        agent.connection.sendall(bad)
        assert agent.ended(), "nonsense was taken"
        agent.close()
        agent = Agent(node, sandbox)
        assert agent.names() == ["x"]
    # An agent that asks for much and takes nothing.
    agent.do(SET, "x", valid=BY_SIZE, offset=1 << 20)
    agent.connection.settimeout(2)
    sent = 0
    try:
        for sent in range(100000):
            agent.send(READ, "x", count=131072)
    except TimeoutError:
        pass
    assert sent < 99999, "all was taken"
    with open(f"/proc/{service.process.pid}/statm") as file:
        resident = int(file.read().split()[1]) * 4096
    assert resident < 400 << 20, resident
    # One that has another volume there than it should, when it is connected to again.
    right = node.monitors[sandbox].volumes
    node.monitors[sandbox].volumes = ["another"]
    handshakes = node.monitors[sandbox].handshakes
    before = len(handshakes)
    agent.close()
    until("it is tried", lambda: handshakes[before:].count(f"VOLUME {volume.id}") >= 2)
    node.monitors[sandbox].volumes = right
    agent = Agent(node, sandbox)
    assert agent.names() == ["x"]
    assert service.ask("DELETE", f"/sandboxes/{sandbox}").status == 204
    agent.close()
    before = len(handshakes)
    time.sleep(0.5)
    assert len(handshakes) == before, "a sandbox that is gone is tried on"


def mounted_volume_is_deleted(service, node):
    volume = new_volume(service, "doomed")
    sandbox, second = mounting(service, volume), mounting(service, volume)
    agent = Agent(node, sandbox)
    agent.do(CREATE, "x", mode=0o600)
    assert Agent(node, second).names() == ["x"]
    assert service.ask("DELETE", f"/volumes/{volume.id}").status == 204
    for op in (STAT, READ, WRITE, CREATE, READDIR, SPACE):
        agent.do(op, "x", count=4096, fails=errno.ESTALE)
    assert service.ask("GET", f"/sandboxes/{sandbox}").json["volumeMounts"] == [{"name": "doomed", "path": "/data"}]
    plain_resumed(service, node, sandbox)
    agent = Agent(node, sandbox)
    agent.do(CREATE, "y", fails=errno.ESTALE)
    service.end(signal.SIGTERM)
    service.start()
    Agent(node, sandbox).do(STAT, fails=errno.ESTALE)
    until("its files are gone", lambda: not [name for name in os.listdir(f"{service.data}/volumes") if volume.id in name])
    for one in (sandbox, second):
        service.ask("DELETE", f"/sandboxes/{one}")


def hidden_files_go(service, node):
    """Files that lost their names while they were open, of guests that cannot come to remove them."""
    hidden = ".atoll-hidden-0123456789abcdef"
    volume, other = new_volume(service, "hidden"), new_volume(service, "not-hidden")
    place = f"{service.data}/volumes/{volume.id}/files"
    first, second = mounting(service, volume), mounting(service, volume)

    def hide(sandbox, directory):
        agent = Agent(node, sandbox)
        agent.do(MKDIR, directory, mode=0o700)
        agent.do(CREATE, f"{directory}/x", mode=0o600)
        agent.do(WRITE, f"{directory}/x", data=b"open")
        agent.do(CREATE, f"{directory}/kept", mode=0o600)
        agent.do(RENAME, f"{directory}/x", f"{directory}/{hidden}")
        return agent

    def compared():
        """All that the API does with the node's word has been done with one that is newer than now."""
        asked = node.count("GET", "/v1/sandboxes")
        until("it asks twice", lambda: node.count("GET", "/v1/sandboxes") >= asked + 2)

    hide(first, "a")
    hide(second, "b")
    assert service.ask("POST", f"/sandboxes/{second}/pause").status == 204
    assert service.ask("DELETE", f"/sandboxes/{first}").status == 204
    compared()
    assert os.path.exists(f"{place}/a/{hidden}") and os.path.exists(f"{place}/b/{hidden}"), "one that sleeps has it open"
    node.monitors[second].volume_connections.clear()
    assert service.ask("POST", f"/v2/sandboxes/{second}/connect", {"timeout": 600}).status == 201
    assert Agent(node, second).do(READ, f"b/{hidden}", count=9) == b"open"
    assert service.ask("DELETE", f"/sandboxes/{second}").status == 204
    until("they are removed", lambda: sorted(os.listdir(f"{place}/a") + os.listdir(f"{place}/b")) == ["kept", "kept"])
    assert volume.names("/", depth=2) == ["/a", "/a/kept", "/b", "/b/kept"]

    # Of one that ends while the API is away.
    third, elsewhere = mounting(service, volume), mounting(service, other)
    hide(third, "c")
    service.end(signal.SIGKILL)
    node.end(third)
    service.start()
    until("it is removed", lambda: os.listdir(f"{place}/c") == ["kept"])
    assert service.ask("DELETE", f"/sandboxes/{elsewhere}").status == 204


CHECKS = [mounts_are_checked, mounts_are_kept, mounted_files, mounted_quota, mounts_are_served_again,
          mounted_volume_is_deleted, hidden_files_go]
