"""A client that is killed in the middle of its stream.

    client_to_kill.py ADDRESS RESPONSES SECONDS < REQUESTS

Sends SubmitRecordRequests over one SubmitRecord stream as they come on standard input, base64 in one line each, and
prints the first RESPONSES SubmitRecordResponses in the same form; it reads no others. It half-closes and ends when its
input does, and fails after so many seconds.
"""

import sys
import threading
from base64 import b64decode, b64encode
from itertools import islice

import grpc
from fanout.v1 import fanout_service_pb2_grpc as service_grpc
from fanout.v1 import record_pb2 as record


def main():
    address, responses, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    input_ended = threading.Event()

    def requests():
        for line in sys.stdin:
            yield record.SubmitRecordRequest.FromString(b64decode(line))
        input_ended.set()

    with grpc.insecure_channel(address) as channel:
        call = service_grpc.FanoutServiceStub(channel).SubmitRecord(requests(), timeout=seconds)
        for response in islice(call, responses):
            print(b64encode(response.SerializeToString()).decode(), flush=True)
        return 0 if input_ended.wait(seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
