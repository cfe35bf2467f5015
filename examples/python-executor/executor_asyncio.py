#!/usr/bin/env python3
"""An executor as executor.py is one, on asyncio: takes its share of a plan's task requests, works on each, and streams
records back.

It shows what an executor needs, and is meant to be copied:

  * which tasks are left: the snapshot of WatchPlan says what has a result, GetPlan pages through the task requests
  * one SubmitRecord stream for all records: STARTED, PROGRESS, then the result of each task
  * receipts are read while records are sent, and only so many records may be without one
  * a lost connection is opened again, also to a server that was started again; records without a receipt are sent
    again, numbered as before, so that none is applied twice

This one uses one event loop; only the work runs beside it. What it does is in execution.py.
"""

import asyncio
import signal
import sys

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
    returns when the stream was closed and every record has its receipt. All of it belongs to one event loop.
    """

    def __init__(self, stub, plan_id, in_flight):
        self.ledger = Ledger(plan_id, in_flight)
        self.reconnects = 0
        self._stub = stub
        # Set, and replaced by a new one, whenever something that is waited for may have come true.
        self._changed = asyncio.Event()
        self._connection = 0
        self._call = None
        self._closed = False
        self._stopped = False

    def _notify(self):
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, holds):
        while not holds():
            await self._changed.wait()

    async def send(self, made):
        """Queues a record. Raises Stopped if none is taken any more."""
        await self._until(lambda: self._closed or not self.ledger.is_full)
        if self._closed:
            raise Stopped
        self.ledger.add(made)
        self._notify()

    def close(self):
        """Takes no more records; those queued are still sent."""
        self._closed = True
        self._notify()

    def stop(self):
        """Closes, does not connect again, and gives up on receipts after a while."""
        self._stopped = True
        self.close()
        asyncio.get_running_loop().call_later(STOP_SECONDS, self._cancel)

    def _cancel(self):
        if self._call is not None:
            self._call.cancel()

    async def run(self):
        """Talks to the server. Raises grpc.RpcError if it is lost or refuses the stream."""
        patience = Patience()
        try:
            while not self._stopped:
                try:
                    async for response in self._connect():
                        self._take(response)
                        patience.reward()
                    return
                except asyncio.CancelledError:
                    # So a call ends that `stop` gave up on.
                    if self._call.cancelled() and self._stopped:
                        return
                    raise
                except grpc.RpcError as error:
                    if self._stopped:
                        return
                    seconds = patience.seconds_after(error)
                    if seconds is None:
                        raise
                    self.reconnects += 1
                try:
                    await asyncio.wait_for(self._until(lambda: self._stopped), seconds)
                except TimeoutError:
                    pass
        finally:
            self.close()

    def _connect(self):
        self._connection += 1
        self.ledger.reconnect()
        self._notify()
        self._call = self._stub.SubmitRecord(self._requests(self._connection))
        return self._call

    async def _requests(self, connection):
        """The messages of one connection: first what has no receipt yet, then what comes. Half-closes at the end."""
        while True:
            await self._until(lambda: self._closed or connection != self._connection or self.ledger.has_unsent)
            if connection != self._connection:
                return
            request = self.ledger.next_request()
            if request is None:
                return
            yield request

    def _take(self, response):
        is_open = self.ledger.take(response)
        self._notify()
        if not is_open:
            # Somebody else's records, a deadline or SealPlan ended the plan: begin nothing more.
            self.close()


async def persistently(call, *arguments, **options):
    """Calls again while the server is away. Raises grpc.RpcError if it is lost or refuses the call."""
    patience = Patience()
    while True:
        try:
            return await call(*arguments, **options)
        except grpc.RpcError as error:
            seconds = patience.seconds_after(error)
            if seconds is None:
                raise
        await asyncio.sleep(seconds)


async def with_result(stub, plan_id):
    """Ids of the tasks that have a result already."""
    watch = stub.WatchPlan(snapshot_request(plan_id), timeout=CALL_SECONDS, wait_for_ready=True)
    done = set()
    async for response in watch:
        done.update(result.task_id for result in response.snapshot.results)
        if response.snapshot.last:
            break
    watch.cancel()
    return done


async def find_share(stub, plan_id, part):
    """What is left of a part of a plan."""
    share = Share(plan_id, part, await persistently(with_result, stub, plan_id))
    request = first_page_request(plan_id)
    while True:
        page = await persistently(stub.GetPlan, request, timeout=CALL_SECONDS, wait_for_ready=True)
        share.take(page.task_requests)
        if not page.next_page_token:
            return share
        request.page_token = page.next_page_token


async def work(share, stream):
    """Works on the tasks one by one, in a thread beside the loop, so that receipts are read meanwhile."""
    try:
        for position, task in share.tasks:
            records = records_of(task, share.session(position))
            while made := await asyncio.to_thread(next, records, None):
                await stream.send(made)
    except Stopped:
        pass
    finally:
        stream.close()


async def execute(stub, plan_id, part, in_flight):
    """Works on what is left of a part of a plan. Returns the exit code."""
    share = await find_share(stub, plan_id, part)
    stream = RecordStream(stub, plan_id, in_flight)
    signals = []

    def stop(number):
        signals.append(number)
        stream.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    lost = None
    working = asyncio.create_task(work(share, stream))
    try:
        await stream.run()
    except grpc.RpcError as error:
        lost = error
    await working
    return report(share, stream.ledger, stream.reconnects, signals, lost)


async def main():
    options = arguments(__doc__)
    async with grpc.aio.insecure_channel(options.server, CHANNEL_OPTIONS) as channel:
        stub = service_grpc.FanoutServiceStub(channel)
        try:
            plan_id = options.plan_id
            if options.demo:
                planned = await persistently(stub.Plan, demo_request(), timeout=CALL_SECONDS, wait_for_ready=True)
                plan_id = planned.plan.plan_id
            return await execute(stub, plan_id, options.shard, options.in_flight)
        except grpc.RpcError as error:
            return report_refused_call(options.server, error)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
