// Gathering in Python: a function over many tasks in two processes, whose results a third gathers.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// gather runs gather.py, which also reads the clock; Fanout's server is beside it if there is a program for it.
type gather struct {
	python, script, stubs string
	fanout                string
}

func (g gather) measure(running context.Context, folder string, tasks int) (measurement, error) {
	running, done := context.WithTimeout(running, measurementTime)
	defer done()
	if g.fanout == "" {
		return g.run(running, folder, tasks, "dask", strconv.Itoa(tasks))
	}
	address, _, err := freeAddress()
	if err != nil {
		return measurement{}, err
	}
	server, err := start(running, folder, address, syscall.SIGKILL, nil, g.fanout, "serve", "--listen", address)
	if err != nil {
		return measurement{}, err
	}
	defer server.stop()
	began, err := treeSeconds(server.command.Process.Pid)
	if err != nil {
		return measurement{}, err
	}
	result, err := g.run(running, folder, tasks, "fanout", strconv.Itoa(tasks), address)
	if err != nil {
		return measurement{}, err
	}
	result.server, err = treeSeconds(server.command.Process.Pid)
	result.server -= began
	return result, err
}

func (g gather) run(running context.Context, folder string, tasks int, arguments ...string) (measurement, error) {
	command := exec.CommandContext(running, g.python, append([]string{g.script}, arguments...)...)
	command.Dir = folder
	command.Env = append(os.Environ(), "PYTHONPATH="+g.stubs, "PYTHONDONTWRITEBYTECODE=1")
	// As Ctrl-C would: it ends its own processes.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGINT}
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGINT) }
	command.WaitDelay = stopTime
	output, err := command.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return measurement{}, fmt.Errorf("%s: %w\n%s", g.script, err, failed.Stderr)
	} else if err != nil {
		return measurement{}, err
	}
	var answer struct {
		Gathered     int
		Seconds, CPU float64
	}
	if err := json.Unmarshal(output, &answer); err != nil {
		return measurement{}, err
	}
	result := measurement{records: tasks, seconds: answer.Seconds, client: answer.CPU}
	return result, expectCount(strconv.Itoa(answer.Gathered), tasks)
}
