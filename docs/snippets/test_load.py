import signal
import socket
from pathlib import Path

from ghostd.testing import Daemon, Load, strike

SCRIPT = Path(__file__).parents[2] / "examples" / "07_http.py"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_only_a_kill_loses_requests_and_only_its_own():
    port = free_port()
    with Daemon(SCRIPT, env={"PORT": str(port)}) as d:
        d.start()
        with Load(f"127.0.0.1:{port}", rate=300) as load:
            load.more(50)
            d.signal(signal.SIGHUP)
            d.wait_for_line("stopped", times=4)
            assert load.failed == 0

            death = strike(d.spirits[0])
            load.more(50)
            report = load.stop()
        assert not report.unexcused([death]), report
        assert report.percentile(50) < 1
