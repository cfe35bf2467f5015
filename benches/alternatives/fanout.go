// Fanout: records over streams, each matched to its task, reconciled, kept and receipted.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	wire "example/go-executor/generated/fanout/v1"
)

const (
	fanoutStreams    = 64
	fanoutConfig     = `{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}`
	messageBytesMax  = 16 << 20
	windowBytes      = 1 << 20
	socketBytes      = 256 << 10
	fieldReceipts    = 1
	fieldDisposition = 1
)

type fanout struct {
	program string
	batch   int
}

func (f fanout) measure(running context.Context, folder string, records int) (measurement, error) {
	running, done := context.WithTimeout(running, measurementTime)
	defer done()
	address, _, err := freeAddress()
	if err != nil {
		return measurement{}, err
	}
	server, err := start(running, folder, address, syscall.SIGKILL, nil, f.program, "serve", "--listen", address)
	if err != nil {
		return measurement{}, err
	}
	defer server.stop()

	clients := make([]*grpc.ClientConn, connections)
	for nth := range clients {
		client, err := grpc.NewClient(address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)),
			grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(messageBytesMax),
			grpc.WithReadBufferSize(socketBytes), grpc.WithWriteBufferSize(socketBytes))
		if err != nil {
			return measurement{}, err
		}
		defer client.Close()
		clients[nth] = client
	}
	plans := wire.NewFanoutServiceClient(clients[0])
	if err := register(running, plans, records); err != nil {
		return measurement{}, err
	}
	streams := make([]*stream, fanoutStreams)
	for nth := range streams {
		opened, err := f.open(running, clients[nth%connections], records, nth)
		if err != nil {
			return measurement{}, err
		}
		streams[nth] = opened
	}
	measured, err := server.clocked(records, func() error {
		var group errgroup.Group
		for _, stream := range streams {
			group.Go(stream.send)
			group.Go(stream.receive)
		}
		return group.Wait()
	})
	if err != nil {
		return measurement{}, err
	}
	answer, err := plans.GetPlan(running, &wire.GetPlanRequest{PlanId: "plan"})
	if err != nil {
		return measurement{}, err
	}
	return measured, expectCount(fmt.Sprint(answer.GetPlan().GetCounts().GetSuccessful()), records)
}

// register plans task-0, task-1 and so on. The plan is completed when all of them have a record.
func register(running context.Context, plans wire.FanoutServiceClient, tasks int) error {
	items := make([]string, tasks)
	for task := range items {
		items[task] = fmt.Sprintf(`{"k":%d}`, task)
	}
	_, err := plans.Plan(running, &wire.PlanRequest{
		PlanId:   "plan",
		Config:   []byte(fanoutConfig),
		Source:   &wire.PlanRequest_Items{Items: []byte("[" + strings.Join(items, ",") + "]")},
		PageSize: 1,
	})
	return err
}

// stream is one SubmitRecord call, and the messages to send on it.
type stream struct {
	grpc.ClientStream
	messages [][]byte
	records  int
}

func (f fanout) open(running context.Context, client *grpc.ClientConn, records, nth int) (*stream, error) {
	first, end := share(records, fanoutStreams, nth)
	opened := &stream{records: end - first}
	for first < end {
		request := &wire.SubmitRecordRequest{PlanId: "plan"}
		for range min(f.batch, end-first) {
			made := makeRecord(first)
			request.Records = append(request.Records, &wire.Record{TaskId: made.taskID, Body: made.document})
			first++
		}
		if bytes := proto.Size(request.Records[0]); bytes != recordBytes {
			return nil, fmt.Errorf("a record takes %d bytes", bytes)
		}
		message, err := proto.Marshal(request)
		if err != nil {
			return nil, err
		}
		opened.messages = append(opened.messages, message)
	}
	description := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	method := wire.FanoutService_SubmitRecord_FullMethodName
	call, err := client.NewStream(running, description, method, grpc.ForceCodecV2(asIs{}))
	opened.ClientStream = call
	return opened, err
}

func (s *stream) send() error {
	for _, message := range s.messages {
		if err := s.SendMsg(message); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // The receiving side knows why.
			}
			return err
		}
	}
	return s.CloseSend()
}

// receive counts the receipts, each of which has to say ACCEPTED.
func (s *stream) receive() error {
	receipted := 0
	for {
		var receipts int
		if err := s.RecvMsg(&receipts); errors.Is(err, io.EOF) {
			return expectCount(fmt.Sprint(receipted), s.records)
		} else if err != nil {
			return err
		}
		receipted += receipts
	}
}

// asIs sends bytes as they are, and reads of an answer how many receipts it has.
type asIs struct{}

func (asIs) Name() string { return "proto" }

func (asIs) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(message.([]byte))}, nil
}

func (asIs) Unmarshal(parts mem.BufferSlice, receipts any) error {
	buffer := parts.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	count := 0
	for message := buffer.ReadOnlyData(); len(message) > 0; {
		number, receipt, _, rest, err := nextField(message)
		if err != nil {
			return err
		}
		message = rest
		if number != fieldReceipts {
			continue
		}
		count++
		if err := expectAccepted(receipt); err != nil {
			return err
		}
	}
	*receipts.(*int) = count
	return nil
}

func expectAccepted(receipt []byte) error {
	for len(receipt) > 0 {
		number, _, value, rest, err := nextField(receipt)
		if err != nil {
			return err
		}
		if number == fieldDisposition && value == uint64(wire.Disposition_DISPOSITION_ACCEPTED) {
			return nil
		}
		receipt = rest
	}
	return errors.New("a record was not accepted")
}

// nextField reads the first field of a message, which is bytes or a varint, and what is left of the message.
func nextField(message []byte) (number protowire.Number, bytes []byte, varint uint64, rest []byte, err error) {
	number, kind, length := protowire.ConsumeTag(message)
	if length < 0 {
		return 0, nil, 0, nil, protowire.ParseError(length)
	}
	message = message[length:]
	switch kind {
	case protowire.VarintType:
		varint, length = protowire.ConsumeVarint(message)
	case protowire.BytesType:
		bytes, length = protowire.ConsumeBytes(message)
	default:
		length = protowire.ConsumeFieldValue(number, kind, message)
	}
	if length < 0 {
		return 0, nil, 0, nil, protowire.ParseError(length)
	}
	return number, bytes, varint, message[length:], nil
}
