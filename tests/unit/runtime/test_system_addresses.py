"""Virtual addresses in the kernel, in a network namespace with two hosts' worth of a cable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import json, socket, subprocess, sys, time
from sofs.errors import Unavailable
from sofs.runtime.system_addresses import SystemAddresses

def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

ip("link", "set", "lo", "up")
ip("link", "add", "near", "type", "veth", "peer", "name", "far")
for name in ("near", "far"):
    ip("link", "set", name, "up")
ip("addr", "add", "10.5.0.1/24", "dev", "near")
ip("-6", "addr", "add", "fd00::1/64", "dev", "near", "nodad")
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
heard.bind(("far", 3))
heard.settimeout(5)
addresses = SystemAddresses()
result = {"interfaces": [addresses.interface(each) for each in ("10.5.0.77", "fd00::77", "192.0.2.1", "10.5.0.1")]}

def there():
    listed = json.loads(ip("-json", "addr", "show", "near"))[0]["addr_info"]
    return {each["local"]: each["valid_life_time"] for each in listed if each["local"].endswith("77")}

def told(wanted):
    while True:
        frame = heard.recv(2048)
        if frame[:len(wanted[0])] == wanted[0] and wanted[1] in frame:
            return frame[6:12].hex()

for address in ("10.5.0.77", "fd00::77"):
    addresses.set(address, "near", 2)
    addresses.announce(address, "near")
result["set"] = there()
result["arp"] = told((bytes([255] * 6), bytes.fromhex("0806")  + bytes.fromhex("0001080006040001")))
result["na"] = told((bytes.fromhex("3333"), bytes([136, 0])))
addresses.set("10.5.0.77", "near", 30)
time.sleep(3.5)
result["later"] = there()
addresses.remove("10.5.0.77", "near")
addresses.remove("10.5.0.77", "near")
result["removed"] = there()
try:
    addresses.set("10.5.0.77", "nowhere", 2)
except Unavailable as error:
    result["nowhere"] = str(error)
result["mac"] = json.loads(ip("-json", "link", "show", "near"))[0]["address"].replace(":", "")
print(json.dumps(result))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_an_address_is_set_for_a_time_announced_prolonged_and_removed() -> None:
    outcome = subprocess.run(["unshare", "--net", sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found["interfaces"] == ["near", "near", None, None]
    assert set(found["set"]) == {"10.5.0.77", "fd00::77"} and all(0 < left <= 2 for left in found["set"].values())
    assert found["arp"] == found["na"] == found["mac"]
    assert set(found["later"]) == {"10.5.0.77"}, "one ran out by itself, the other was prolonged"
    assert found["removed"] == {}
    assert "nowhere" in found["nowhere"]


MOVED = """
import json, socket, struct, subprocess, sys, time
from sofs.runtime.system_addresses import SystemAddresses

CLIENT = '''
import json, socket, subprocess, sys
sys.stdin.readline()
for words in ("link set lo up", "link set far up", "addr add 10.5.0.2/24 dev far", "-6 addr add fd00::2/64 dev far nodad"):
    subprocess.run(["ip", *words.split()], check=True)
for address in ("10.5.0.77", "fd00::77"):
    with socket.create_connection((address, 7000), timeout=5) as sock:
        print(sock.getsockname()[1], flush=True)
        told = []
        for wait in (0.7, 5):
            sock.settimeout(wait)
            try:
                told.append(repr(sock.recv(1)))
            except OSError as error:
                told.append(type(error).__name__)
            print(json.dumps(told), flush=True)
'''

def ip(*words):
    subprocess.run(["ip", *words], check=True)

client = subprocess.Popen(["unshare", "--net", sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
time.sleep(0.5)  # until it is in its network
ip("link", "set", "lo", "up")
ip("link", "add", "near", "type", "veth", "peer", "name", "far")
ip("link", "set", "far", "netns", str(client.pid))
ip("link", "set", "near", "up")
ip("addr", "add", "10.5.0.1/24", "dev", "near")
ip("-6", "addr", "add", "fd00::1/64", "dev", "near", "nodad")
addresses = SystemAddresses()
for address in ("10.5.0.77", "fd00::77"):
    addresses.set(address, "near", 60)
listeners = [socket.create_server((address, 7000), family=family) for address, family in (("10.5.0.77", socket.AF_INET), ("fd00::77", socket.AF_INET6))]
client.stdin.write("go\\n")
client.stdin.flush()
told = []
for address, peer, listener in zip(("10.5.0.77", "fd00::77"), ("10.5.0.2", "fd00::2"), listeners):
    sock, _ = listener.accept()
    port = int(client.stdout.readline())
    addresses.remove(address, "near")
    ip("route", "add", "unreachable", peer)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()  # nothing of it gets out: as if the address were at another host, which knows nothing of the connection
    ip("route", "del", "unreachable", peer)
    addresses.set(address, "near", 60)
    client.stdout.readline()
    addresses.ask_after(address, 7000, peer, port)
    told += json.loads(client.stdout.readline())
client.wait()
print(json.dumps(told))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_waits_at_an_address_that_has_moved_is_told_when_it_is_asked_after() -> None:
    outcome = subprocess.run(["unshare", "--net", sys.executable, "-c", MOVED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout) == ["TimeoutError", "ConnectionResetError"] * 2
