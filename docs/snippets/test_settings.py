from ghostd.testing import OBEDIENT, STUBBORN, PoolSettings, run_in_world


def test_a_stubborn_spirit_holds_a_stop_up_for_ten_seconds():
    settings = PoolSettings(spirits=2, graceful_timeout=10)

    world = run_in_world(settings, [STUBBORN, OBEDIENT], seconds=3600)

    assert world.healthy == 2
    assert 10 <= world.stop() < 11  # seconds of the world's clock
    assert world.over
