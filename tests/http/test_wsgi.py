"""An application that blocks, in threads."""

from __future__ import annotations

from tests.http.kit import serving


def test_what_runs_in_a_thread_is_answered_and_told_to_close() -> None:
    with (
        serving(app="apps:wsgi", probe="/") as d,
        d.client() as idle,
        d.client() as client,
    ):
        pid = int(idle.get().body)
        client.ask("/wait")
        d.wait_for((d.folder / "in_flight").exists)
        d.drain_one()
        d.wait_for_line(" drains ")
        assert idle.get().closes
        (d.folder / "go").touch()
        answer = client.answer()

        assert answer.body == b"%d\n" % pid
        assert answer.closes
        d.wait_for(lambda: pid not in d.spirits)


def test_a_stream_of_a_thread_is_handed_over_piece_by_piece() -> None:
    with serving(app="apps:wsgi") as d, d.client() as client:
        client.ask("/stream")
        client.head()
        chunks = client.chunks()
        assert next(chunks) == b"first"
        pid = d.drain_one()
        d.wait_for_line(" drains ")
        (d.folder / "go").touch()

        assert list(chunks) == [b"second"]
        d.wait_for(lambda: pid not in d.spirits)
        assert (d.folder / "closed").read_text() == str(pid)


def test_a_slow_request_is_no_hung_spirit() -> None:
    with serving(app="apps:wsgi", threads=2, heartbeat_timeout=0.5) as d:
        with d.client() as slow:
            slow.ask("/slow")  # twice as long as a spirit may be silent
            assert slow.answer().status == 200
        assert not d.log_lines("silent")


def test_threads_that_are_all_stuck_are_a_hung_spirit() -> None:
    with serving(app="apps:wsgi", threads=2, heartbeat_timeout=0.5) as d:
        pid = d.spirits[0]
        clients = [d.client() for _ in range(2)]
        for client in clients:
            client.ask("/wait")
        d.wait_for_line("all threads are busy")
        assert d.log_lines("in wsgi")  # where they are
        d.wait_for(lambda: d.spirits and pid != d.spirits[-1])
        (d.folder / "go").touch()
        for client in clients:
            assert client.answer().status == 200  # it was told to leave, not killed
            client.sock.close()


def test_errors_of_the_application_are_logged() -> None:
    with serving(app="apps:wsgi_failing") as d:
        assert d.get("/raise").status == 500
        d.wait_for_line("ZeroDivisionError")
        assert d.get("/late").body == b"good"
        d.wait_for_line("An application failed after its answer")
        assert d.get("/errors").status == 200
        d.wait_for_line("[error] written to wsgi.errors")
