#!/usr/bin/env python3
"""An executor: takes its share of a plan's task requests, works on each, and streams records back.

It shows what an executor needs, and is meant to be copied:

  * which tasks are left: the snapshot of WatchPlan says what has a result, GetPlan pages through the task requests
  * one SubmitRecord stream for all records: STARTED, PROGRESS, then the result of each task
  * receipts are read while records are sent, and only so many records may be without one
  * a lost connection is opened again, also to a server that was started again; records without a receipt are sent
    again, numbered as before, so that none is applied twice

This one uses threads: one works, one talks to the server. What it does is in execution.py.
"""

import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from execution import (
    CALL_SECONDS,
    CHANNEL_OPTIONS,
    STOP_SECONDS,
    Ledger,
    Patience,
    Share,
    Stopped,
    arguments,
    demo_request,
    first_page_request,
    records_of,
    report,
    report_refused_call,
    snapshot_request,
)

# After execution.py, which says where the stubs are.
import grpc
from fanout.v1 import fanout_service_pb2_grpc as service_grpc


class RecordStream:
    """One SubmitRecord stream that outlives its connections.

    `send` queues a record and waits while `in_flight` records are without a receipt. `run` talks to the server, and
    returns when the stream was closed and every record has its receipt.
    """

    def __init__(self, stub, plan_id, in_flight):
        self.ledger = Ledger(plan_id, in_flight)
        self.reconnects = 0
        self._stub = stub
        # Guards the ledger and everything below.
        self._changed = threading.Condition()
        self._connection = 0
        self._call = None
        self._closed = False
        self._stopped = False

    def send(self, made):
        """Queues a record. Raises Stopped if none is taken any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self.ledger.is_full)
            if self._closed:
                raise Stopped
            self.ledger.add(made)
            self._changed.notify_all()

    def close(self):
        """Takes no more records; those queued are still sent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self):
        """Closes, does not connect again, and gives up on receipts after a while."""
        with self._changed:
            self._stopped = True
            self.close()
        give_up = threading.Timer(STOP_SECONDS, self._cancel)
        give_up.daemon = True
        give_up.start()

    def _cancel(self):
        with self._changed:
            if self._call is not None:
                self._call.cancel()

    def run(self):
        """Talks to the server. Raises grpc.RpcError if it is lost or refuses the stream."""
        patience = Patience()
        try:
            while not self._stopped:
                try:
                    for response in self._connect():
                        self._take(response)
                        patience.reward()
                    return
                except grpc.RpcError as error:
                    if self._stopped:
                        return
                    seconds = patience.seconds_after(error)
                    if seconds is None:
                        raise
                    self.reconnects += 1
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, timeout=seconds)
        finally:
            self.close()

    def _connect(self):
        with self._changed:
            self._connection += 1
            self.ledger.reconnect()
            self._changed.notify_all()
            self._call = self._stub.SubmitRecord(self._requests(self._connection))
            return self._call

    def _requests(self, connection):
        """The messages of one connection: first what has no receipt yet, then what comes. Half-closes at the end."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or connection != self._connection or self.ledger.has_unsent
                )
                if connection != self._connection:
                    return
                request = self.ledger.next_request()
            if request is None:
                return
            yield request

    def _take(self, response):
        with self._changed:
            is_open = self.ledger.take(response)
            self._changed.notify_all()
        if not is_open:
            # Somebody else's records, a deadline or SealPlan ended the plan: begin nothing more.
            self.close()


def persistently(call, *arguments, **options):
    """Calls again while the server is away. Raises grpc.RpcError if it is lost or refuses the call."""
    patience = Patience()
    while True:
        try:
            return call(*arguments, **options)
        except grpc.RpcError as error:
            seconds = patience.seconds_after(error)
            if seconds is None:
                raise
        time.sleep(seconds)


def with_result(stub, plan_id):
    """Ids of the tasks that have a result already."""
    watch = stub.WatchPlan(snapshot_request(plan_id), timeout=CALL_SECONDS, wait_for_ready=True)
    done = set()
    for response in watch:
        done.update(result.task_id for result in response.snapshot.results)
        if response.snapshot.last:
            break
    watch.cancel()
    return done


def find_share(stub, plan_id, part):
    """What is left of a part of a plan."""
    share = Share(plan_id, part, persistently(with_result, stub, plan_id))
    request = first_page_request(plan_id)
    while True:
        page = persistently(stub.GetPlan, request, timeout=CALL_SECONDS, wait_for_ready=True)
        share.take(page.task_requests)
        if not page.next_page_token:
            return share
        request.page_token = page.next_page_token


def work(share, stream):
    """Works on the tasks one by one."""
    try:
        for position, task in share.tasks:
            for made in records_of(task, share.session(position)):
                stream.send(made)
    except Stopped:
        pass
    finally:
        stream.close()


def execute(stub, plan_id, part, in_flight):
    """Works on what is left of a part of a plan. Returns the exit code."""
    share = find_share(stub, plan_id, part)
    stream = RecordStream(stub, plan_id, in_flight)
    signals = []

    def stop(number, _):
        signals.append(number)
        stream.stop()

    # The handlers run in this thread, which only waits below; so the stream's lock is never held by it.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    lost = None
    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(work, share, stream)
        talking = pool.submit(stream.run)
        try:
            talking.result()
            working.result()
        except grpc.RpcError as error:
            lost = error
    return report(share, stream.ledger, stream.reconnects, signals, lost)


def main():
    options = arguments(__doc__)
    with grpc.insecure_channel(options.server, CHANNEL_OPTIONS) as channel:
        stub = service_grpc.FanoutServiceStub(channel)
        try:
            plan_id = options.plan_id
            if options.demo:
                planned = persistently(stub.Plan, demo_request(), timeout=CALL_SECONDS, wait_for_ready=True)
                plan_id = planned.plan.plan_id
            return execute(stub, plan_id, options.shard, options.in_flight)
        except grpc.RpcError as error:
            return report_refused_call(options.server, error)


if __name__ == "__main__":
    sys.exit(main())
