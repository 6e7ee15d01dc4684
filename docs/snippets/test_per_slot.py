from pathlib import Path

from ghostd.testing import Daemon

SCRIPT = Path(__file__).with_name("per_slot.py")


def test_who_is_killed_is_replaced_in_its_place():
    with Daemon(SCRIPT) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 4)
        dead = d.kill_spirit()
        d.wait_for(lambda: d.healthy == 4 and dead not in d.spirits)

        for place in range(4):
            assert d.log_lines(f"place {place} looks after 25 customers")
    # Here the daemon has been stopped, and nothing of it is left, or this fails.
