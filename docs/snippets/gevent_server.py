import os
import socket
import sys

from ghostd import Prefork

ADDRESS = ("127.0.0.1", int(os.environ.get("PORT", "0")))


class Echo(Prefork):
    def init(self):
        self.listener = socket.create_server(ADDRESS)

    def spirit(self):
        from gevent import monkey

        monkey.patch_all()  # here, after the fork
        from gevent.pool import Pool
        from gevent.server import StreamServer

        # The class of sockets is another one by now.
        listener = socket.socket(fileno=self.listener.fileno())
        server = StreamServer(listener, self.answer, spawn=Pool(1000))
        server.start()
        self.log.info("place %d serves", self.slot)
        while self.wait(5):
            pass
        server.stop(timeout=60)  # closes the door, then waits for those in the pool

    def answer(self, client, _address):
        with client, client.makefile("rwb") as file:
            for line in file:
                file.write(line.upper())
                file.flush()


if __name__ == "__main__":
    sys.exit(Echo(name="echo", logfile="echo.log", pidfile="echo.pid").ctrl())
