// NATS JetStream: a stream whose server acknowledges every record.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
)

const (
	natsDepth  = 512
	natsBursts = 4
	natsHello  = `CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}` + "\r\n" +
		"SUB answers.%d.* 1\r\n"
)

type nats struct {
	program string
	storage string // memory or file
}

func (n nats) measure(running context.Context, folder string, records int) (measurement, error) {
	address, port, err := freeAddress()
	if err != nil {
		return measurement{}, err
	}
	server, err := start(running, folder, address, syscall.SIGKILL, nil, n.program,
		"--addr", "127.0.0.1", "--port", port, "--jetstream", "--store_dir", folder)
	if err != nil {
		return measurement{}, err
	}
	defer server.stop()

	sent := pipelined(records, natsDepth/natsBursts, func(buffer []byte, lane int, record record) []byte {
		bytes := len(record.taskID) + len("\n") + len(record.document)
		return fmt.Appendf(buffer, "PUB records answers.%d.a %d\r\n%s\n%s\r\n", lane, bytes, record.taskID, record.document)
	})
	var lanes []lane
	for nth, requests := range sent {
		lane, err := dial(address, requests)
		if err != nil {
			return measurement{}, err
		}
		defer lane.Close()
		if _, err := fmt.Fprintf(lane, natsHello, nth); err != nil {
			return measurement{}, err
		}
		lanes = append(lanes, lane)
	}
	config := fmt.Sprintf(`{"name":"plan","subjects":["records"],"storage":%q}`, n.storage)
	if _, err := ask(lanes[0], "$JS.API.STREAM.CREATE.plan", config); err != nil {
		return measurement{}, err
	}
	measured, err := server.clocked(records, func() error {
		return exchange(lanes, natsBursts, func(lane lane) error {
			_, err := readMessage(lane)
			return err
		})
	})
	if err != nil {
		return measurement{}, err
	}
	answer, err := ask(lanes[0], "$JS.API.STREAM.INFO.plan", "")
	if err != nil {
		return measurement{}, err
	}
	var stream struct {
		State struct{ Messages json.Number }
	}
	if err := json.Unmarshal(answer, &stream); err != nil {
		return measurement{}, err
	}
	return measured, expectCount(stream.State.Messages.String(), records)
}

// ask makes a request of the first connection, and answers what comes back.
func ask(first lane, subject, body string) ([]byte, error) {
	if _, err := fmt.Fprintf(first, "PUB %s answers.0.asked %d\r\n%s\r\n", subject, len(body), body); err != nil {
		return nil, err
	}
	return readMessage(first)
}

// readMessage reads the next message that the server delivers. It is valid until the next read.
func readMessage(lane lane) ([]byte, error) {
	for {
		line, err := lane.reader.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		switch {
		case bytes.HasPrefix(line, []byte("MSG ")):
			length, err := strconv.Atoi(string(bytes.TrimSpace(line[bytes.LastIndexByte(line, ' '):])))
			if err != nil {
				return nil, fmt.Errorf("nats answers %q", line)
			}
			message, err := lane.reader.Peek(length + len("\r\n"))
			if err != nil {
				return nil, err
			}
			if _, err := lane.reader.Discard(len(message)); err != nil {
				return nil, err
			}
			if bytes.Contains(message, []byte(`"error"`)) {
				return nil, fmt.Errorf("nats answers %q", message)
			}
			return message[:length], nil
		case bytes.HasPrefix(line, []byte("PING")):
			if _, err := io.WriteString(lane, "PONG\r\n"); err != nil {
				return nil, err
			}
		case bytes.HasPrefix(line, []byte("INFO ")), bytes.HasPrefix(line, []byte("PONG")):
		default: // An error, or a status that says that nobody listens.
			return nil, fmt.Errorf("nats answers %q", strings.TrimSpace(string(line)))
		}
	}
}
