"""Memory that runs out in a control group: the log says what it was."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.faults import kit

GROUPS = Path("/sys/fs/cgroup/memory")

HUNGRY = """
class Service(Prefork):
    def spirit(self):
        kept = []
        while self.tick():
            try:
                os.unlink(HERE + "/eat")
            except FileNotFoundError:
                self.wait(0.02)
                continue
            while self.tick():
                kept.append(bytes(4 << 20).replace(bytes(1), b"x"))
"""


def own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return GROUPS / path.lstrip("/")
    pytest.skip("no memory controller of cgroup 1 here")


@pytest.mark.root
def test_a_spirit_that_the_kernel_kills_for_memory_is_said_to_be_that() -> None:
    with contextlib.ExitStack() as stack:
        try:
            group = own_group() / f"ghostd-test-{kit.unique()}"
            group.mkdir()
        except OSError as error:
            pytest.skip(f"no control group can be made: {error}")
        stack.callback(lambda: kit.wait_for(lambda: not removed(group), 5))
        (group / "memory.limit_in_bytes").write_text(str(160 << 20))
        d = stack.enter_context(kit.service(HUNGRY))
        join = f'echo $$ >{group}/cgroup.procs; exec "$@"'
        ended = kit.start_by(d, "sh", "-ec", join, "sh")
        assert ended.returncode == 0, ended.stderr
        d.wait_for(kit.healthy(d))
        manager = d.pid
        (d.folder / "eat").touch()
        line = d.wait_for_line("died: killed by SIGKILL")
        assert "oom_kill 1" in (group / "memory.oom_control").read_text()
        d.wait_for(kit.healthy(d))

        assert line.endswith("killed by SIGKILL (out of memory)")
        assert d.pid == manager
        dead = d.kill_spirit()
        line = d.wait_for_line(f"Spirit {dead} died")
        assert line.endswith("killed by SIGKILL")


def removed(group: Path) -> bool:
    """Tell whether a group is still there after an attempt to remove it."""
    with contextlib.suppress(OSError):
        group.rmdir()
    return group.exists()
