package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fanout "example/go-executor/generated/fanout/v1"
)

// Records in one message. The server allows 1,000; small messages are answered sooner.
const recordsPerMessage = 100

// errStopped says that no more records are taken: a signal came, or the plan has ended.
var errStopped = errors.New("no more records are taken")

// recordStream is one SubmitRecord stream that outlives its connections.
//
// send queues a record and waits while inFlight records are without a receipt. run talks to the server, and returns when
// the stream was closed and every record has its receipt. What became of the records can be read when run has returned.
//
// The records are numbered from 0 on, as those of a producer that only this stream is. So one that is sent again, as it
// has no receipt yet, is not applied again, and gets the receipt that it got.
type recordStream struct {
	client     fanout.FanoutServiceClient
	planID     string
	producerID string
	inFlight   int

	// What became of the records, and the ids of the tasks that are known to have a result.
	dispositions map[fanout.Disposition]int
	withResult   map[string]bool
	reconnects   int

	// Guards what follows; changed is signalled with each change of it.
	mutex   sync.Mutex
	changed *sync.Cond
	// Records without a receipt, oldest first; the first `sent` of them were sent on this connection.
	records []*fanout.Record
	sent    int
	// Records with a receipt: the offset of the first one without.
	receipted uint64
	connected bool
	closed    bool
	stopped   chan struct{}
}

func newRecordStream(client fanout.FanoutServiceClient, planID string, inFlight int) *recordStream {
	stream := &recordStream{
		client:       client,
		planID:       planID,
		producerID:   rand.Text(),
		inFlight:     inFlight,
		dispositions: map[fanout.Disposition]int{},
		withResult:   map[string]bool{},
		stopped:      make(chan struct{}),
	}
	stream.changed = sync.NewCond(&stream.mutex)
	return stream
}

// change changes what the mutex guards.
func (s *recordStream) change(to func()) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	to()
	s.changed.Broadcast()
}

// send queues a record. It fails with errStopped if none is taken any more.
func (s *recordStream) send(record *fanout.Record) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for !s.closed && len(s.records) >= s.inFlight {
		s.changed.Wait()
	}
	if s.closed {
		return errStopped
	}
	s.records = append(s.records, record)
	s.changed.Broadcast()
	return nil
}

// close takes no more records; those queued are still sent.
func (s *recordStream) close() {
	s.change(func() { s.closed = true })
}

// stop closes, and does not connect again. Call it once.
func (s *recordStream) stop() {
	close(s.stopped)
	s.close()
}

func (s *recordStream) isStopped() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}

// refused is the number of records that were not taken.
func (s *recordStream) refused() int {
	count := 0
	for disposition, receipts := range s.dispositions {
		if !isTaken(disposition) {
			count += receipts
		}
	}
	return count
}

// run talks to the server until ctx ends. It fails if the server is lost or refuses the stream.
func (s *recordStream) run(ctx context.Context) error {
	defer s.close()
	var patience patience
	for !s.isStopped() {
		answered, err := s.talk(ctx)
		if err == nil || s.isStopped() {
			return nil
		}
		if answered {
			patience.reward()
		}
		wait, again := patience.after(err)
		if !again {
			return err
		}
		s.reconnects++
		select {
		case <-time.After(wait):
		case <-s.stopped:
		}
	}
	return nil
}

// talk is one connection, from its first message to its end, and says whether the server answered on it.
func (s *recordStream) talk(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	call, err := s.client.SubmitRecord(ctx)
	if err != nil {
		cancel()
		return false, err
	}
	s.change(func() { s.sent, s.connected = 0, true })
	var sending sync.WaitGroup
	sending.Go(func() { s.sendMessages(call) })
	defer func() {
		cancel()
		s.change(func() { s.connected = false })
		sending.Wait()
	}()
	for {
		response, err := call.Recv()
		if err == io.EOF {
			return answered, nil
		}
		if err != nil {
			return answered, err
		}
		answered = true
		if err := s.take(response); err != nil {
			return answered, err
		}
	}
}

// sendMessages sends what has no receipt yet, then what comes, and half-closes at the end.
func (s *recordStream) sendMessages(call fanout.FanoutService_SubmitRecordClient) {
	for {
		request, ok := s.nextMessage()
		if !ok {
			return
		}
		if request == nil {
			// An error of the call comes with Recv, here and below.
			_ = call.CloseSend()
			return
		}
		if call.Send(request) != nil {
			return
		}
	}
}

// nextMessage waits for records, and returns them as a message: nil when the stream is closed and all were sent, not ok
// when the connection is gone.
func (s *recordStream) nextMessage() (request *fanout.SubmitRecordRequest, ok bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for s.connected && !s.closed && s.sent == len(s.records) {
		s.changed.Wait()
	}
	unsent := s.records[s.sent:]
	if len(unsent) == 0 {
		return nil, s.connected
	}
	request = &fanout.SubmitRecordRequest{
		PlanId:      s.planID,
		Records:     slices.Clone(unsent[:min(len(unsent), recordsPerMessage)]),
		ProducerId:  s.producerID,
		FirstOffset: new(s.receipted + uint64(s.sent)),
		// What was sent need not come back.
		View: fanout.View_VIEW_BASIC,
	}
	s.sent += len(request.Records)
	return request, s.connected
}

// take takes the receipts of one message. They come in the order of the records.
func (s *recordStream) take(response *fanout.SubmitRecordResponse) error {
	for _, receipt := range response.Receipts {
		record, err := s.acknowledged()
		if err != nil {
			return err
		}
		s.dispositions[receipt.Disposition]++
		if receipt.Status != fanout.TaskStatus_TASK_STATUS_UNSPECIFIED {
			s.withResult[receipt.TaskId] = true
		}
		if !isTaken(receipt.Disposition) {
			complain(record, receipt)
		}
	}
	if response.Status != fanout.PlanStatus_PLAN_STATUS_INCOMPLETE {
		// Somebody else's records, a deadline or SealPlan ended the plan: begin nothing more.
		s.close()
	}
	return nil
}

// acknowledged removes the oldest record that was sent: it has its receipt.
func (s *recordStream) acknowledged() (*fanout.Record, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.sent == 0 {
		return nil, status.Error(codes.Internal, "the server sent more receipts than it got records")
	}
	record := s.records[0]
	s.records = s.records[1:]
	s.sent--
	s.receipted++
	s.changed.Broadcast()
	return record, nil
}

// isTaken says whether the record was taken, now or before. One that was not would not be if it were sent again.
func isTaken(disposition fanout.Disposition) bool {
	switch disposition {
	case fanout.Disposition_DISPOSITION_ACCEPTED,
		fanout.Disposition_DISPOSITION_DUPLICATE,
		fanout.Disposition_DISPOSITION_SUPERSEDED_PREVIOUS:
		return true
	}
	return false
}

// complain says why a record was refused. A disposition this executor does not know is worth a line, too.
func complain(record *fanout.Record, receipt *fanout.Receipt) {
	reason := "got a receipt that this executor does not know"
	switch receipt.Disposition {
	case fanout.Disposition_DISPOSITION_UNMATCHED:
		reason = "names no task of the plan; it is in quarantine"
	case fanout.Disposition_DISPOSITION_AMBIGUOUS:
		reason = "names several tasks; it is in quarantine"
	case fanout.Disposition_DISPOSITION_KEYS_DISAGREE:
		reason = "names different tasks; it is in quarantine"
	case fanout.Disposition_DISPOSITION_LATE:
		reason = "came too late; it is in quarantine"
	case fanout.Disposition_DISPOSITION_INVALID:
		reason = "is not valid"
	case fanout.Disposition_DISPOSITION_TOO_LARGE:
		reason = "is over a limit"
	}
	if len(receipt.CandidateTaskIds) > 0 {
		reason += ": " + strings.Join(receipt.CandidateTaskIds, ", ")
	}
	if violation := receipt.Violation; violation != nil {
		reason += fmt.Sprintf(": %s: %s (%s)", violation.Field, violation.Description, violation.Reason)
	}
	fmt.Fprintf(os.Stderr, "executor: %s: the record of task %s %s\n", nameOf(receipt.Disposition), record.TaskId, reason)
}

// nameOf is ACCEPTED, or the number of a disposition that is newer than these stubs.
func nameOf(disposition fanout.Disposition) string {
	return strings.TrimPrefix(disposition.String(), "DISPOSITION_")
}
