// Package client is a client in another language against the real server: every receipt, frame and document is compared
// with an oracle.
//
// FANOUT_BINARY is the server's program; run.sh sets it. FANOUT_SEED draws other records; a failure prints the seed.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	fanout "example/go-executor/generated/fanout/v1"
)

// A test that waits longer has failed.
const deadline = 60 * time.Second

var (
	// binary is the server's program, executor the example's.
	binary, executor string
	seed             uint64 = 20240611
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 2
	}
	os.Exit(code)
}

// run builds the executor and runs the tests. It returns the exit code.
func run(m *testing.M) (int, error) {
	if binary = os.Getenv("FANOUT_BINARY"); binary == "" {
		return 0, fmt.Errorf("FANOUT_BINARY is not set; start run.sh")
	}
	if text := os.Getenv("FANOUT_SEED"); text != "" {
		given, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("FANOUT_SEED is no number: %w", err)
		}
		seed = given
	}
	folder, err := os.MkdirTemp("", "go-executor-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(folder)
	executor = filepath.Join(folder, "go-executor")
	build := exec.Command("go", "build", "-o", executor, "example/go-executor")
	if output, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("the executor does not build: %w\n%s", err, output)
	}
	return m.Run(), nil
}

// limited is a context that ends with the test or at its deadline.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// check ends the test if there is an error. Not for other goroutines than the test's.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// group is an explicit group of a plan.
type group struct {
	Key   string     `json:"key"`
	Items []document `json:"items"`
}

// register plans one task for each group.
func register(
	t *testing.T, server *server, planID string, groups []group, template document, rule fanout.SealRule,
) *fanout.PlanResponse {
	t.Helper()
	planned, err := server.Plan(limited(t), &fanout.PlanRequest{
		PlanId:           planID,
		Config:           compact(document{"task_request_template": template}),
		Source:           &fanout.PlanRequest_Groups{Groups: compact(groups)},
		CompletionPolicy: &fanout.CompletionPolicy{SealRule: rule},
	})
	check(t, err)
	return planned
}

// registerTasks plans tasks `task-0`, `task-1` and so on, of groups `group-0`, `group-1` and so on.
func registerTasks(t *testing.T, server *server, planID string, count int, rule fanout.SealRule) {
	t.Helper()
	groups := make([]group, count)
	for position := range groups {
		groups[position] = group{fmt.Sprintf("group-%d", position), []document{}}
	}
	register(t, server, planID, groups, document{"id": "task-{{group.index}}"}, rule)
}

// submit returns the receipts of one call.
func submit(t *testing.T, server *server, planID string, records ...*fanout.Record) []*fanout.Receipt {
	t.Helper()
	request := &fanout.SubmitRecordsRequest{PlanId: planID, Records: records}
	response, err := server.SubmitRecords(limited(t), request)
	check(t, err)
	if len(response.Receipts) != len(records) {
		t.Fatalf("%d receipts for %d records", len(response.Receipts), len(records))
	}
	return response.Receipts
}

func seal(t *testing.T, server *server, planID string) *fanout.Plan {
	t.Helper()
	response, err := server.SealPlan(limited(t), &fanout.SealPlanRequest{PlanId: planID})
	check(t, err)
	return response.Plan
}

// frames are all frames of a watch, up to and with its End.
func frames(ctx context.Context, server *server, request *fanout.WatchPlanRequest) ([]*fanout.WatchPlanResponse, error) {
	watch, err := server.WatchPlan(ctx, request)
	if err != nil {
		return nil, err
	}
	var frames []*fanout.WatchPlanResponse
	for {
		frame, err := watch.Recv()
		if err == io.EOF {
			return frames, nil
		}
		if err != nil {
			return nil, err
		}
		frames = append(frames, frame)
	}
}

// results are the results of an ended plan in their order.
func results(t *testing.T, server *server, planID string) []*fanout.Result {
	t.Helper()
	seen, err := frames(limited(t), server, &fanout.WatchPlanRequest{PlanId: planID})
	check(t, err)
	var results []*fanout.Result
	for _, frame := range seen {
		if result := frame.GetResult(); result != nil {
			results = append(results, result)
		}
	}
	return results
}

// wantAppliedOnce checks that each task of a plan has had one record.
func wantAppliedOnce(t *testing.T, server *server, planID string, tasks int) {
	t.Helper()
	seen := map[string]bool{}
	for _, result := range results(t, server, planID) {
		if result.Revision != 1 || seen[result.TaskId] {
			t.Errorf("task %s was given revision %d", result.TaskId, result.Revision)
		}
		seen[result.TaskId] = true
	}
	if len(seen) != tasks {
		t.Errorf("%d of %d tasks have a result", len(seen), tasks)
	}
}

// parse reads a JSON object.
func parse(text []byte) (document, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var parsed document
	err := json.Unmarshal(text, &parsed)
	return parsed, err
}

// waitFor waits until a channel is closed or has something.
func waitFor(ctx context.Context, channel <-chan struct{}) error {
	select {
	case <-channel:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
