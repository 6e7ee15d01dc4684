import sys

from ghostd import Prefork


class Shop(Prefork):
    def init(self):
        for sock in self.sockets.values():
            sock.setblocking(False)

    def spirit(self):
        self.log.info("place %d has %s", self.slot, self.sockets)
        while self.wait(60, *self.sockets.values()):
            for sock in self.sockets.values():
                try:
                    client, _ = sock.accept()
                except BlockingIOError:
                    continue  # another spirit was quicker
                self.answer(client)
        for client in self.sockets.leftovers():
            self.answer(client)

    def answer(self, client):
        with client:
            client.sendall(b"place %d\n" % self.slot)


if __name__ == "__main__":
    listen = ["127.0.0.1:0?name=web", "unix:shop.sock?mode=660"]
    sys.exit(Shop(listen=listen, logfile="shop.log").ctrl())
