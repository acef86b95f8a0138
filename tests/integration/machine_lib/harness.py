"""Machines under test, their API, their guests, and the count of what passed."""

import glob
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import traceback

SHELL_PORT = 52
ECHO_PORT = 1000  # where guests that are set up give back what comes
PATIENCE = 300.0  # seconds for what comes soon, on a machine that has nothing else to do
BOOT_ARGS = "console=ttyS0 reboot=k panic=-1 quiet loglevel=4 no_timer_check"


class Settings:
    """Where things are; filled in by the suite's command line."""

    vmm = ""
    kernel = ""
    initrd = ""
    fuzz = ""
    work = ""
    boot_args = BOOT_ARGS
    emulated = False  # KVM is that of a lab host


class Unexpected(Exception):
    """A step that later ones need did not work."""


# --- counting ---

passed = 0
failed = 0
_lock = threading.Lock()
_here = threading.local()  # of a part: it runs in a thread, beside others


def say(text):
    """A line of the part that runs in this thread; all of them are printed when it has ended."""
    lines = getattr(_here, "lines", None)
    if lines is None:
        print(text, flush=True)
    else:
        lines.append(text)


def since():
    """With MACHINE_TIMES set, how long the step before took: where the time goes."""
    before, _here.last = getattr(_here, "last", time.monotonic()), time.monotonic()
    return "  [%.1f s]" % (_here.last - before) if os.environ.get("MACHINE_TIMES") else ""


def check(name, condition, detail=""):
    """Count one expectation; `detail` (text, or a function that gives it) tells what was seen instead."""
    _here.passed += bool(condition)
    _here.failed += not condition
    if condition:
        say("ok: %s%s" % (name, since()))
    else:
        detail = str(detail() if callable(detail) else detail)
        say("FAILED: %s%s%s" % (name, " (%s)" % detail[:800] if detail else "", since()))
    return bool(condition)


def equal(name, seen, wanted):
    return check(name, seen == wanted, "%r instead of %r" % (seen, wanted))


def broken_by_emulation():
    """A guest of several vCPUs ended in a triple fault or started anew: in a lab host, one in some fifty does
    (docs/development.md). Asked only where something failed."""
    signs = ("triple fault", "the guest has reset itself")
    return Settings.emulated and any(machine.vcpus > 1 and any(sign in machine.text("log") for sign in signs)
                                     for machine in Machine.of_this_part())


def attempt(function):
    """Run a part of the suite; its machines end with it. Whether the emulator broke it."""
    begin = _here.last = time.monotonic()
    _here.lines = []
    _here.passed = _here.failed = 0
    try:
        function()
    except Exception as error:  # the other parts are worth running even so
        check("%s runs to its end" % function.__name__, False, "%s: %s" % (type(error).__name__, error))
        say(traceback.format_exc())
        for machine in Machine.of_this_part():
            say("--- log of %s\n%s" % (machine.id, machine.text("log")[-2000:]))
            say("--- console of %s\n%s" % (machine.id, machine.text("serial")[-2000:]))
    finally:
        broken = _here.failed and broken_by_emulation()
        for machine in Machine.of_this_part():
            machine.close()
    _here.lines.insert(0, "--- %s (%.0f s)" % (function.__doc__.strip().rstrip("."), time.monotonic() - begin))
    return broken


def part(function):
    """Run a part, count, and print what it said: once, or, where the emulator broke it, up to three times."""
    global passed, failed
    for left in (2, 1, 0):
        if not attempt(function) or not left:
            break
        print("note: %s: the emulator broke a guest of several vCPUs: once more" % function.__name__, flush=True)
    with _lock:
        passed += _here.passed
        failed += _here.failed
        print("\n".join(_here.lines), flush=True)
    _here.lines = None


def run_parts(groups):
    """Groups of parts, two at a time: guests of one CPU leave the other one idle."""
    left = list(groups)

    def work():
        while True:
            with _lock:
                if not left:
                    return
                group = left.pop(0)
            for function in group:
                part(function)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def until(condition, seconds=PATIENCE, pause=0.05):
    """What `condition` gives as soon as it is true; else its last answer."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result or time.monotonic() > end:
            return result
        time.sleep(pause)


# --- the API ---


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def exited(process, seconds=PATIENCE):
    """Exit status of a process that is about to end; None when it does not."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def vmm(*arguments, seconds=PATIENCE):
    """Run the monitor to its end: (status, standard output, standard error)."""
    done = subprocess.run([Settings.vmm, *arguments], capture_output=True, timeout=seconds, text=True)
    return done.returncode, done.stdout, done.stderr


class Machine:
    """A monitor process and the guest in it."""

    alive = []
    count = 0

    def __init__(self, *arguments, api=True, wait=True):
        with _lock:
            Machine.count += 1
            self.id = "m%d" % Machine.count
        self.thread = threading.current_thread()
        self.vcpus = 1
        self.directory = os.path.join(Settings.work, self.id)
        os.mkdir(self.directory)
        self.socket = self.path("api.sock")
        self.vsock = self.path("v.sock")
        self.log = open(self.path("log"), "wb")
        command = [Settings.vmm, "--id", self.id, *arguments]
        if api:
            command += ["--api-sock", self.socket]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        Machine.alive.append(self)
        if api and wait and not until(self.answers, pause=0.005):
            raise Unexpected("the API does not answer: " + self.text("log"))

    @classmethod
    def of_this_part(cls):
        return [machine for machine in cls.alive if machine.thread is threading.current_thread()]

    def path(self, name):
        return os.path.join(self.directory, name)

    def text(self, name):
        try:
            with open(self.path(name), "r", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def answers(self):
        if self.process.poll() is not None:
            raise Unexpected("the monitor ended with %s: %s" % (self.process.returncode, self.text("log")))
        try:
            return self.api("GET", "/")[0] == 200
        except OSError:
            return False

    # --- API ---

    def api(self, method, path, body=None, raw=None, headers=None, timeout=180):
        """(status, decoded body or None)"""
        connection = UnixConnection(self.socket, timeout)
        data = raw if raw is not None else None if body is None else json.dumps(body)
        try:
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            content = answer.read()
        except (http.client.HTTPException, OSError) as error:
            if self.process.poll() is not None:
                raise Unexpected("%s %s: the monitor ended with %d: %s" %
                                 (method, path, self.process.returncode, self.text("log")[-500:])) from error
            raise
        finally:
            connection.close()
        try:
            return answer.status, json.loads(content) if content else None
        except ValueError:
            return answer.status, content.decode(errors="replace")

    def get(self, path):
        status, body = self.api("GET", path)
        if status != 200:
            raise Unexpected("GET %s: %d %s" % (path, status, body))
        return body

    def must(self, method, path, body):
        status, answer = self.api(method, path, body)
        if status not in (200, 204):
            raise Unexpected("%s %s: %d %s" % (method, path, status, answer))
        return answer

    def put(self, path, body):
        return self.must("PUT", path, body)

    def patch(self, path, body):
        return self.must("PATCH", path, body)

    def fault(self, method, path, body=None, **more):
        """(status, fault message); the message is None where the body has another shape."""
        status, answer = self.api(method, path, body, **more)
        if not isinstance(answer, dict) or list(answer) != ["fault_message"]:
            return status, None
        return status, answer["fault_message"]

    # --- life ---

    def configure(self, vcpus=1, memory=128, drives=(), args="", serial=True, entropy=True, vsock=True, **machine):
        self.vcpus = vcpus
        self.put("/machine-config", {"vcpu_count": vcpus, "mem_size_mib": memory, **machine})
        self.put("/boot-source", {"kernel_image_path": Settings.kernel, "initrd_path": Settings.initrd,
                                  "boot_args": Settings.boot_args + " " + args})
        if vsock:
            self.put("/vsock", {"guest_cid": 3, "uds_path": self.vsock})
        if entropy:
            self.put("/entropy", {})
        if serial:
            self.put("/serial", {"serial_out_path": self.path("serial")})
        for drive in drives:
            self.put("/drives/" + drive["drive_id"], {"is_root_device": False, **drive})
        return self

    def start(self):
        self.put("/actions", {"action_type": "InstanceStart"})
        return self

    def boot(self, **options):
        """Configure, start, and wait for the guest's shell."""
        return self.configure(**options).start().wait()

    def wait(self, seconds=600):
        def up():
            if self.process.poll() is not None:
                raise Unexpected("the monitor ended with %d: %s" % (self.process.returncode, self.text("log")))
            try:
                return self.run("true", 30) == ("", 0)
            except (OSError, Unexpected):
                return False

        if not until(up, seconds, 0.02):
            raise Unexpected("the guest does not answer; its console: " + self.text("serial")[-1000:])
        return self

    def pause(self):
        self.patch("/vm", {"state": "Paused"})

    def resume(self):
        self.patch("/vm", {"state": "Resumed"})

    def snapshot(self, name, kind="Full", resume=False):
        """Pause and save; the snapshot lies in the suite's directory."""
        snapshot = Snapshot(name)
        self.pause()
        self.put("/snapshot/create", {"snapshot_path": snapshot.state, "mem_file_path": snapshot.memory,
                                      "snapshot_type": kind})
        if resume:
            self.resume()
        return snapshot

    def load_body(self, snapshot, **options):
        body = {"snapshot_path": snapshot.state, "mem_backend": {"backend_type": "File", "backend_path": snapshot.memory},
                "resume_vm": True, "vsock_override": {"uds_path": self.vsock},
                "serial_override": {"serial_out_path": self.path("serial")}}
        body.update(options)
        return {key: value for key, value in body.items() if value is not None}

    @classmethod
    def load(cls, snapshot, *arguments, **options):
        """A new process that goes on from a snapshot."""
        machine = cls(*arguments)
        machine.put("/snapshot/load", machine.load_body(snapshot, **options))
        return machine

    def end(self, seconds=PATIENCE):
        """Ask it to end: its exit status, None when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return exited(self.process, seconds)

    def close(self):
        """End it and take its files away. What its filters killed is told."""
        if self not in Machine.alive:
            return
        Machine.alive.remove(self)
        if self.process.poll() is None and self.end() is None:
            check("machine %s ends when it is asked to" % self.id, False)
            self.process.kill()
            self.process.wait()
        status = self.process.returncode
        if status < 0 and status != -signal.SIGKILL:
            kernel = subprocess.run("dmesg | grep -iE 'seccomp|segfault|type=1326' | tail -n 3", shell=True,
                                    capture_output=True, text=True, check=False).stdout
            what = " by its own filters" if status == -signal.SIGSYS else ""
            check("machine %s was not killed" % self.id, False,
                  "%s%s; %s; %s" % (signal.Signals(-status).name, what, kernel, self.text("log")[-300:]))
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- the guest ---

    def connect(self, port=SHELL_PORT, timeout=180):
        """A stream to a port of the guest."""
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(timeout)
        try:
            stream.connect(self.vsock)
            stream.sendall(b"CONNECT %d\n" % port)
            line = b""
            while not line.endswith(b"\n"):
                byte = stream.recv(1)
                if not byte:
                    raise Unexpected("port %d of the guest is refused" % port)
                line += byte
            if not line.startswith(b"OK "):
                raise Unexpected("instead of OK: %r" % line)
            return stream
        except BaseException:
            stream.close()
            raise

    def command(self, command, timeout=180):
        """A stream to a shell command that has been started."""
        stream = self.connect(timeout=timeout)
        stream.sendall(command.encode() + b"\n")
        return stream

    def run(self, command, timeout=180, given=b""):
        """(output, status) of a shell command in the guest."""
        with self.command(command, timeout) as stream:
            if given:
                stream.sendall(given)
            stream.shutdown(socket.SHUT_WR)
            return finish(stream)

    def out(self, command, timeout=180, given=b""):
        """Output of a command that must succeed, without space around it."""
        output, status = self.run(command, timeout, given)
        if status != 0:
            raise Unexpected("in the guest: %s: status %d: %s" % (command, status, output[-300:]))
        return output.strip()


def receive(stream):
    data = bytearray()
    while True:
        chunk = stream.recv(1 << 18)
        if not chunk:
            return bytes(data)
        data += chunk


def finish(stream):
    """(output, status) of a command, from its stream."""
    data, mark, status = receive(stream).rpartition(b"\0exit ")
    if not mark:
        raise Unexpected("the guest's shell ended without a status: %r" % status[-200:])
    return data.decode(errors="replace"), int(status)


class Snapshot:
    """Paths of a state and a memory file."""

    def __init__(self, name):
        self.state = os.path.join(Settings.work, name + ".state")
        self.memory = os.path.join(Settings.work, name + ".memory")

    def remove(self):
        for path in glob.glob(self.state + "*") + glob.glob(self.memory + "*"):
            os.unlink(path)


# Copies of one guest are there sooner than guests that boot.
SETTING = ("guest_shell echo 1000 >/dev/null 2>&1 </dev/null & "
           "(i=0; while :; do i=$((i+1)); echo $i >/tmp/ticks.new; mv /tmp/ticks.new /tmp/ticks; sleep 0.1; done) >/dev/null 2>&1 </dev/null & "
           "(sleep 4; echo rang >/tmp/timer) >/dev/null 2>&1 </dev/null & "
           "dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null; until [ -e /tmp/ticks ]; do sleep 0.1; done; md5sum </tmp/data")
_ready = []
_ready_lock = threading.Lock()


def set_up(machine):
    """Run SETTING, and wait until all that it starts has begun. The checksum of /tmp/data."""
    data = machine.out(SETTING)

    def echoes():
        try:
            machine.connect(ECHO_PORT).close()
            return True
        except (OSError, Unexpected):
            return False

    if not until(echoes):
        raise Unexpected("nobody listens at port %d of the guest" % ECHO_PORT)
    return data


def ready():
    """(snapshot, checksum of /tmp/data) of a guest without drives in which SETTING has run."""
    with _ready_lock:
        if not _ready:
            machine = Machine().boot()
            data = set_up(machine)
            _ready.append((machine.snapshot("ready"), data))
            machine.close()
        return _ready[0]


def make_file(name, size, fill=None):
    """A file in the suite's directory: a hole, or `fill` bytes at its beginning."""
    path = os.path.join(Settings.work, name)
    with open(path, "wb") as file:
        if fill:
            file.write(fill)
        file.truncate(size)
    return path


def allocated(path):
    """Bytes that a file really takes."""
    return os.stat(path).st_blocks * 512


def make_work():
    Settings.work = tempfile.mkdtemp(prefix="atoll-m-", dir=os.environ.get("MACHINE_WORK", "/dev/shm"))
