"""The real binary, as a server of its own for each test; and a wire that can be cut."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

BINARY = os.environ.get("FANOUT_BINARY") or sys.exit("FANOUT_BINARY is not set; start run.sh")
MESSAGE_BYTES_MAX = 16 << 20
START_SECONDS = 60
END_SECONDS = 10


class Server:
    """`fanout serve` on a free port of the loopback interface. With `with`: killed at the end if it still runs."""

    def __init__(self, *options):
        self._command = [BINARY, "serve", "--log-format", "json", *options, "--listen"]

    def __enter__(self):
        return self._start("127.0.0.1:0")

    def _start(self, listen):
        environment = os.environ | {"FANOUT_LOG": "info"}
        self.process = subprocess.Popen(
            [*self._command, listen],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.log = deque(maxlen=50)
        self._serving = threading.Event()
        self.address = None
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._serving.wait(START_SECONDS) or self.address is None:
            self.__exit__()
            raise AssertionError(f"the server did not say that it serves:\n{''.join(self.log)}")
        self.channel = grpc.insecure_channel(self.address, [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)])
        self._await_readiness()
        return self

    def __exit__(self, *_):
        if self.address is not None:
            self.channel.close()
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            fields = json.loads(line).get("fields", {}) if line.startswith("{") else {}
            if fields.get("message") == "serving":
                self.address = fields["address"]
                self._serving.set()
        self._serving.set()

    def _await_readiness(self):
        """Waits until the plans of its data directory are read."""
        request = health_pb2.HealthCheckRequest(service="readiness")
        watch = health_pb2_grpc.HealthStub(self.channel).Watch(request, timeout=START_SECONDS)
        next(answer for answer in watch if answer.status == health_pb2.HealthCheckResponse.SERVING)
        watch.cancel()

    def start_again(self, number):
        """Ends it by this signal, and starts it again at the same address. Calls need a stub of the new channel."""
        self.process.send_signal(number)
        self.wait()
        self.__exit__()
        self._start(self.address)

    def terminate(self):
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """The exit code."""
        return self.process.wait(END_SECONDS)


class Wire:
    """A TCP relay to a server. `cut` breaks the connections there are; later ones work."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Wakes accept, which closing alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self):
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            hang_up(end)

    def _accept(self):
        try:
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._ends += [client, server]
                for source, sink in [(client, server), (server, client)]:
                    threading.Thread(target=relay, args=(source, sink), daemon=True).start()
        except OSError:
            return


def relay(source, sink):
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        hang_up(source)
        hang_up(sink)


def hang_up(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
