"""The internet, in a network namespace: network_world.py PORT... answers UDP with who asked whom, and TCP with what it was sent.

A line "ADDRESS PORT TEXT" on standard input sends an UDP packet; "syn ADDRESS PORT" tries to connect; "seen TEXT x" asks
whether an UDP packet with that came."""
import socket
import sys
import threading

IP_PKTINFO = 8
seen = set()


def listen_udp(port):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    server.bind(("0.0.0.0", port))
    return server


def answer_udp(server):
    while True:
        data, control, _, peer = server.recvmsg(2000, 200)
        asked = socket.inet_ntoa(control[0][2][8:12])
        seen.add(data.decode())
        # From the address that was asked, not from that of the way back.
        source = b"\0" * 4 + control[0][2][8:12] + b"\0" * 4
        server.sendmsg([f"{peer[0]} {asked} ".encode() + data], [(socket.IPPROTO_IP, IP_PKTINFO, source)], 0, peer)


def echo(connection):
    try:
        while data := connection.recv(2000):
            connection.sendall(data)
    except ConnectionError:
        connection.close()


def answer_tcp(server):
    while True:
        threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()


for number in sys.argv[1:]:
    for serve, server in ((answer_udp, listen_udp(int(number))), (answer_tcp, socket.create_server(("0.0.0.0", int(number))))):
        threading.Thread(target=serve, args=(server,), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    address, port, text = line.split()
    if address == "syn":
        probe = socket.socket()
        probe.setblocking(False)
        probe.connect_ex((port, int(text)))
    elif address == "seen":
        print("yes" if port in seen else "no", flush=True)
        continue
    else:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(text.encode(), (address, int(port)))
    print("sent", flush=True)
