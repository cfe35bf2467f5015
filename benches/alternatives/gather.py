"""Runs a function for each of many tasks in two processes, and gathers the results in a third as they come.

    gather.py dask TASKS
    gather.py fanout TASKS ADDRESS

prints as JSON how many results came, the seconds from the beginning to the last one, and the CPU seconds of all Python
processes. Dask sends each task to a process; with Fanout each takes its half.
"""

import json
import multiprocessing
import sys
import time

PROCESSES = 2
DOCUMENT_BYTES = 315


def task(number: int) -> bytes:
    """What is done for a task: nothing but a result of the size of a record."""
    begin = f'{{"status":"succeeded","outcome":{{"changed":{number % 97}}},"summary":"module {number} is fine'
    return begin.ljust(DOCUMENT_BYTES - 2).encode() + b'"}'


class Clock:
    """Wall-clock and CPU time of this process from here on."""

    def __init__(self) -> None:
        self._began, self._cpu_began = time.monotonic(), time.process_time()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def cpu(self) -> float:
        return time.process_time() - self._cpu_began


def gather_with_dask(tasks: int) -> dict:
    from dask.distributed import Client, LocalCluster, as_completed

    with (
        LocalCluster(
            n_workers=PROCESSES, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=40
        ) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(task, range(100), pure=False))
        workers = sum(client.run(time.process_time).values())
        clock = Clock()
        gathered = 0
        for batch in as_completed(client.map(task, range(tasks), pure=False), with_results=True).batches():
            gathered += sum(len(result) == DOCUMENT_BYTES for _, result in batch)
        seconds, cpu = clock.seconds(), clock.cpu()
        cpu += sum(client.run(time.process_time).values()) - workers
    return {"gathered": gathered, "seconds": seconds, "cpu": cpu}


def gather_with_fanout(tasks: int, address: str) -> dict:
    import grpc
    from fanout.v1 import fanout_service_pb2 as service
    from fanout.v1 import fanout_service_pb2_grpc as stubs
    from fanout.v1 import plan_pb2 as plan

    processes = multiprocessing.get_context("spawn")
    ready, used = processes.Barrier(PROCESSES + 1), processes.Queue()
    executors = [
        processes.Process(target=execute, args=(address, range(first, tasks, PROCESSES), ready, used), daemon=True)
        for first in range(PROCESSES)
    ]
    for executor in executors:
        executor.start()
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        stub = stubs.FanoutServiceStub(channel)
        request = plan.PlanRequest(
            plan_id="plan",
            config=b'{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}',
            page_size=1,
        )
        ready.wait(timeout=30)
        clock = Clock()
        request.items = json.dumps([{"k": number} for number in range(tasks)]).encode()
        stub.Plan(request)
        ready.wait(timeout=30)
        gathered = 0
        for frame in stub.WatchPlan(service.WatchPlanRequest(plan_id="plan", include_payload=True)):
            gathered += frame.HasField("result") and len(frame.result.record) >= DOCUMENT_BYTES
        seconds, cpu = clock.seconds(), clock.cpu()
    cpu += sum(used.get(timeout=30) for _ in executors)
    for executor in executors:
        executor.join()
    return {"gathered": gathered, "seconds": seconds, "cpu": cpu}


def execute(address: str, numbers: range, ready, used) -> None:
    """Runs its share of the tasks, and sends each result as soon as there is one."""
    import grpc
    from fanout.v1 import fanout_service_pb2_grpc as stubs
    from fanout.v1 import record_pb2 as record

    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        ready.wait(timeout=30)
        clock = Clock()
        ready.wait(timeout=30)
        messages = (
            record.SubmitRecordRequest(
                plan_id="plan", records=[record.Record(task_id=f"task-{number}", body=task(number))]
            )
            for number in numbers
        )
        for answer in stubs.FanoutServiceStub(channel).SubmitRecord(messages):
            for receipt in answer.receipts:
                if receipt.disposition != record.DISPOSITION_ACCEPTED:
                    raise SystemExit(f"not accepted: {receipt}")
    used.put(clock.cpu())


if __name__ == "__main__":
    kind, tasks, *address = sys.argv[1:]
    gather = {"dask": gather_with_dask, "fanout": gather_with_fanout}[kind]
    print(json.dumps(gather(int(tasks), *address)))
