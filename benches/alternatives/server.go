// Servers: ordinary child processes on free ports of the loopback interface, which do not outlive this program.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTime = 15 * time.Second
	stopTime  = 10 * time.Second
	// A clock tick of /proc, in seconds.
	tick = 0.01
)

type server struct {
	command *exec.Cmd
	address string
	log     string
	ended   chan struct{}
}

// start starts a program that listens at address, and waits until it does. The signal ends it. Call it from the main
// goroutine only: a child's death signal comes when the thread that began it ends.
func start(
	running context.Context, folder, address string, ends syscall.Signal, owner *syscall.Credential,
	program string, arguments ...string,
) (*server, error) {
	log, err := os.CreateTemp(folder, "log-")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.CommandContext(running, program, arguments...)
	command.Dir = folder
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: ends, Credential: owner}
	command.Cancel = func() error { return command.Process.Signal(ends) }
	command.WaitDelay = stopTime
	if err := command.Start(); err != nil {
		return nil, err
	}
	started := &server{command, address, log.Name(), make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(started.ended)
	}()
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); {
		if connection, err := net.Dial("tcp", address); err == nil {
			return started, connection.Close()
		}
		select {
		case <-started.ended:
			return nil, started.failed("ended before it listened")
		case <-time.After(20 * time.Millisecond):
		}
	}
	started.stop()
	return nil, started.failed(fmt.Sprintf("did not listen at %s within %v", address, startTime))
}

func (s *server) failed(what string) error {
	log, _ := os.ReadFile(s.log)
	return fmt.Errorf("%s %s; its log:\n%s", s.command.Path, what, log)
}

// stop returns when the server is gone.
func (s *server) stop() {
	if err := s.command.Cancel(); err == nil || errors.Is(err, os.ErrProcessDone) {
		select {
		case <-s.ended:
			return
		case <-time.After(stopTime):
		}
	}
	_ = s.command.Process.Kill()
	<-s.ended
}

// clocked measures what the work costs until it returns.
func (s *server) clocked(records int, work func() error) (measurement, error) {
	// What was written before is none of this contender's business.
	syscall.Sync()
	serverBegan, err := treeSeconds(s.command.Process.Pid)
	if err != nil {
		return measurement{}, err
	}
	clientBegan, began := ownSeconds(syscall.RUSAGE_SELF), time.Now()
	if err := work(); err != nil {
		return measurement{}, err
	}
	elapsed, client := time.Since(began), ownSeconds(syscall.RUSAGE_SELF)-clientBegan
	server, err := treeSeconds(s.command.Process.Pid)
	return measurement{records: records, seconds: elapsed.Seconds(), server: server - serverBegan, client: client}, err
}

// treeSeconds is the CPU time of a process and its children so far.
func treeSeconds(root int) (float64, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	var ticks float64
	for _, entry := range entries {
		process, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process))
		if err != nil {
			continue // It has just ended.
		}
		// From the state on: the name before it may hold anything.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		wanted := 2
		if process == root {
			wanted = 4 // With the children that ended.
		} else if fields[1] != strconv.Itoa(root) {
			continue
		}
		for _, field := range fields[11 : 11+wanted] {
			number, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return 0, err
			}
			ticks += number
		}
	}
	return ticks * tick, nil
}

// ownSeconds is the CPU time of this process so far, or of its children that ended.
func ownSeconds(who int) float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(who, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// foreignSeconds is the CPU time that the machine has spent so far for others than this process and its ended children.
func foreignSeconds() (float64, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	var ticks float64
	for nth, field := range strings.Fields(line) {
		// After the name: user, nice, system, idle, waiting for a disk, interrupts of two kinds, stolen by other machines.
		if nth == 0 || nth == 4 || nth == 5 || nth > 8 {
			continue
		}
		number, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, err
		}
		ticks += number
	}
	return ticks*tick - ownSeconds(syscall.RUSAGE_SELF) - ownSeconds(syscall.RUSAGE_CHILDREN), nil
}

// freeAddress is one that nobody listened at just now.
func freeAddress() (address, port string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer listener.Close()
	address = listener.Addr().String()
	_, port, err = net.SplitHostPort(address)
	return address, port, err
}
