package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	fanout "example/go-executor/generated/fanout/v1"
)

const (
	planID        = "big"
	tasksPlanned  = 4_000
	streamsOpen   = 16
	recordsSent   = 50_000
	recordsLate   = 800
	cutsOfAWatch  = 8
	resultsToACut = 500
	// A page of the result document.
	tasksInAPage = 700
	// The stream that reads no receipts sends messages of so many records, and must be stopped by flow control long
	// before it has sent so many messages.
	recordsUnread  = 100
	messagesUnread = 10_000
)

// fiftyThousand is one plan with all its streams and watchers.
type fiftyThousand struct {
	*server
	oracle  *oracle
	scripts []*script
	// The record of the stream that reads no receipts, for the one task that no other stream has.
	repeated *expected
	// The watcher that begins in the middle begins when each stream has the receipts of a quarter of its records; the
	// streams go on, and wait for its snapshot in the middle.
	quarterDone   chan struct{}
	snapshotTaken chan struct{}
}

func TestEveryReceiptFrameAndDocumentOfFiftyThousandRecordsIsWhatTheOracleSays(t *testing.T) {
	t.Logf("FANOUT_SEED=%d", seed)
	test := prepare(t)
	test.submitRepeated(t)
	endIdle, endUnread := test.openIdle(t), test.openUnread(t)

	var watching errgroup.Group
	var whole []*fanout.WatchPlanResponse
	var cut *cutWatch
	// One failure ends every stream and watch.
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	watching.Go(func() (err error) {
		request := &fanout.WatchPlanRequest{PlanId: planID, IncludePayload: true}
		if whole, err = frames(ctx, test.server, request); err != nil {
			cancel()
		}
		return err
	})
	watching.Go(func() (err error) {
		if cut, err = test.watchWithCuts(ctx); err != nil {
			cancel()
		}
		return err
	})

	streams := make([]*stream, streamsOpen)
	var sending errgroup.Group
	for n, script := range test.scripts {
		sending.Go(func() (err error) {
			if streams[n], err = test.open(ctx); err == nil {
				err = streams[n].exchange(ctx, script.messages(script.steps))
			}
			if err != nil {
				err = fmt.Errorf("stream %d: %w", n, err)
				cancel()
			}
			return err
		})
	}
	check(t, sending.Wait())
	test.checkResult(t, fanout.PlanStatus_PLAN_STATUS_INCOMPLETE)

	sealed := seal(t, test.server, planID)
	if sealed.Status != fanout.PlanStatus_PLAN_STATUS_FAILED || sealed.EndReason != fanout.EndReason_END_REASON_SEALED {
		t.Fatalf("the sealed plan is %v, %v", sealed.Status, sealed.EndReason)
	}
	test.oracle.ended = true
	test.checkResult(t, fanout.PlanStatus_PLAN_STATUS_FAILED)
	check(t, watching.Wait())
	test.checkWatch(t, whole)
	test.checkCutWatch(t, cut)

	// An ended plan knows its records again, and sets other ones aside. The streams are the same ones.
	var late errgroup.Group
	for n, script := range test.scripts {
		messages := script.messages(script.write(recordsLate / streamsOpen))
		late.Go(func() error {
			if err := streams[n].exchange(ctx, messages); err != nil {
				cancel()
				return fmt.Errorf("stream %d after the end: %w", n, err)
			}
			return streams[n].halfClose()
		})
	}
	check(t, late.Wait())
	test.checkResult(t, fanout.PlanStatus_PLAN_STATUS_FAILED)

	steps := test.steps()
	if sent := len(steps); sent != recordsSent+1 {
		t.Errorf("%d records were sent", sent)
	}
	checkSequences(t, steps, test.oracle.quarantined)
	checkTheDrawWasWorthItsTime(t, steps)
	for n, stream := range streams {
		if err := stream.checkCounts(); err != nil {
			t.Errorf("stream %d: %v", n, err)
		}
	}
	endIdle()
	endUnread()
}

// prepare plans the tasks and writes the scripts.
func prepare(t *testing.T) *fiftyThousand {
	test := &fiftyThousand{
		server:        startServer(t),
		quarterDone:   make(chan struct{}, streamsOpen),
		snapshotTaken: make(chan struct{}),
	}
	draw := rand.New(rand.NewPCG(seed, streamsOpen))
	tasks, groups := make([]*plannedTask, tasksPlanned), make([]group, tasksPlanned)
	for position := range tasks {
		// Every tenth task shares its group key with the task before it.
		groupKey := fmt.Sprintf("group-%d", position-position%10/9)
		session, items := "", []document{}
		if draw.IntN(5) == 0 {
			session = fmt.Sprintf("planned-session-%d", position)
			items = []document{{"session": session}}
		}
		tasks[position] = &plannedTask{
			position: position, taskID: fmt.Sprintf("task-%d", position), id: fmt.Sprintf("other-name-%d", position),
			groupKey: groupKey, session: session,
		}
		groups[position] = group{groupKey, items}
	}
	register(t, test.server, planID, groups, document{
		"task_id":            "task-{{group.index}}",
		"id":                 "other-name-{{group.index}}",
		"sandbox_session_id": "{{group.items.0.session}}",
	}, fanout.SealRule_SEAL_RULE_EXPLICIT)

	test.oracle = newOracle(tasks)
	test.repeated = test.oracle.receive(&fanout.Record{TaskId: tasks[0].taskID, Status: "passed"})
	// The two tasks that share a key stay together: the order of what happens to both is determined.
	shared := tasks[10:]
	share := len(shared) / streamsOpen / 10 * 10
	for n := range streamsOpen {
		end := (n + 1) * share
		if n == streamsOpen-1 {
			end = len(shared)
		}
		script := newScript(test.oracle, shared[n*share:end], seed, uint64(n))
		script.write((recordsSent-recordsLate)/streamsOpen - 2)
		script.writeHeavy()
		test.scripts = append(test.scripts, script)
	}
	return test
}

// steps are the expectations of all records, those of one stream in its order.
func (f *fiftyThousand) steps() []*expected {
	steps := []*expected{f.repeated}
	for _, script := range f.scripts {
		steps = append(steps, script.steps...)
	}
	return steps
}

// submitRepeated submits the record that is going to be repeated.
func (f *fiftyThousand) submitRepeated(t *testing.T) {
	check(t, checkReceipt(f.repeated, submit(t, f.server, planID, f.repeated.record)[0], 0))
}

// openIdle opens a stream that sends nothing. The function returned ends it.
func (f *fiftyThousand) openIdle(t *testing.T) (end func()) {
	idle, err := f.SubmitRecord(limited(t))
	check(t, err)
	return func() {
		check(t, idle.CloseSend())
		if response, err := idle.Recv(); err != io.EOF {
			t.Errorf("a stream on which nothing was sent ended with %v, %v", response, err)
		}
	}
}

// openUnread opens a stream that sends one record again and again and reads no receipt. The function returned reads them
// after all: every one is there.
func (f *fiftyThousand) openUnread(t *testing.T) (end func()) {
	unread, err := f.SubmitRecord(limited(t))
	check(t, err)
	message := &fanout.SubmitRecordRequest{
		PlanId: planID, Records: slices.Repeat([]*fanout.Record{f.repeated.record}, recordsUnread),
	}
	var enough atomic.Bool
	var sent atomic.Int64
	var sending errgroup.Group
	sending.Go(func() error {
		for !enough.Load() && sent.Load() < messagesUnread {
			if err := unread.Send(message); err != nil {
				return err
			}
			sent.Add(1)
		}
		return unread.CloseSend()
	})
	return func() {
		enough.Store(true)
		if sent.Load() == messagesUnread {
			t.Errorf("%d messages were taken although no receipt was read", messagesUnread)
		}
		answered := int64(0)
		for {
			response, err := unread.Recv()
			if err == io.EOF {
				break
			}
			check(t, err)
			answered++
			if len(response.Receipts) != recordsUnread {
				t.Errorf("%d receipts for %d records", len(response.Receipts), recordsUnread)
			}
			for _, receipt := range response.Receipts {
				if receipt.Disposition != fanout.Disposition_DISPOSITION_DUPLICATE ||
					receipt.Sequence != f.repeated.sequence {
					t.Fatalf("the receipt of a repeated record is %v", prototext.Format(receipt))
				}
			}
		}
		check(t, sending.Wait())
		if answered != sent.Load() {
			t.Errorf("%d messages were answered, %d were sent", answered, sent.Load())
		}
		t.Logf("%d messages were sent and no receipt was read", answered)
	}
}

// stream is one SubmitRecord stream.
type stream struct {
	call      fanout.FanoutService_SubmitRecordClient
	sent      int
	responses []*fanout.SubmitRecordResponse
	// Told once that a quarter of the messages has its receipts; closed when the second half may be sent.
	quarterDone chan<- struct{}
	halfway     <-chan struct{}
}

func (f *fiftyThousand) open(ctx context.Context) (*stream, error) {
	call, err := f.SubmitRecord(ctx)
	return &stream{call: call, quarterDone: f.quarterDone, halfway: f.snapshotTaken}, err
}

// exchange sends messages and compares every receipt as it comes.
func (s *stream) exchange(ctx context.Context, messages [][]*expected) error {
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		for n, message := range messages {
			if n == len(messages)/2 {
				if err := waitFor(ctx, s.halfway); err != nil {
					return err
				}
			}
			request := &fanout.SubmitRecordRequest{Records: records(message)}
			// The plan is needed in the first message only.
			if s.sent%2 == 0 {
				request.PlanId = planID
			}
			s.sent++
			if err := s.call.Send(request); err != nil && err != io.EOF {
				return err
			}
		}
		return nil
	})
	both.Go(func() error {
		for n, message := range messages {
			if n == len(messages)/4 && s.quarterDone != nil {
				s.quarterDone <- struct{}{}
				s.quarterDone = nil
			}
			response, err := s.call.Recv()
			if err != nil {
				return err
			}
			if len(response.Receipts) != len(message) {
				return fmt.Errorf("%d receipts for %d records", len(response.Receipts), len(message))
			}
			for place, receipt := range response.Receipts {
				if err := checkReceipt(message[place], receipt, place); err != nil {
					return err
				}
			}
			s.responses = append(s.responses, response)
		}
		return nil
	})
	return both.Wait()
}

func (s *stream) halfClose() error {
	if err := s.call.CloseSend(); err != nil {
		return err
	}
	if _, err := s.call.Recv(); err != io.EOF {
		return fmt.Errorf("after the last receipt came %v", err)
	}
	return nil
}

// checkCounts checks that the counts of a stream's responses only grow, and fit each other.
func (s *stream) checkCounts() error {
	var last fanout.SubmitRecordResponse
	last.Counts = &fanout.Counts{}
	for n, now := range s.responses {
		counts, before := now.Counts, last.Counts
		switch {
		case now.Sequence < last.Sequence, counts.Recorded < before.Recorded, counts.Quarantined < before.Quarantined:
			return fmt.Errorf("response %d went back: %v after %v", n, now.Counts, before)
		case counts.Recorded+counts.Missing != tasksPlanned, counts.Successful+counts.Failed != counts.Recorded:
			return fmt.Errorf("the counts of response %d do not fit: %v", n, counts)
		}
		last.Sequence, last.Counts = now.Sequence, counts
	}
	return nil
}

// checkReceipt compares a receipt and keeps its numbers.
func checkReceipt(e *expected, receipt *fanout.Receipt, place int) error {
	reconciled, err := parse(receipt.Record)
	if err != nil {
		return fmt.Errorf("the record of a receipt is no JSON: %w", err)
	}
	warnings := slices.Sorted(slices.Values(receipt.Warnings))
	got := fact{
		Disposition: receipt.Disposition,
		TaskID:      receipt.TaskId,
		MatchedBy:   receipt.MatchedBy,
		Revision:    receipt.Revision,
		Status:      receipt.Status,
		Successful:  receipt.Successful,
		Record:      reconciled,
		Warnings:    warnings,
		Candidates:  receipt.CandidateTaskIds,
	}
	var problems []error
	if violation := receipt.Violation; violation != nil {
		got.Violation.Reason, got.Violation.Limit = violation.Reason, violation.Limit
		got.Violation.Field = strings.TrimPrefix(violation.Field, fmt.Sprintf("records[%d].", place))
		if violation.Description == "" {
			problems = append(problems, errors.New("the violation has no description"))
		}
	}
	if !reflect.DeepEqual(e.fact, got) {
		problems = append(problems, fmt.Errorf("expected %+v\n     got %+v", e.fact, got))
	}
	if code := codes[e.Disposition]; receipt.Code != code {
		problems = append(problems, fmt.Errorf("expected code %d, got %d", code, receipt.Code))
	}
	if e.isQuarantined() != (receipt.QuarantineId > 0) {
		problems = append(problems, fmt.Errorf("the quarantine id is %d", receipt.QuarantineId))
	}
	e.sequence, e.quarantineID = receipt.Sequence, receipt.QuarantineId
	if len(problems) > 0 {
		return fmt.Errorf("the receipt of %.2000s:\n%w", prototext.Format(e.record), errors.Join(problems...))
	}
	return nil
}

// checkSequences checks that a change has an event of its own, a duplicate that of its original, a refused record none,
// and that the quarantine is numbered from 1.
func checkSequences(t *testing.T, steps []*expected, quarantined uint64) {
	changes := map[uint64]bool{}
	var quarantine []uint64
	for _, e := range steps {
		switch {
		case e.isApplied(), e.isQuarantined():
			// The first event is the plan's creation.
			if e.sequence < 2 || changes[e.sequence] {
				t.Errorf("event %d is not its own", e.sequence)
			}
			changes[e.sequence] = true
		case e.original != nil:
			if e.sequence != e.original.sequence {
				t.Errorf("a duplicate of event %d says event %d", e.original.sequence, e.sequence)
			}
		case e.sequence != 0:
			t.Errorf("no event stands behind %v, but it says %d", e.Disposition, e.sequence)
		}
		if e.isQuarantined() {
			quarantine = append(quarantine, e.quarantineID)
		}
	}
	slices.Sort(quarantine)
	for n, id := range quarantine {
		if id != uint64(n+1) {
			t.Fatalf("quarantined record %d has number %d", n+1, id)
		}
	}
	if n := uint64(len(quarantine)); n != quarantined {
		t.Errorf("%d receipts of quarantined records, expected %d", n, quarantined)
	}
}

// checkTheDrawWasWorthItsTime checks that there were many records of each kind, matched in each of the four ways.
func checkTheDrawWasWorthItsTime(t *testing.T, steps []*expected) {
	dispositions, ways, warnings := map[fanout.Disposition]int{}, map[fanout.MatchedBy]int{}, map[fanout.Warning]int{}
	for _, e := range steps {
		dispositions[e.Disposition]++
		if e.isApplied() {
			ways[e.MatchedBy]++
		}
		for _, warning := range e.Warnings {
			warnings[warning]++
		}
	}
	for disposition := range codes {
		if dispositions[disposition] < 250 {
			t.Errorf("%d times %v", dispositions[disposition], disposition)
		}
	}
	for _, key := range keys {
		if ways[key.by] < 2_500 {
			t.Errorf("%d times %v", ways[key.by], key.by)
		}
	}
	for _, warning := range []fanout.Warning{
		fanout.Warning_WARNING_KEYS_DISAGREE, fanout.Warning_WARNING_FIELD_IN_BODY_IGNORED,
	} {
		if warnings[warning] < 250 {
			t.Errorf("%d times %v", warnings[warning], warning)
		}
	}
	t.Logf("%v, %v, %v", dispositions, ways, warnings)
}

// checkCounts compares counts with the oracle's, but for the items and groups, which it does not count.
func (f *fiftyThousand) checkCounts(t *testing.T, counts *fanout.Counts) {
	t.Helper()
	wanted := f.oracle.counts()
	wanted.Items, wanted.Groups = counts.Items, counts.Groups
	if !proto.Equal(wanted, counts) {
		t.Errorf("expected %v, got %v", wanted, counts)
	}
}

// checkResult checks the answer of Reconcile, whole and in pages.
func (f *fiftyThousand) checkResult(t *testing.T, status fanout.PlanStatus) {
	t.Helper()
	ctx := limited(t)
	whole, err := f.Reconcile(ctx, &fanout.ReconcileRequest{PlanId: planID})
	check(t, err)
	if whole.Status != status {
		t.Errorf("expected %v, got %v", status, whole.Status)
	}
	f.checkCounts(t, whole.Counts)
	got, err := parse(whole.Document)
	check(t, err)
	wanted := f.oracle.resultDocument()
	if status == fanout.PlanStatus_PLAN_STATUS_INCOMPLETE {
		wanted["status"] = "incomplete"
	}
	delete(got["reconciliation"].(document), "schema")
	for member := range wanted {
		checkEqual(t, member, wanted[member], got[member])
	}

	records, outcomes, failed := []any{}, []any{}, []any{}
	pages, token := 0, ""
	for {
		page, err := f.Reconcile(ctx, &fanout.ReconcileRequest{PlanId: planID, PageSize: tasksInAPage, PageToken: token})
		check(t, err)
		part, err := parse(page.Document)
		check(t, err)
		records = append(records, part["records"].([]any)...)
		outcomes = append(outcomes, part["outcomes"].([]any)...)
		failed = append(failed, part["reconciliation"].(document)["failed_task_ids"].([]any)...)
		pages++
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if all := (tasksPlanned + tasksInAPage - 1) / tasksInAPage; pages != all {
		t.Errorf("%d pages, expected %d", pages, all)
	}
	checkEqual(t, "records in pages", wanted["records"], any(records))
	checkEqual(t, "outcomes in pages", wanted["outcomes"], any(outcomes))
	checkEqual(t, "failed tasks in pages", wanted["reconciliation"].(document)["failed_task_ids"], any(failed))
}

// checkEqual compares two values of JSON, and shows where lists begin to differ.
func checkEqual(t *testing.T, what string, wanted, got any) {
	t.Helper()
	if reflect.DeepEqual(wanted, got) {
		return
	}
	wantedList, isList := wanted.([]any)
	gotList, areLists := got.([]any)
	if isList && areLists {
		if len(wantedList) != len(gotList) {
			t.Errorf("%s: expected %d, got %d", what, len(wantedList), len(gotList))
		}
		for n := range min(len(wantedList), len(gotList)) {
			if !reflect.DeepEqual(wantedList[n], gotList[n]) {
				t.Errorf("%s[%d]: expected %v, got %v", what, n, wantedList[n], gotList[n])
				return
			}
		}
		return
	}
	t.Errorf("%s: expected %.2000v, got %.2000v", what, wanted, got)
}

// news is what a Result frame says, but for the time.
type news struct {
	Sequence   uint64
	TaskID     string
	GroupKey   string
	Revision   uint32
	Status     fanout.TaskStatus
	Successful bool
	MatchedBy  fanout.MatchedBy
	Record     document
}

func newsOf(t *testing.T, result *fanout.Result) news {
	record, err := parse(result.Record)
	check(t, err)
	return news{
		result.Sequence, result.TaskId, result.GroupKey, result.Revision, result.Status, result.Successful,
		result.MatchedBy, record,
	}
}

// news are what the Result frames of a whole watch say.
func (f *fiftyThousand) news() []news {
	groupKeys := map[string]string{}
	for _, task := range f.oracle.tasks {
		groupKeys[task.taskID] = task.groupKey
	}
	var all []news
	for _, e := range f.steps() {
		if e.isApplied() && e.isResult() {
			all = append(all, news{
				e.sequence, e.TaskID, groupKeys[e.TaskID], e.Revision, e.Status, e.Successful, e.MatchedBy, e.document,
			})
		}
	}
	slices.SortFunc(all, func(a, b news) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return all
}

// checkNews compares Result frames, one by one.
func checkNews(t *testing.T, what string, wanted []news, got []*fanout.Result) {
	t.Helper()
	if len(wanted) != len(got) {
		t.Errorf("%s: expected %d results, got %d", what, len(wanted), len(got))
	}
	for n := range min(len(wanted), len(got)) {
		if now := newsOf(t, got[n]); !reflect.DeepEqual(wanted[n], now) {
			t.Errorf("%s: result %d: expected %+v\n     got %+v", what, n, wanted[n], now)
			return
		}
	}
}

func (f *fiftyThousand) checkEnd(t *testing.T, frame *fanout.WatchPlanResponse) {
	t.Helper()
	end := frame.GetEnd()
	if end == nil {
		t.Fatalf("the last frame is %v", prototext.Format(frame))
	}
	if end.Status != fanout.PlanStatus_PLAN_STATUS_FAILED || end.EndReason != fanout.EndReason_END_REASON_SEALED {
		t.Errorf("the plan ended %v, %v", end.Status, end.EndReason)
	}
	f.checkCounts(t, end.Counts)
}

// checkWatch checks the frames of a watch from the beginning.
func (f *fiftyThousand) checkWatch(t *testing.T, seen []*fanout.WatchPlanResponse) {
	t.Helper()
	var results []*fanout.Result
	var signs []*fanout.Progress
	for _, frame := range seen {
		if result := frame.GetResult(); result != nil {
			results = append(results, result)
		}
		if progress := frame.GetProgress(); progress != nil {
			signs = append(signs, progress)
		}
	}
	checkNews(t, "from the beginning", f.news(), results)

	var wanted []*expected
	for _, e := range f.steps() {
		if e.isApplied() && !e.isResult() {
			wanted = append(wanted, e)
		}
	}
	slices.SortFunc(wanted, func(a, b *expected) int { return cmp.Compare(a.sequence, b.sequence) })
	if len(wanted) != len(signs) {
		t.Errorf("expected %d signs of life, got %d", len(wanted), len(signs))
	}
	for n := range min(len(wanted), len(signs)) {
		e, got := wanted[n], signs[n]
		if e.sequence != got.Sequence || e.TaskID != got.TaskId || e.record.Kind != got.Kind {
			t.Fatalf("sign of life %d: expected %d of %s, got %v", n, e.sequence, e.TaskID, prototext.Format(got))
		}
	}
	if len(seen) == 0 {
		t.Fatal("the watch had no frame")
	}
	f.checkEnd(t, seen[len(seen)-1])
}

// cutWatch is what a watch saw that began in the middle with a snapshot, was cut off again and again, and went on with
// its last cursor.
type cutWatch struct {
	// The event that the snapshot was taken at.
	takenAt  uint64
	snapshot []*fanout.Result
	results  []*fanout.Result
	last     *fanout.WatchPlanResponse
	cuts     int
}

func (f *fiftyThousand) watchWithCuts(ctx context.Context) (*cutWatch, error) {
	for range streamsOpen {
		if err := waitFor(ctx, f.quarterDone); err != nil {
			return nil, err
		}
	}
	watch := &cutWatch{}
	request := &fanout.WatchPlanRequest{PlanId: planID, IncludePayload: true, IncludeSnapshot: true}
	for watch.last == nil {
		if err := f.watchToTheNextCut(ctx, request, watch); err != nil {
			return nil, err
		}
		request.IncludeSnapshot = false
	}
	return watch, nil
}

// watchToTheNextCut leaves the last cursor in the request.
func (f *fiftyThousand) watchToTheNextCut(
	ctx context.Context, request *fanout.WatchPlanRequest, watch *cutWatch,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := f.WatchPlan(ctx, request)
	if err != nil {
		return err
	}
	until := len(watch.results) + resultsToACut
	for len(watch.results) < until || watch.cuts == cutsOfAWatch {
		frame, err := call.Recv()
		if err != nil {
			return fmt.Errorf("a watch ended without End: %w", err)
		}
		request.After = frame.Cursor
		switch {
		case frame.GetSnapshot() != nil:
			watch.snapshot = append(watch.snapshot, frame.GetSnapshot().Results...)
			if frame.GetSnapshot().Last {
				watch.takenAt = frame.GetSnapshot().Plan.Sequence
				close(f.snapshotTaken)
			}
		case frame.GetResult() != nil:
			watch.results = append(watch.results, frame.GetResult())
		case frame.GetEnd() != nil:
			watch.last = frame
			return nil
		}
	}
	watch.cuts++
	return nil
}

func (f *fiftyThousand) checkCutWatch(t *testing.T, watch *cutWatch) {
	t.Helper()
	if watch.cuts != cutsOfAWatch {
		t.Errorf("the watch was cut %d times", watch.cuts)
	}
	newest := map[string]news{}
	var after, snapshot []news
	for _, it := range f.news() {
		if it.Sequence <= watch.takenAt {
			newest[it.TaskID] = it
		} else {
			after = append(after, it)
		}
	}
	for _, task := range f.oracle.tasks {
		if it, has := newest[task.taskID]; has {
			snapshot = append(snapshot, it)
		}
	}
	if len(snapshot) < 100 || len(after) < 1_000 {
		t.Errorf("%d results before the snapshot, %d after it", len(snapshot), len(after))
	}
	checkNews(t, "in the snapshot", snapshot, watch.snapshot)
	checkNews(t, "after the snapshot", after, watch.results)
	f.checkEnd(t, watch.last)
}
