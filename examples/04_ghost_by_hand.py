"""
4. One daemon without spirits, its commands written out by hand.

Everything below daemonize() runs in the daemon; the launcher ends inside of it.
"""

import sys

from ghostd import Ghost, GhostError

MOST = 10

g = Ghost(logfile="daemon.log", pidfile="daemon.pid")
command = sys.argv[1] if len(sys.argv) > 1 else "start"

if command == "status":
    pid = g.status()  # 0: none runs
    print(f"Running {pid}" if pid else "Not running")
    sys.exit(0 if pid else 3)
if command == "stop":
    pid = g.stop()  # 0: none ran; minus its pid: it is still there
    print(f"Stopped {pid}" if pid > 0 else f"{-pid} lives on" if pid else "Not running")
    sys.exit(0 if pid >= 0 else 1)
if command != "start":
    sys.exit("Command incorrect")

try:
    g.daemonize()
except GhostError as error:
    sys.exit(str(error))

i = 0
while g.ok and i < MOST:
    i += 1
    g.wait(3)
    g.log.debug("%d> %d/%d", g.pid, i, MOST)
