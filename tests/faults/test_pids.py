"""Numbers that the kernel gives away again: strangers are never taken for ours."""

from __future__ import annotations

import json
import sys

import pytest

from tests.faults import kit

pytestmark = pytest.mark.root

NAMESPACE = ("--pid", "--fork", "--mount-proc", "--kill-child=KILL")

STALE = """
import json, os, signal, subprocess, sys, time

def ctrl(word):
    command = [sys.executable, sys.argv[1], word]
    ended = subprocess.run(command, capture_output=True, text=True)
    return [ended.returncode, ended.stdout, ended.stderr]

def wait_for(condition):
    until = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.005)
    return found

def others():
    while True:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                break
        except ChildProcessError:
            break
    return [n for n in os.listdir("/proc") if n.isdigit() and int(n) != 1]

out = {"start": ctrl("start")}
pid = int(open(sys.argv[2]).read())
os.kill(pid, signal.SIGKILL)
wait_for(lambda: not others())
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(pid - 1))
read, write = os.pipe()
stranger = os.fork()
if stranger == 0:
    def note(number, frame):
        os.write(write, b"%d " % number)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, note)
    os.write(write, b"ready ")
    while True:
        signal.pause()
os.close(write)
heard = os.read(read, 100)
out["same number"] = stranger == pid == int(open(sys.argv[2]).read())
if sys.argv[3] == "stop first":
    out["status"] = ctrl("status")
    out["nothing to stop"] = ctrl("stop")
out["again"] = ctrl("start")
out["new"] = int(open(sys.argv[2]).read()) != pid
out["stop"] = ctrl("stop")
out["stranger lives"] = os.waitpid(stranger, os.WNOHANG) == (0, 0)
os.kill(stranger, signal.SIGKILL)
os.waitpid(stranger, 0)
out["heard"] = (heard + os.read(read, 1000)).decode()
out["left"] = wait_for(lambda: [others()])[0]
print(json.dumps(out))
"""

CHURN = """
class Service(Prefork):
    living = set()
    seen = {}
    wrong = []
    reaped = 0

    def told(self, what, pid, fits):
        if not fits or self.reaped > GOAL + 50:
            self.wrong.append((what, pid))

    def spawn(self, pid):
        self.told("spawn", pid, pid not in self.living)
        self.living.add(pid)
        self.seen[pid] = self.seen.get(pid, 0) + 1

    def heartbeat(self, pid):
        self.told("heartbeat", pid, pid in self.living)
        if self.reaped < GOAL:
            os.kill(pid, signal.SIGKILL)

    def reap(self, pid):
        self.told("reap", pid, pid in self.living)
        self.living.discard(pid)
        self.reaped += 1
        if self.reaped == GOAL:
            os.kill(os.getpid(), signal.SIGQUIT)

    def cleanup(self, scope):
        with open(HERE + "/churn", "w") as file:
            json.dump([self.reaped, len(self.seen), max(self.seen.values()),
                       self.wrong, sorted(self.living)], file)

    def spirit(self):
        while self.tick():
            self.wait(5)

GOAL = 700
"""


@pytest.mark.parametrize("first", ["stop first", "start at once"])
def test_a_stranger_with_the_number_of_a_dead_manager_is_left_alone(first: str) -> None:
    with kit.service() as d:
        unshare = (kit.need("unshare"), *NAMESPACE)
        arguments = (str(d.script), str(d.pidfile), first)
        ended = d.run(*unshare, sys.executable, "-c", STALE, *arguments)
        assert ended.returncode == 0, ended.stderr
        out = json.loads(ended.stdout)
        assert out["same number"], "the kernel did not give the number away again"

        if first == "stop first":
            assert out["status"] == [1, "Not running\n", ""]
            assert out["nothing to stop"] == [0, "Not running\n", ""]
        assert out["again"][0] == 0
        assert out["new"]
        assert out["stop"][0] == 0
        assert out["stranger lives"]
        assert out["heard"] == "ready "
        assert not out["left"]


@pytest.mark.parametrize("doors", ["", "pidfd"])
def test_numbers_that_come_again_bring_no_hook_for_the_wrong_one(doors: str) -> None:
    with kit.service(CHURN, env={"GHOSTD_CLOSED_DOORS": doors}, loglevel="warn") as d:
        unshare = (kit.need("unshare"), *NAMESPACE)
        # Only 301 numbers: the kernel has to give each of them several times.
        run = (
            f"echo 305 >/proc/sys/kernel/pid_max; exec {sys.executable} {d.script} run"
        )
        ended = d.run(*unshare, "sh", "-ec", run)
        assert ended.returncode == 0, ended.stderr
        reaped, numbers, most, wrong, living = json.loads(
            (d.folder / "churn").read_text()
        )

        assert reaped >= 700
        assert numbers < reaped, "no number came again"
        assert most > 1
        assert not wrong
        assert not living
