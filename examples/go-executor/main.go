// An executor: takes its share of a plan's task requests, works on each, and streams records back.
//
// It shows what an executor needs, and is meant to be copied:
//
//   - which tasks are left: the snapshot of WatchPlan says what has a result, GetPlan pages through the task requests
//   - one SubmitRecord stream for all records: STARTED, PROGRESS, then the result of each task
//   - receipts are read while records are sent, and only so many records may be without one
//   - a lost connection is opened again, also to a server that was started again; records without a receipt are sent
//     again, numbered as before, so that none is applied twice
//
// The work is a stand-in: it counts the words in all texts of the task request. Replace count, in work.go.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fanout "example/go-executor/generated/fanout/v1"
)

const usage = `usage: go-executor (--plan-id PLAN | --demo) [--server HOST:PORT] [--shard I/N] [--in-flight RECORDS]

An executor: takes its share of a plan's task requests, works on each, and streams records back.
The work is a stand-in: it counts the words in all texts of the task request.

  --plan-id PLAN       the plan to work on
  --demo               plan a small fan-out first, and work on that
  --server HOST:PORT   where the server is (default: 127.0.0.1:7117)
  --shard I/N          only every Nth task, from the Ith: 0/2, 1/2 (default: 0/1)
  --in-flight RECORDS  records that may be without a receipt (default: 256)

try it:
  fanout serve &
  go-executor --demo

share a plan between two executors:
  go-executor --plan-id PLAN --shard 0/2 &
  go-executor --plan-id PLAN --shard 1/2

exit codes:
  0    every task of the shard has a result
  1    not every task: records were refused, the plan ended early, or the server was lost
  2    usage
  130  interrupted (SIGINT)
  143  terminated (SIGTERM)
After a signal no task is begun, and receipts are awaited for at most 5 s; a second one ends the executor at once.
Start it again, and it does what is left.
`

const (
	// Task requests in a page of GetPlan, the most there may be.
	pageSize = 1_000
	// Largest message, in bytes: the server's own limit.
	messageBytesMax = 16 << 20
	// Time for each of the calls before the stream, connecting included.
	callTime = 30 * time.Second
	// Time for the last receipts after a signal.
	stopTime = 5 * time.Second
)

// options are the command line's.
type options struct {
	server   string
	planID   string
	demo     bool
	shard    shard
	inFlight int
}

// shard is part index, counted from 0, of so many parts.
type shard struct{ index, parts int }

func (s *shard) String() string { return fmt.Sprintf("%d/%d", s.index, s.parts) }

// Set reads I/N.
func (s *shard) Set(text string) error {
	match := regexp.MustCompile(`^(\d+)/(\d+)$`).FindStringSubmatch(text)
	if match == nil {
		return errors.New("expected I/N")
	}
	index, indexErr := strconv.Atoi(match[1])
	parts, partsErr := strconv.Atoi(match[2])
	if indexErr != nil || partsErr != nil || index >= parts {
		return errors.New("expected I/N with I from 0 to N - 1")
	}
	*s = shard{index, parts}
	return nil
}

// task is a task request and its place in the plan, counted from 0.
type task struct {
	*fanout.TaskRequest
	position int
}

func main() {
	options := arguments()
	// Soon back after a cut; how often is bounded by patience.
	reconnecting := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: backoffMax},
		MinConnectTimeout: backoffMax,
	}
	connection, err := grpc.NewClient(options.server,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(reconnecting),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)),
	)
	code := 1
	if err == nil {
		code, err = execute(fanout.NewFanoutServiceClient(connection), options)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "executor: %s: %s\n", options.server, said(err))
	}
	os.Exit(code)
}

// arguments reads the command line. It does not return if that is wrong, or asks for help.
func arguments() options {
	parsed := options{shard: shard{0, 1}}
	flags := flag.NewFlagSet("go-executor", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&parsed.server, "server", "127.0.0.1:7117", "")
	flags.StringVar(&parsed.planID, "plan-id", "", "")
	flags.BoolVar(&parsed.demo, "demo", false, "")
	flags.Var(&parsed.shard, "shard", "")
	flags.IntVar(&parsed.inFlight, "in-flight", 256, "")

	err := flags.Parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		os.Exit(0)
	}
	switch {
	case err != nil:
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case parsed.demo == (parsed.planID != ""):
		err = errors.New("expected either --plan-id or --demo")
	case parsed.inFlight < 1:
		err = errors.New("expected --in-flight from 1")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "executor: %v; --help says more\n", err)
		os.Exit(2)
	}
	return parsed
}

// execute works on what is left of a part of a plan. It returns the exit code.
func execute(client fanout.FanoutServiceClient, options options) (int, error) {
	if options.demo {
		planID, err := planDemo(client)
		if err != nil {
			return 1, err
		}
		options.planID = planID
	}
	done, err := persist(func(ctx context.Context) (map[string]bool, error) {
		return withResult(ctx, client, options.planID)
	})
	if err != nil {
		return 1, err
	}
	all, err := taskRequests(client, options.planID)
	if err != nil {
		return 1, err
	}
	var tasks []task
	for position := options.shard.index; position < len(all); position += options.shard.parts {
		if !done[all[position].TaskId] {
			tasks = append(tasks, task{all[position], position})
		}
	}

	talk, hangUp := context.WithCancel(context.Background())
	defer hangUp()
	stream := newRecordStream(client, options.planID, options.inFlight)
	signalled := stopOnSignal(stream, hangUp)

	session := fmt.Sprintf("executor-%d-of-%d", options.shard.index, options.shard.parts)
	var working sync.WaitGroup
	working.Go(func() { work(tasks, stream, session) })
	lost := stream.run(talk)
	working.Wait()

	left := 0
	for _, task := range tasks {
		if !stream.withResult[task.TaskId] {
			left++
		}
	}
	fmt.Printf("executor: plan %s, shard %s: %d of %d tasks have a result; %s, %d outstanding, %d reconnects",
		options.planID, &options.shard, len(tasks)-left, len(tasks), tally(stream.dispositions), len(stream.records),
		stream.reconnects)
	if lost != nil {
		fmt.Printf("; lost the server: %s", said(lost))
	}
	fmt.Println()

	switch number := signalled.Load(); {
	case number != 0:
		return 128 + int(number), nil
	case lost != nil || left > 0 || stream.refused() > 0:
		return 1, nil
	}
	return 0, nil
}

// stopOnSignal stops the stream on SIGTERM and SIGINT, and hangs up a while later. It returns where the signal's number
// will be.
func stopOnSignal(stream *recordStream, hangUp func()) *atomic.Int32 {
	var number atomic.Int32
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		number.Store(int32((<-signals).(syscall.Signal)))
		signal.Reset()
		stream.stop()
		time.AfterFunc(stopTime, hangUp)
	}()
	return &number
}

// work works on the tasks one by one. Each has a session of its own, the same one whenever it is begun again.
func work(tasks []task, stream *recordStream, session string) {
	defer stream.close()
	for _, task := range tasks {
		if perform(task.TaskRequest, fmt.Sprintf("%s-task-%d", session, task.position), stream.send) != nil {
			return
		}
	}
}

// withResult finds the tasks that have a result already, by id.
func withResult(ctx context.Context, client fanout.FanoutServiceClient, planID string) (map[string]bool, error) {
	request := &fanout.WatchPlanRequest{PlanId: planID, IncludeSnapshot: true}
	watch, err := client.WatchPlan(ctx, request, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	done := map[string]bool{}
	for {
		response, err := watch.Recv()
		if err != nil {
			return nil, err
		}
		for _, result := range response.GetSnapshot().GetResults() {
			done[result.TaskId] = true
		}
		if response.GetSnapshot().GetLast() {
			return done, nil
		}
	}
}

// taskRequests pages through all task requests, in plan order.
func taskRequests(client fanout.FanoutServiceClient, planID string) ([]*fanout.TaskRequest, error) {
	var all []*fanout.TaskRequest
	request := &fanout.GetPlanRequest{PlanId: planID, View: fanout.View_VIEW_FULL, PageSize: pageSize}
	for {
		page, err := persist(func(ctx context.Context) (*fanout.GetPlanResponse, error) {
			return client.GetPlan(ctx, request, grpc.WaitForReady(true))
		})
		if err != nil {
			return nil, err
		}
		all = append(all, page.TaskRequests...)
		if page.NextPageToken == "" {
			return all, nil
		}
		request.PageToken = page.NextPageToken
	}
}

// planDemo plans four tasks: one for each author. It returns the plan's id.
func planDemo(client fanout.FanoutServiceClient) (string, error) {
	type group struct {
		Key   string   `json:"key"`
		Items []string `json:"items"`
	}
	groups, err := json.Marshal([]group{
		{"carroll", []string{"Begin at the beginning", "and go on till you come to the end", "then stop"}},
		{"dickens", []string{"It was the best of times", "it was the worst of times"}},
		{"melville", []string{"Call me Ishmael"}},
		{"shakespeare", []string{"Tomorrow and tomorrow and tomorrow", "creeps in this petty pace from day to day"}},
	})
	if err != nil {
		return "", err
	}
	config := `{"task_request_template": {"id": "read-{{group.key}}", "inputs": {"lines": "{{group.items}}"}}}`
	request := &fanout.PlanRequest{
		// As the call may be made again: it is still one plan.
		RequestId: rand.Text(),
		Config:    []byte(config),
		Source:    &fanout.PlanRequest_Groups{Groups: groups},
	}
	planned, err := persist(func(ctx context.Context) (*fanout.PlanResponse, error) {
		return client.Plan(ctx, request, grpc.WaitForReady(true))
	})
	if err != nil {
		return "", err
	}
	return planned.Plan.PlanId, nil
}

// tally says how many receipts of each disposition there were.
func tally(dispositions map[fanout.Disposition]int) string {
	total, parts := 0, []string{}
	for _, disposition := range slices.Sorted(maps.Keys(dispositions)) {
		total += dispositions[disposition]
		parts = append(parts, fmt.Sprintf("%d %s", dispositions[disposition], nameOf(disposition)))
	}
	if total == 0 {
		return "0 receipts (none)"
	}
	return fmt.Sprintf("%d receipts (%s)", total, strings.Join(parts, ", "))
}

// said is what the server said with an error: its code and its message.
func said(err error) string {
	if known, ok := status.FromError(err); ok {
		return fmt.Sprintf("%s: %s", known.Code(), known.Message())
	}
	return err.Error()
}
