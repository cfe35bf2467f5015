package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fanout "example/go-executor/generated/fanout/v1"
)

const (
	whenAllRecorded = fanout.SealRule_SEAL_RULE_WHEN_ALL_RECORDED
	explicit        = fanout.SealRule_SEAL_RULE_EXPLICIT
)

// execution is examples/go-executor as a user runs it.
type execution struct {
	command        *exec.Cmd
	output, errors bytes.Buffer
}

func execute(t *testing.T, server string, arguments ...string) *execution {
	t.Helper()
	run := &execution{}
	run.command = exec.CommandContext(limited(t), executor, append([]string{"--server", server}, arguments...)...)
	run.command.Stdout, run.command.Stderr = &run.output, &run.errors
	check(t, run.command.Start())
	t.Cleanup(func() {
		if run.command.ProcessState == nil {
			_ = run.command.Process.Kill()
			_ = run.command.Wait()
		}
	})
	return run
}

// wantEnd waits, and checks the exit code and what is in the one line of output; errors is a pattern for standard error.
func (e *execution) wantEnd(t *testing.T, code int, output, errors string) {
	t.Helper()
	_ = e.command.Wait() // The exit code is checked below.
	if got := e.command.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, expected %d", got, code)
	}
	if !strings.Contains(e.output.String(), output) || strings.Count(e.output.String(), "\n") > 1 {
		t.Errorf("output: %q, expected %q", e.output.String(), output)
	}
	if !regexp.MustCompile(errors).MatchString(e.errors.String()) {
		t.Errorf("standard error: %q, expected %q", e.errors.String(), errors)
	}
	if t.Failed() {
		t.Fatalf("output: %s%s", e.output.String(), e.errors.String())
	}
}

// wantPlan checks the status of a plan, and returns it.
func wantPlan(t *testing.T, server *server, planID string, status fanout.PlanStatus) *fanout.Plan {
	t.Helper()
	got, err := server.GetPlan(limited(t), &fanout.GetPlanRequest{PlanId: planID})
	check(t, err)
	if got.Plan.Status != status {
		t.Fatalf("the plan is %v, expected %v", got.Plan.Status, status)
	}
	return got.Plan
}

func watch(t *testing.T, server *server, planID string) fanout.FanoutService_WatchPlanClient {
	t.Helper()
	watch, err := server.WatchPlan(limited(t), &fanout.WatchPlanRequest{PlanId: planID})
	check(t, err)
	return watch
}

// awaitResults waits until so many more results came.
func awaitResults(t *testing.T, watch fanout.FanoutService_WatchPlanClient, count int) {
	t.Helper()
	for count > 0 {
		frame, err := watch.Recv()
		check(t, err)
		if frame.GetResult() != nil {
			count--
		}
	}
}

func TestRecordsSentAgainAfterACutAreAppliedOnce(t *testing.T) {
	t.Parallel()
	const tasks, enough = 600, 100
	server := startServer(t)
	registerTasks(t, server, "cut", tasks, explicit)
	message := func(n int) *fanout.SubmitRecordRequest {
		record := &fanout.Record{Id: fmt.Sprintf("task-%d", n), Status: "completed"}
		return &fanout.SubmitRecordRequest{PlanId: "cut", Records: []*fanout.Record{record}}
	}

	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	first, err := server.SubmitRecord(ctx)
	check(t, err)
	for n := range tasks / 2 {
		check(t, first.Send(message(n)))
	}
	awaitResults(t, watch(t, server, "cut"), enough)
	// No receipt was read.
	cancel()

	again, err := server.SubmitRecord(limited(t))
	check(t, err)
	duplicates := 0
	for n := range tasks {
		check(t, again.Send(message(n)))
		response, err := again.Recv()
		check(t, err)
		switch receipt := response.Receipts[0]; receipt.Disposition {
		case fanout.Disposition_DISPOSITION_DUPLICATE:
			duplicates++
			fallthrough
		case fanout.Disposition_DISPOSITION_ACCEPTED:
			if receipt.Revision != 1 {
				t.Errorf("task %s is at revision %d", receipt.TaskId, receipt.Revision)
			}
		default:
			t.Errorf("a record sent again is %v", receipt.Disposition)
		}
	}
	if duplicates < enough || duplicates > tasks/2 {
		t.Errorf("%d duplicates", duplicates)
	}
	seal(t, server, "cut")
	wantAppliedOnce(t, server, "cut", tasks)
}

// wantSentOnce checks that no record has another one's receipt, and that each was applied once, although the server was
// lost. frames are those of the whole plan.
func (e *execution) wantSentOnce(t *testing.T, frames []*fanout.WatchPlanResponse, tasks int) {
	t.Helper()
	line := fmt.Sprintf(
		` %d of %d tasks have a result; %d receipts \(%d ACCEPTED\), 0 outstanding, [1-9]\d* reconnects\n$`,
		tasks, tasks, 4*tasks, 4*tasks)
	if !regexp.MustCompile(line).MatchString(e.output.String()) {
		t.Errorf("output: %q, expected %q", e.output.String(), line)
	}
	results, kinds := 0, map[fanout.RecordKind]int{}
	for _, frame := range frames {
		kinds[frame.GetProgress().GetKind()]++
		if result := frame.GetResult(); result != nil {
			results++
			if result.Revision != 1 {
				t.Errorf("task %s was given revision %d", result.TaskId, result.Revision)
			}
		}
	}
	started, progress := kinds[fanout.RecordKind_RECORD_KIND_STARTED], kinds[fanout.RecordKind_RECORD_KIND_PROGRESS]
	if results != tasks || started != tasks || progress != 2*tasks {
		t.Errorf("%d results, %d times STARTED, %d times PROGRESS", results, started, progress)
	}
}

func TestNumberedRecordsSentAgainAfterACutAndAKillGetTheReceiptsThatTheyGot(t *testing.T) {
	t.Parallel()
	const tasks, enough = 600, 100
	server := startServer(t, "--data-dir", t.TempDir())
	registerTasks(t, server, "numbered", tasks, explicit)
	open := func(ctx context.Context, count int) fanout.FanoutService_SubmitRecordClient {
		t.Helper()
		call, err := server.SubmitRecord(ctx)
		check(t, err)
		for offset := range count {
			record := &fanout.Record{Id: fmt.Sprintf("task-%d", offset), Status: "completed"}
			check(t, call.Send(&fanout.SubmitRecordRequest{
				PlanId: "numbered", Records: []*fanout.Record{record}, ProducerId: "sandbox", FirstOffset: new(uint64(offset)),
			}))
		}
		return call
	}
	receiptsOfAll := func() []*fanout.Receipt {
		t.Helper()
		call := open(limited(t), tasks)
		check(t, call.CloseSend())
		var receipts []*fanout.Receipt
		for {
			response, err := call.Recv()
			if err == io.EOF {
				return receipts
			}
			check(t, err)
			receipts = append(receipts, response.Receipts...)
		}
	}
	committedOffset := func() uint64 {
		t.Helper()
		request := &fanout.SubmitRecordsRequest{PlanId: "numbered", ProducerId: "sandbox"}
		response, err := server.SubmitRecords(limited(t), request)
		check(t, err)
		return response.GetCommittedOffset()
	}
	wantSame := func(had, got []*fanout.Receipt) {
		t.Helper()
		if len(got) != tasks {
			t.Fatalf("%d receipts", len(got))
		}
		for offset, receipt := range had {
			if !proto.Equal(receipt, got[offset]) {
				t.Fatalf("record %d had the receipt %v, and now has %v", offset, receipt, got[offset])
			}
		}
	}

	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	call := open(ctx, tasks/2)
	var first []*fanout.Receipt
	for range enough {
		response, err := call.Recv()
		check(t, err)
		first = append(first, response.Receipts...)
	}
	cancel()
	if committed := committedOffset(); committed < enough {
		t.Errorf("%d records are committed, but %d have a receipt", committed, enough)
	}
	// Somebody else's record takes the place of the first one.
	submit(t, server, "numbered", &fanout.Record{Id: "task-0", Status: "failed"})

	again := receiptsOfAll()
	wantSame(first, again)
	for _, receipt := range again {
		if receipt.Disposition != fanout.Disposition_DISPOSITION_ACCEPTED || receipt.Revision != 1 {
			t.Errorf("the receipt of a record sent again is %v", receipt)
		}
	}

	server = server.startAgain(t, syscall.SIGKILL)
	if committed := committedOffset(); committed != tasks {
		t.Errorf("%d records are committed", committed)
	}
	wantSame(again, receiptsOfAll())
	seal(t, server, "numbered")
	superseding := 0
	results := results(t, server, "numbered")
	for _, result := range results {
		if result.Revision != 1 {
			superseding++
		}
	}
	if len(results) != tasks+1 || superseding != 1 {
		t.Errorf("%d results, %d of them supersede an earlier one", len(results), superseding)
	}
}

func TestTwoShardsCompleteAPlanAndDoNoTaskTwice(t *testing.T) {
	t.Parallel()
	const tasks = 301
	server := startServer(t)
	registerTasks(t, server, "shards", tasks, whenAllRecorded)
	shards := []*execution{
		execute(t, server.address, "--plan-id", "shards", "--shard", "0/2"),
		execute(t, server.address, "--plan-id", "shards", "--shard", "1/2"),
	}
	for n, shard := range shards {
		count := tasks/2 + 1 - n
		shard.wantEnd(t, 0, fmt.Sprintf(
			"shard %d/2: %d of %d tasks have a result; %d receipts (%d ACCEPTED), 0 outstanding, 0 reconnects\n",
			n, count, count, 4*count, 4*count), `^$`)
	}
	done := wantPlan(t, server, "shards", fanout.PlanStatus_PLAN_STATUS_COMPLETED)
	if done.Counts.Outcomes != tasks {
		t.Errorf("%d outcomes", done.Counts.Outcomes)
	}
	kinds := map[fanout.RecordKind]int{}
	seen, err := frames(limited(t), server, &fanout.WatchPlanRequest{PlanId: "shards"})
	check(t, err)
	for _, frame := range seen {
		kinds[frame.GetProgress().GetKind()]++
	}
	started, progress := kinds[fanout.RecordKind_RECORD_KIND_STARTED], kinds[fanout.RecordKind_RECORD_KIND_PROGRESS]
	if started != tasks || progress != 2*tasks {
		t.Errorf("%d times STARTED, %d times PROGRESS", started, progress)
	}
}

func TestAnExecutorLeavesOnSigtermAndAnotherOneDoesTheRest(t *testing.T) {
	t.Parallel()
	const tasks = 3_000
	server := startServer(t)
	registerTasks(t, server, "stop", tasks, whenAllRecorded)
	watch := watch(t, server, "stop")
	// Few records in flight make it slow: it is far from done when the signal comes.
	first := execute(t, server.address, "--plan-id", "stop", "--in-flight", "1")
	awaitResults(t, watch, 5)
	check(t, first.command.Process.Signal(syscall.SIGTERM))
	first.wantEnd(t, 143, " 0 outstanding, ", `^$`)
	left := wantPlan(t, server, "stop", fanout.PlanStatus_PLAN_STATUS_INCOMPLETE).Counts.Missing
	if said := fmt.Sprintf(" %d of %d tasks have a result", tasks-left, tasks); !strings.Contains(
		first.output.String(), said) {
		t.Errorf("output: %q, expected %q", first.output.String(), said)
	}

	second := execute(t, server.address, "--plan-id", "stop")
	second.wantEnd(t, 0, fmt.Sprintf(" %d of %d tasks have a result", left, left), `^$`)
	wantPlan(t, server, "stop", fanout.PlanStatus_PLAN_STATUS_COMPLETED)
	wantAppliedOnce(t, server, "stop", tasks)
}

func TestAnExecutorWhoseConnectionIsCutComesBackAndLosesNothing(t *testing.T) {
	t.Parallel()
	const tasks = 1_500
	server := startServer(t)
	registerTasks(t, server, "wire", tasks, whenAllRecorded)
	wire := startWire(t, server.address)
	watch := watch(t, server, "wire")
	executor := execute(t, wire.address, "--plan-id", "wire", "--in-flight", "8")
	for range 3 {
		awaitResults(t, watch, 100)
		wire.cut()
	}
	executor.wantEnd(t, 0, "", `^$`)
	wantPlan(t, server, "wire", fanout.PlanStatus_PLAN_STATUS_COMPLETED)
	frames, err := frames(limited(t), server, &fanout.WatchPlanRequest{PlanId: "wire"})
	check(t, err)
	executor.wantSentOnce(t, frames, tasks)
}

func TestAnExecutorAndAWatcherGoOnWithAServerThatWasKilledOrDrainedAndStartedAgain(t *testing.T) {
	t.Parallel()
	const tasks = 600
	server := startServer(t, "--data-dir", t.TempDir())
	registerTasks(t, server, "again", tasks, whenAllRecorded)
	executor := execute(t, server.address, "--plan-id", "again", "--in-flight", "8")
	var seen []*fanout.WatchPlanResponse
	cursor := ""
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		watch, err := server.WatchPlan(limited(t), &fanout.WatchPlanRequest{PlanId: "again", After: cursor})
		check(t, err)
		for range tasks {
			frame, err := watch.Recv()
			check(t, err)
			seen = append(seen, frame)
			cursor = frame.Cursor
		}
		server = server.startAgain(t, signal)
	}
	rest, err := frames(limited(t), server, &fanout.WatchPlanRequest{PlanId: "again", After: cursor})
	check(t, err)
	executor.wantEnd(t, 0, "", `^$`)
	wantPlan(t, server, "again", fanout.PlanStatus_PLAN_STATUS_COMPLETED)
	executor.wantSentOnce(t, append(seen, rest...), tasks)
}

func TestAnExecutorLeavesOnSigtermAlthoughTheServerAnswersNoMore(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	registerTasks(t, server, "silent", 3_000, explicit)
	watch := watch(t, server, "silent")
	executor := execute(t, server.address, "--plan-id", "silent", "--in-flight", "1")
	awaitResults(t, watch, 5)
	check(t, server.process.Signal(syscall.SIGSTOP))
	// Its threads do not stop all at once.
	var state syscall.WaitStatus
	if _, err := syscall.Wait4(server.process.Pid, &state, syscall.WUNTRACED, nil); err != nil || !state.Stopped() {
		t.Fatalf("the server did not stop: %v, %v", state, err)
	}
	check(t, executor.command.Process.Signal(syscall.SIGTERM))
	began := time.Now()
	executor.wantEnd(t, 143, "shard 0/1", `^$`)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAnExecutorBeginsNothingMoreWhenItsPlanHasEnded(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	registerTasks(t, server, "sealed", 3_000, explicit)
	watch := watch(t, server, "sealed")
	executor := execute(t, server.address, "--plan-id", "sealed", "--in-flight", "1")
	awaitResults(t, watch, 5)
	recorded := seal(t, server, "sealed").Counts.Recorded
	executor.wantEnd(t, 1, fmt.Sprintf(" %d of 3000 tasks have a result", recorded), ``)
}

func TestAnExecutorNamesTheLimitThatItsResultsPass(t *testing.T) {
	t.Parallel()
	server := startServer(t, "--record-body-bytes-max", "60")
	registerTasks(t, server, "small", 2, explicit)
	execute(t, server.address, "--plan-id", "small").wantEnd(t, 1,
		" 0 of 2 tasks have a result; 8 receipts (6 ACCEPTED, 2 TOO_LARGE), 0 outstanding",
		`TOO_LARGE: the record of task task-1 is over a limit: .* \(BODY_TOO_LARGE\)`)
}

func TestTheDemoCompletesAPlanOfItsOwn(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	execute(t, server.address, "--demo").wantEnd(t, 0, "4 of 4 tasks have a result", `^$`)
	plans, err := server.ListPlans(limited(t), &fanout.ListPlansRequest{})
	check(t, err)
	if len(plans.Plans) != 1 {
		t.Fatalf("%d plans", len(plans.Plans))
	}
	planned := wantPlan(t, server, plans.Plans[0].PlanId, fanout.PlanStatus_PLAN_STATUS_COMPLETED)
	answer, err := server.Reconcile(limited(t), &fanout.ReconcileRequest{PlanId: planned.PlanId})
	check(t, err)
	result, err := parse(answer.Document)
	check(t, err)
	var common []any
	for _, outcome := range result["outcomes"].([]any) {
		common = append(common, outcome.(document)["common"])
	}
	// The last author's: three times tomorrow.
	if len(common) != 4 || common[3] != "tomorrow" {
		t.Errorf("the most frequent words are %v", common)
	}
}

func TestAnExecutorSaysWhichPlanThereIsNot(t *testing.T) {
	t.Parallel()
	execute(t, startServer(t).address, "--plan-id", "nowhere").wantEnd(t, 1, "", `NotFound: .*nowhere`)
}

func TestAnExecutorExplainsItselfAndRefusesAShardOutsideOfThePlan(t *testing.T) {
	t.Parallel()
	for arguments, code := range map[string]int{
		"--help": 0, "": 2, "--demo --plan-id plan": 2, "--demo --shard 2/2": 2, "--demo --in-flight 0": 2, "--demo more": 2,
	} {
		command := exec.CommandContext(limited(t), executor, strings.Fields(arguments)...)
		output, _ := command.CombinedOutput() // The exit code is checked below.
		if got := command.ProcessState.ExitCode(); got != code {
			t.Errorf("%q: exit code %d, expected %d", arguments, got, code)
		}
		if code == 0 && !strings.Contains(string(output), "143  terminated (SIGTERM)") {
			t.Errorf("%q does not say the exit codes: %s", arguments, output)
		}
	}
}
