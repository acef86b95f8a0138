#!/usr/bin/python3
"""Kill atoll-api, atoll-node or the lab host at a random moment of a random transition, again and again, and look: every
sandbox is in its old or its new state, with all that it had; nothing is left of what is gone.

crashes.py [--rounds N] [--seed N] [--hosts N]; the service runs. Ends with "N passed, N failed".
"""

import argparse
import collections
import datetime
import os
import random
import sys
import threading
import time

from client import (PATIENCE, Broken, agent, api, has_process, node_sandboxes, read_file, request, run_process,
                    start_on_service_host, start_process, try_to_write_file, write_file)
import beyond
import leaks
import shared

POPULATION = 4  # sandboxes that are kept
SETTLE_EVERY = 25  # rounds: all ends, and what is left is compared with the beginning
RECOVERY = 180  # seconds until the service must answer again
HOUR = 3600
# The name's end is on the disk as well: a host that crashes must not bring it back.
HOLD = ("exec 8<>%(path)s && echo %(token)s >&8 && rm %(path)s && sync /proc/self/fd/8 && echo $$ >/dev/shm/holder && "
        "exec sleep 86400")
LINES = 4000  # of a file in the volume

passed = failed = 0


def say(text):
    print(text, flush=True)


def check(name, problem):
    global passed, failed
    passed += problem is None
    failed += problem is not None
    say("ok: " + name if problem is None else "FAILED: %s: %s" % (name, problem))


class Sandbox:
    """What we know of a sandbox: the states it may be in, what it may reach, and what it must hold."""

    def __init__(self, name, token, volume):
        self.id = name
        self.states = {"running"}
        self.internet = {True}
        self.shared = set()  # what its file in the volume may hold; empty: the host died, and it may be anything
        self.token = token
        self.volume = volume
        self.writes = 0

    def next_shared(self):
        self.writes += 1
        return "".join("%s %d %d\n" % (self.token, self.writes, line) for line in range(LINES))

    def shared_path(self):
        return "%s/%s" % (shared.MOUNT, self.token)

    def furnish(self):
        """Something on disk, something in memory, something in the volume, something that runs, and has a file of the volume
        open that has lost its name."""
        write_file(self.id, "/home/user/token", self.token)
        write_file(self.id, "/dev/shm/token", self.token)
        start_process(self.id, HOLD % {"path": self.shared_path() + ".open", "token": self.token}, "crash-" + self.token)
        run_process(self.id, "until [ -s /dev/shm/holder ]; do sleep 0.1; done")

    def verify_held(self):
        held = run_process(self.id, "cat /proc/$(cat /dev/shm/holder)/fd/8 2>&1").strip()
        return None if held == self.token else "its open file without a name holds %r" % held[:80]

    def verify(self):
        """None, or what is missing of a running one."""
        for path in ("/home/user/token", "/dev/shm/token"):
            held = read_file(self.id, path)
            if held != self.token:
                return "%s holds %r instead of %r" % (path, held[:40], self.token)
        if not has_process(self.id, "crash-" + self.token):
            return "its process is gone"
        return self.verify_shared() or self.verify_held() or self.verify_internet()

    def verify_shared(self):
        """Inside as outside: what was written, or, if that was cut off, what was there before or a part of it."""
        if not self.shared:
            self.shared = {self.next_shared()}
            write_file(self.id, self.shared_path(), next(iter(self.shared)))
        inside = read_file(self.id, self.shared_path())
        outside = self.volume.read("/" + self.token)
        if inside != outside:
            return "its file in the volume has %d bytes inside, %s outside" % (len(inside), outside and len(outside))
        cut = len(self.shared) > 1 and any(whole.startswith(inside) for whole in self.shared)
        if inside not in self.shared and not cut:
            return "its file in the volume holds %d bytes that begin with %r" % (len(inside), inside[:40])
        self.shared = {inside}
        return None

    def verify_internet(self):
        """What the service says is what holds, and what it may be."""
        said = api("GET", "/sandboxes/" + self.id)[1]["allowInternetAccess"] is not False
        if said not in self.internet:
            return "it is said to reach the internet: %s" % said
        if beyond.reached(self.id) != said:
            return "it is said to reach the internet: %s, which is not so" % said
        self.internet = {said}
        return None


def state_of(name):
    """running, paused, or gone."""
    status, body = api("GET", "/sandboxes/" + name)
    if status == 404:
        return "gone"
    if status != 200:
        raise Broken("state of %s: status %d: %s" % (name, status, body))
    return body["state"]


def eventually(function, seconds):
    """The first answer that is None; else the last one, or what was raised."""
    end = time.monotonic() + seconds
    while True:
        try:
            problem = function()
        except Broken as error:
            problem = str(error)
        if problem is None or time.monotonic() > end:
            return problem
        time.sleep(0.2)


# What is asked for: the sandbox (None: none that we know), what of it changes (a set of Sandbox) into what (None: nothing), and
# the request, as a function with a timeout.
Transition = collections.namedtuple("Transition", "sandbox what target call")


def asks(method, path, body=None):
    return lambda timeout: api(method, path, body, timeout)


class World:
    def __init__(self, chance):
        self.random = chance
        self.volume = shared.Volume()
        self.sandboxes = []
        self.snapshots = []  # (id, token)
        self.others = set()  # snapshots that were there before
        self.count = 0
        self.seconds = {}  # how long each transition takes when nobody is killed

    def token(self):
        self.count += 1
        return "token-%d-%d" % (os.getpid(), self.count)

    def add(self, template="base"):
        status, body = api("POST", "/sandboxes", {"templateID": template, "timeout": HOUR, "metadata": {"crash": "test"},
                                                  "volumeMounts": self.volume.mounts()})
        if status != 201:
            raise Broken("create: status %d: %s" % (status, body))
        sandbox = Sandbox(body["sandboxID"], self.token(), self.volume)
        self.sandboxes.append(sandbox)
        sandbox.furnish()

    def fill(self):
        while len(self.sandboxes) < POPULATION:
            self.add()

    def pick(self, state):
        found = [sandbox for sandbox in self.sandboxes if sandbox.states == {state}]
        return self.random.choice(found) if found else None

    def measure(self):
        """One of each, undisturbed."""
        for kind in ("create", "network", "network", "extend", "write", "pause", "resume", "snapshot", "fork", "kill"):
            move = getattr(self, kind)()
            begin = time.monotonic()
            status, body = move.call(PATIENCE)
            self.seconds[kind] = time.monotonic() - begin
            if status >= 300:
                raise Broken("%s: status %d: %s" % (kind, status, body))
            if move.target is not None:
                setattr(move.sandbox, move.what, {move.target})
            if move.target == "gone":
                self.sandboxes.remove(move.sandbox)
            if kind == "snapshot":
                self.snapshots.append((body["snapshotID"], move.sandbox.token))
        say("undisturbed: " + ", ".join("%s %.0f ms" % (kind, seconds * 1000) for kind, seconds in self.seconds.items()))

    # Each gives a Transition, or None when there is no sandbox for it.

    def create(self):
        return Transition(None, None, None, asks("POST", "/sandboxes", {
            "templateID": "base", "timeout": HOUR, "metadata": {"crash": "new"}, "volumeMounts": self.volume.mounts()}))

    def pause(self):
        sandbox = self.pick("running")
        return sandbox and Transition(sandbox, "states", "paused", asks("POST", "/sandboxes/%s/pause" % sandbox.id, {}))

    def resume(self):
        sandbox = self.pick("paused")
        return sandbox and Transition(sandbox, "states", "running", asks("POST", "/sandboxes/%s/resume" % sandbox.id, {"timeout": HOUR}))

    def kill(self):
        sandbox = self.random.choice(self.sandboxes)
        return Transition(sandbox, "states", "gone", asks("DELETE", "/sandboxes/" + sandbox.id))

    def snapshot(self):
        sandbox = self.pick("running")
        return sandbox and Transition(sandbox, None, None, asks("POST", "/sandboxes/%s/snapshots" % sandbox.id, {}))

    def fork(self):
        sandbox = self.pick("running")
        return sandbox and Transition(sandbox, None, None, asks("POST", "/sandboxes/%s/fork" % sandbox.id, {"count": 2, "timeout": HOUR}))

    def network(self):
        sandbox = self.pick("running")
        if not sandbox:
            return None
        internet = sandbox.internet != {True}
        return Transition(sandbox, "internet", internet, asks("PUT", "/sandboxes/%s/network" % sandbox.id, {"allow_internet_access": internet}))

    def extend(self):
        """Its end is another one; whether it is the old or the new, agree() looks."""
        sandbox = self.pick("running")
        hours = self.random.randint(2, 20)
        return sandbox and Transition(sandbox, None, None, asks("POST", "/sandboxes/%s/timeout" % sandbox.id, {"timeout": hours * HOUR}))

    def write(self):
        """Into the volume, by the guest."""
        sandbox = self.pick("running")
        if not sandbox:
            return None
        text = sandbox.next_shared()
        return Transition(sandbox, "shared", text, lambda timeout: try_to_write_file(sandbox.id, sandbox.shared_path(), text, timeout))


# --- killing ---


def kill_daemon_script(name, delay):
    """Nothing is started between the word and the blow: a process takes its time under emulation."""
    return "until pid=$(pgrep -x %s); do sleep 0.1; done; echo ready; read -t %.3f line; kill -9 $pid" % (name, delay)


def lab_pid():
    """The process of the lab host, or None where there is none."""
    data = os.environ.get("ATOLL_DATA", "/var/lib/atoll")
    try:
        with open(os.path.join(data, "lab", "pid")) as file:
            keeper = int(file.read())
        with open("/proc/%d/task/%d/children" % (keeper, keeper)) as file:
            children = [int(pid) for pid in file.read().split()]
    except (OSError, ValueError):
        return None
    for pid in children:
        with open("/proc/%d/comm" % pid) as file:
            if file.read().startswith("qemu-system"):
                return pid
    return None


def run_with_crash(victim, delay, call):
    """Send a request and kill the victim `delay` seconds later. The answer, or None."""
    answer = []

    def ask():
        try:
            answer.append(call(30))
        except Broken:
            pass

    thread = threading.Thread(target=ask)
    if victim == "host":
        pid = lab_pid()
        thread.start()
        time.sleep(delay)
        os.kill(pid, 9)
    else:
        killer = start_on_service_host(kill_daemon_script(victim, delay))
        killer.stdout.readline()
        thread.start()
        killer.wait()
        killer.stdin.close()
        killer.stdout.close()
    thread.join()
    return answer[0] if answer else None


def wait_for_service():
    """Health tells that the API and the node agree on what runs."""
    def answers():
        status, body = request(os.environ["E2B_API_URL"], "GET", "/health", timeout=10)
        return None if status == 200 else "status %d: %s" % (status, body)

    return eventually(answers, RECOVERY)


# --- one round ---


def expect_host_lost(world):
    """What ran in a host that died is gone; what was paused is not."""
    for sandbox in world.sandboxes:
        if "running" in sandbox.states:
            sandbox.states.discard("running")
            sandbox.states.add("gone")
        sandbox.shared = set()  # what nobody synced may be lost, as on any disk


def look_at(sandbox):
    """None when it is where it may be, and whole."""
    def settled():
        state = state_of(sandbox.id)
        if state not in sandbox.states:
            return "it is %s instead of %s" % (state, " or ".join(sorted(sandbox.states)))
        problem = sandbox.verify() if state == "running" else None
        if problem is None:
            sandbox.states = {state}
        return problem

    problem = eventually(settled, 60)
    return problem and "%s: %s" % (sandbox.id, problem)


def agree(world):
    """None when the service says of each what the node does: it looks itself every ten seconds."""
    def same():
        node = node_sandboxes()
        for sandbox in world.sandboxes:
            said, real = api("GET", "/sandboxes/" + sandbox.id)[1], node.get(sandbox.id)
            if "endAt" not in said or not real:
                return "%s: the service says %s, the node %s" % (sandbox.id, said, real)
            end_at = datetime.datetime.fromisoformat(said["endAt"].replace("Z", "+00:00")).timestamp()
            if said["state"] != real["state"] or abs(end_at - real["end_at_ms"] / 1000) > 0.01:
                return "%s is %s until %s, on the node %s" % (sandbox.id, said["state"], end_at, real)
        return None

    return eventually(same, 30)


def end(name):
    status, body = api("DELETE", "/sandboxes/" + name)
    return None if status in (204, 404) else "status %d: %s" % (status, body)


def strangers(world):
    """Those that the service lists and we did not know: of a create or a fork whose answer was lost."""
    status, body = api("GET", "/v2/sandboxes?state=running,paused&limit=100")
    if status != 200:
        raise Broken("list: status %d" % status)
    known = {sandbox.id for sandbox in world.sandboxes}
    return [item["sandboxID"] for item in body if item["sandboxID"] not in known]


def dismiss_strangers(world, allowed):
    """They must answer, and go when they are told to; there may be none unless something was being made."""
    def gone():
        found = strangers(world)
        if found and not allowed:
            return "sandboxes that nobody made: " + " ".join(found)
        for name in found:
            if state_of(name) == "running" and agent(name, "GET", "/health")[0] != 204:
                return "%s does not answer" % name
            problem = end(name)
            if problem:
                return "%s cannot be killed: %s" % (name, problem)
        return None if not strangers(world) else "they come back"

    return eventually(gone, 60)


def take_snapshots(world, sandbox):
    """Those of it that are listed must be of use: one begins from each new one."""
    token = sandbox.token

    def usable():
        status, body = api("GET", "/snapshots?sandboxID=" + sandbox.id)
        if status != 200:
            return "snapshots: status %d" % status
        known = world.others | {name for name, _ in world.snapshots}
        for item in body:
            name = item["snapshotID"]
            if name in known:
                continue
            status, made = api("POST", "/sandboxes", {"templateID": name, "timeout": HOUR})
            if status != 201:
                return "snapshot %s: status %d: %s" % (name, status, made)
            held = read_file(made["sandboxID"], "/dev/shm/token")
            api("DELETE", "/sandboxes/" + made["sandboxID"])
            if held != token:
                return "snapshot %s holds %r instead of %r" % (name, held, token)
            world.snapshots.append((name, token))
        return None

    return eventually(usable, 60)


def choose(world):
    """(kind, Transition)."""
    kinds = ["create", "pause", "pause", "resume", "resume", "snapshot", "fork", "kill", "network", "extend", "write"]
    while True:
        kind = world.random.choice(kinds)
        move = getattr(world, kind)()
        if move:
            return kind, move


def play(world, number, hosts_left):
    kind, move = choose(world)
    victims = ["atoll-node"] * 5 + ["atoll-api"] * 4 + (["host"] * 1 if hosts_left else [])
    victim = world.random.choice(victims)
    delay = world.random.uniform(0, 1.2 * world.seconds[kind])
    if move.target is not None:
        getattr(move.sandbox, move.what).add(move.target)
    answer = run_with_crash(victim, delay, move.call)
    title = "%d: %s, %s killed after %.0f ms, answer %s" % (number, kind, victim, delay * 1000, answer[0] if answer else "none")
    if move.target is not None and answer and answer[0] < 300:
        setattr(move.sandbox, move.what, {move.target})  # what was answered with success has come about
    problem = None
    if victim == "host":
        expect_host_lost(world)
        problem = wait_for_service()
        beyond.begin()
    problem = problem or wait_for_service()
    for one in list(world.sandboxes):
        problem = problem or look_at(one)
        if problem or one.states == {"gone"}:
            world.sandboxes.remove(one)
    problem = problem or agree(world) or dismiss_strangers(world, kind in ("create", "fork"))
    if kind == "snapshot":
        problem = problem or take_snapshots(world, move.sandbox)
    check(title, problem)
    return victim == "host"


def wake_all(world):
    """Who is paused has kept all that it had."""
    for sandbox in world.sandboxes:
        if sandbox.states == {"paused"}:
            status, body = api("POST", "/sandboxes/%s/resume" % sandbox.id, {"timeout": HOUR})
            sandbox.states = {"running"}
            problem = "status %d: %s" % (status, body) if status != 201 else look_at(sandbox)
            check("%s wakes with all that it had" % sandbox.id, problem)


def forget(world):
    """End all; what is left must be what there was in the beginning."""
    wake_all(world)
    for sandbox in world.sandboxes:
        # The node may have died just now, after its answer: then it cannot be asked yet.
        check("%s ends" % sandbox.id, eventually(lambda: end(sandbox.id), 60))
    world.sandboxes.clear()
    world.snapshots.clear()


def left_over(world, baseline):
    """A sandbox or a snapshot whose request was cut off may be told late: it goes now."""
    problem = dismiss_strangers(world, True)
    if problem:
        return problem
    for item in api("GET", "/snapshots")[1]:
        if item["snapshotID"] not in world.others:
            api("DELETE", "/templates/" + item["snapshotID"])
    hidden = world.volume.hidden()
    return "in the volume: " + " ".join(hidden) if hidden else leaks.compare(baseline)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=int(os.environ.get("CRASH_ROUNDS", "12")))
    arguments.add_argument("--seed", type=int, default=int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1 << 30))
    arguments.add_argument("--hosts", type=int, default=int(os.environ.get("CRASH_HOSTS", "1")), help="how often the lab host is killed at most")
    options = arguments.parse_args()
    say("seed %d, %d rounds" % (options.seed, options.rounds))
    world = World(random.Random(options.seed))
    hosts = options.hosts if lab_pid() else 0
    beyond.begin()
    baseline = leaks.settled()
    world.others = {item["snapshotID"] for item in api("GET", "/snapshots")[1]}
    world.fill()
    world.measure()
    dismiss_strangers(world, True)
    for number in range(1, options.rounds + 1):
        problem = eventually(world.fill, 60)
        if problem:
            check("%d: sandboxes can be made" % number, problem)
            break
        hosts -= play(world, number, hosts)
        if number % SETTLE_EVERY == 0 or number == options.rounds:
            forget(world)
            check("%d: nothing is left of what is gone" % number, eventually(lambda: left_over(world, baseline), 90))
    for sandbox in world.sandboxes:
        end(sandbox.id)
    world.volume.remove()
    beyond.end()
    say("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main())
