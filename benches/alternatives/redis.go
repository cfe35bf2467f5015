// Redis: a stream that takes every record, and a hash of the latest record of each task.

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// redisDepth commands are written at once, and their answers read before the next ones are.
const redisDepth = 128

type redis struct {
	program    string
	persistent bool
	hash       bool
}

func (r redis) measure(running context.Context, folder string, records int) (measurement, error) {
	address, port, err := freeAddress()
	if err != nil {
		return measurement{}, err
	}
	arguments := []string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", folder, "--appendonly", "no"}
	if r.persistent {
		arguments = append(arguments, "--appendonly", "yes", "--appendfsync", "everysec")
	}
	server, err := start(running, folder, address, syscall.SIGKILL, nil, r.program, arguments...)
	if err != nil {
		return measurement{}, err
	}
	defer server.stop()

	command, count, lines := []string{"XADD", "plan", "*", "task_id"}, "XLEN", 2
	if r.hash {
		command, count, lines = []string{"HSET", "plan"}, "HLEN", 1
	}
	sent := pipelined(records, redisDepth, func(buffer []byte, _ int, record record) []byte {
		words := append(command[:len(command):len(command)], record.taskID)
		if !r.hash {
			words = append(words, "document")
		}
		return appendCommand(buffer, append(words, string(record.document))...)
	})
	var lanes []lane
	for _, requests := range sent {
		lane, err := dial(address, requests)
		if err != nil {
			return measurement{}, err
		}
		defer lane.Close()
		lanes = append(lanes, lane)
	}
	measured, err := server.clocked(records, func() error {
		return exchange(lanes, 1, func(lane lane) error {
			for range lines {
				line, err := lane.reader.ReadSlice('\n')
				if err != nil {
					return err
				}
				if line[0] == '-' {
					return fmt.Errorf("redis answers %q", line)
				}
			}
			return nil
		})
	})
	if err != nil {
		return measurement{}, err
	}
	if _, err := lanes[0].Write(appendCommand(nil, count, "plan")); err != nil {
		return measurement{}, err
	}
	line, err := lanes[0].reader.ReadString('\n')
	if err != nil {
		return measurement{}, err
	}
	return measured, expectCount(strings.Trim(line, ":\r\n"), records)
}

// appendCommand encodes a command as Redis reads it: an array of strings, each after its length.
func appendCommand(buffer []byte, words ...string) []byte {
	buffer = fmt.Appendf(buffer, "*%d\r\n", len(words))
	for _, word := range words {
		buffer = fmt.Appendf(buffer, "$%d\r\n%s\r\n", len(word), word)
	}
	return buffer
}

// expectCount fails unless the server has as many records as were sent.
func expectCount(count string, records int) error {
	if count != strconv.Itoa(records) {
		return fmt.Errorf("%d records were sent, and the server has %s", records, count)
	}
	return nil
}
