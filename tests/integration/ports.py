"""Ports for the programs under test."""
import random
import socket


def free_port():
    """One that the kernel gives to nobody: also between two starts of a program no client on this machine gets it."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first = int(file.read().split()[0])
    while True:
        # (Where all of them are given away one of those has to do.)
        port = random.randrange(10000, first) if first > 11000 else 0
        try:
            with socket.create_server(("127.0.0.1", port)) as free:
                return free.getsockname()[1]
        except OSError:
            pass
