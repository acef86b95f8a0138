"""The machines that tests/bench/peers measures: how each monitor boots, saves and restores the same guest."""
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time

MEMORY_MIB = 256
AGENT_PORT = 1024
COMMAND_LINE = ("console=ttyS0 reboot=k panic=-1 quiet loglevel=3 no_timer_check tsc=reliable "
                "random.trust_cpu=on 8250.nr_uarts=1")
DEADLINE = 60  # seconds


class Broken(Exception):
    """A machine did not do what was asked of it."""


def now():
    return time.monotonic_ns() / 1e6


def read_http(stream):
    """Status, and body where its length is told, of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = stream.recv(65536)
        if not part:
            raise OSError("the connection ended within an answer")
        data += part
    head, body = data.split(b"\r\n\r\n", 1)
    size = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    while len(body) < size:
        part = stream.recv(65536)
        if not part:
            break
        body += part
    return int(head.split()[1]), body


def request(stream, method, path, body=None):
    text = json.dumps(body) if body is not None else ""
    stream.sendall((f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(text)}\r\n\r\n{text}").encode())
    status, answer = read_http(stream)
    if status >= 300:
        raise Broken(f"{method} {path}: {status} {answer.decode(errors='replace')}")


def connect_unix(path, seconds=DEADLINE):
    """To a socket that may not be there yet."""
    end = time.monotonic() + seconds
    while True:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(DEADLINE)
        try:
            stream.connect(path)
            return stream
        except OSError:
            stream.close()
            if time.monotonic() > end:
                raise Broken(f"nothing listens at {path}") from None
            time.sleep(0.0005)


class Process:
    """A monitor with its console on a pipe."""

    def __init__(self, argv, log, pass_fds=()):
        self.log = log
        reading, writing = os.pipe()
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, writing, 1),
                   (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)]
        for fd in pass_fds:
            os.set_inheritable(fd, True)
        self.started = now()
        self.pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
        os.close(writing)
        self.console = reading
        self.output = b""

    def wait_for(self, mark):
        """Until the guest has printed it; when that was."""
        while mark not in self.output:
            if not select.select([self.console], [], [], DEADLINE)[0]:
                raise Broken(f"the guest has printed nothing for {DEADLINE} s but {self.told()}")
            part = os.read(self.console, 65536)
            self.output += part
            if not part:
                with open(self.log, encoding="utf-8", errors="replace") as log:
                    raise Broken(f"the monitor ended: {self.told()} {log.read()[:600].strip()}")
        return now()

    def wait_tick(self):
        return self.wait_for(b".")

    def told(self):
        return self.output.decode(errors="replace")[-300:]

    def drain(self):
        """Forget what the console said so far: a full pipe would stop a monitor."""
        self.output = b""
        os.set_blocking(self.console, False)
        try:
            while os.read(self.console, 65536):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(self.console, True)

    def private_kib(self, memory_file):
        """Private memory beside the guest's: its mapping is the one of the memory file or as large as it."""
        total = 0
        skip = False
        with open(f"/proc/{self.pid}/smaps", encoding="ascii") as maps:
            for line in maps:
                words = line.split()
                if not words[0].endswith(":"):
                    start, end = (int(word, 16) for word in words[0].split("-"))
                    skip = end - start >= MEMORY_MIB << 20 or (memory_file and line.endswith(f"{memory_file}\n"))
                elif not skip and words[0] in ("Private_Clean:", "Private_Dirty:"):
                    total += int(words[1])
        return total

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.console)


def ask_agent(connect):
    """GET /health until it is answered; when that was."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with connect() as stream:
                request(stream, "GET", "/health")
                return now()
        except OSError as error:
            if time.monotonic() > end:
                raise Broken(f"the agent does not answer: {error}") from None
            time.sleep(0.001)


def connect_hybrid(path):
    """Firecracker's way to a port of the guest: a line on the monitor's socket."""
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(5)
    try:
        stream.connect(path)
        stream.sendall(b"CONNECT %d\n" % AGENT_PORT)
        answer = b""
        while not answer.endswith(b"\n"):
            part = stream.recv(1)
            if not part:
                raise OSError("the guest refused the connection")
            answer += part
        return stream
    except OSError:
        stream.close()
        raise


def connect_vsock(cid):
    """vhost-vsock's way."""
    stream = socket.socket(socket.AF_VSOCK)
    stream.settimeout(5)
    try:
        stream.connect((cid, AGENT_PORT))
        return stream
    except OSError:
        stream.close()
        raise


class Micro:
    """atoll-vmm, and Firecracker, which has the same API."""

    def __init__(self, name, program, work, kernel, initrd, arguments=""):
        self.program = program
        self.dir = os.path.join(work, name)
        os.makedirs(self.dir)
        self.memory_file = self.path("memory")
        self.log = self.path("log")
        self.count = 0
        with open(self.path("config.json"), "w", encoding="ascii") as file:
            json.dump({"machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
                       "boot-source": {"kernel_image_path": kernel, "initrd_path": initrd,
                                       "boot_args": COMMAND_LINE + arguments},
                       "vsock": {"guest_cid": 3, "uds_path": self.path("vsock")}, "drives": []}, file)

    def path(self, name):
        return os.path.join(self.dir, name)

    def connect(self):
        return connect_hybrid(self.path("vsock"))

    def wait_agent(self, process):
        del process
        return ask_agent(self.connect)

    def start(self, *options):
        for name in ("vsock", "api"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        self.count += 1
        return Process([self.program, "--id", f"bench-{self.count}", "--api-sock", self.path("api"), *options],
                       self.log)

    def boot(self):
        return self.start("--config-file", self.path("config.json"))

    def api(self, *calls):
        with connect_unix(self.path("api")) as stream:
            for method, path, body in calls:
                request(stream, method, path, body)

    def save(self):
        process = self.boot()
        try:
            process.wait_tick()
            ask_agent(self.connect)
            process.drain()
            self.api(("PATCH", "/vm", {"state": "Paused"}),
                     ("PUT", "/snapshot/create", {"snapshot_type": "Full", "snapshot_path": self.path("state"),
                                                  "mem_file_path": self.memory_file}))
        finally:
            process.end()

    def load(self, working_set=None):
        body = {"snapshot_path": self.path("state"), "resume_vm": True,
                "mem_backend": {"backend_type": "File", "backend_path": self.memory_file}}
        if working_set:
            body["working_set_path"] = working_set
        self.api(("PUT", "/snapshot/load", body))

    def restore(self):
        process = self.start()
        self.load()
        return process

    def prepare(self, *options):
        process = self.start(*options)
        connect_unix(self.path("api")).close()
        return process

    def record(self, options=()):
        """The pages that a restored machine needs until its agent has answered."""
        process = self.start(*options)
        try:
            self.load()
            process.wait_tick()
            ask_agent(self.connect)
            self.api(("PUT", "/snapshot/working-set", {"working_set_path": self.path("working-set")}))
        finally:
            process.end()
        return self.path("working-set")


class Qemu:
    """QEMU's microvm: from a migration stream, or with the memory in a file that is mapped."""

    def __init__(self, name, program, work, kernel, initrd, cid, mapped):
        self.dir = os.path.join(work, name)
        os.makedirs(self.dir)
        self.stream = self.path("stream")
        self.cid = cid
        self.mapped = mapped
        self.memory_file = self.path("memory") if mapped else None
        self.log = self.path("log")
        self.common = [program, "-M", "microvm,x-option-roms=off,acpi=off,rtc=off,memory-backend=ram", "-accel", "kvm",
                       "-cpu", "host", "-smp", "1", "-m", f"{MEMORY_MIB}M", "-nodefaults", "-no-user-config",
                       "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
                       "-append", COMMAND_LINE, "-global", "virtio-mmio.force-legacy=false",
                       "-device", f"vhost-vsock-device,guest-cid={cid}"]

    def path(self, name):
        return os.path.join(self.dir, name)

    def connect(self):
        return connect_vsock(self.cid)

    def wait_agent(self, process):
        del process
        return ask_agent(self.connect)

    def backend(self, saving):
        """What is saved goes to a shared mapping of the file; what is restored has a private one."""
        if not self.mapped:
            return ["-object", f"memory-backend-ram,id=ram,size={MEMORY_MIB}M"]
        share = "on" if saving else "off"
        return ["-object", f"memory-backend-file,id=ram,size={MEMORY_MIB}M,mem-path={self.memory_file},share={share}"]

    def boot(self):
        return Process([*self.common, "-object", f"memory-backend-ram,id=ram,size={MEMORY_MIB}M"], self.log)

    def qmp(self, *commands):
        with connect_unix(self.path("qmp")) as stream:
            lines = stream.makefile("rw", encoding="utf-8")
            lines.readline()
            for name, arguments in (("qmp_capabilities", {}), *commands):
                lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
                lines.flush()
                while True:
                    line = lines.readline()
                    answer = json.loads(line) if line else {"error": "the monitor ended"}
                    if "error" in answer:
                        raise Broken(f"{name}: {answer['error']}")
                    if "return" in answer:
                        break
            return answer["return"]

    def with_qmp(self):
        if os.path.exists(self.path("qmp")):
            os.unlink(self.path("qmp"))
        return ["-qmp", f"unix:{self.path('qmp')},server=on,wait=off"]

    def ignore_shared(self):
        if not self.mapped:
            return []
        return [("migrate-set-capabilities", {"capabilities": [{"capability": "x-ignore-shared", "state": True}]})]

    def save(self):
        process = Process([*self.common, *self.backend(True), *self.with_qmp()], self.log)
        try:
            process.wait_tick()
            ask_agent(self.connect)
            process.drain()
            # Not stopped before: what is restored runs on by itself then.
            self.qmp(*self.ignore_shared(), ("migrate", {"uri": f"exec:cat >{self.stream}"}))
            while True:
                status = self.qmp(("query-migrate", {})).get("status")
                if status == "completed":
                    return
                if status in ("failed", "cancelled"):
                    raise Broken(f"QEMU's migration to a file: {status}")
                time.sleep(0.1)
        finally:
            process.end()

    def prepare(self):
        """Started in advance, with all set but the stream."""
        self.input = os.open(self.stream, os.O_RDONLY)
        process = Process([*self.common, *self.backend(False), *self.with_qmp(), "-incoming", "defer"], self.log,
                          (self.input,))
        if self.mapped:
            self.qmp(*self.ignore_shared())
        else:
            self.qmp()
        return process

    def load(self):
        self.qmp(("migrate-incoming", {"uri": f"fd:{self.input}"}))
        os.close(self.input)

    def restore(self):
        if self.mapped:  # the capability has to be set first
            process = self.prepare()
            self.load()
            return process
        fd = os.open(self.stream, os.O_RDONLY)
        try:
            return Process([*self.common, *self.backend(False), "-incoming", f"fd:{fd}"], self.log, (fd,))
        finally:
            os.close(fd)


class Kvmtool:
    """kvmtool has no snapshots: it boots. Its devices are on PCI, for which the guest kernel has no drivers."""

    def __init__(self, program, work, kernel, initrd):
        self.memory_file = None
        self.log = os.path.join(work, "kvmtool.log")
        self.home = os.path.join(work, "kvmtool-home")
        os.makedirs(self.home)
        self.argv = [program, "run", "--name", "bench", "-k", kernel, "-i", initrd, "-c", "1", "-m", str(MEMORY_MIB),
                     "-n", "mode=none", "--console", "serial", "-p", COMMAND_LINE + " tell=agent"]

    def wait_agent(self, process):
        return process.wait_for(b"@")

    def boot(self):
        os.environ["HOME"] = self.home
        shutil.rmtree(os.path.join(self.home, ".lkvm"), ignore_errors=True)
        return Process(self.argv, self.log)


def find_program(variable, *names):
    """A program that the environment names, or one of the usual names; None."""
    given = os.environ.get(variable)
    if given:
        return given if os.access(given, os.X_OK) else None
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    return None


def version_of(program, *arguments):
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return (result.stdout or result.stderr).strip().split("\n", maxsplit=1)[0]
