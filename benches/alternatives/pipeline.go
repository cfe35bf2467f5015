// Requests pipelined over plain connections: encoded before the clock runs, and answers scanned, not decoded, so that
// the client costs little.

package main

import (
	"bufio"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	connections = 4
	// A measurement that takes longer has failed.
	measurementTime = 2 * time.Minute
	readBufferBytes = 64 << 10
)

// requests are what is sent on one connection, in bursts: a burst is one write.
type requests struct {
	bytes  []byte
	bursts []burst
}

type burst struct{ begin, end, requests int }

// pipelined encodes the records for each connection, so many in a burst.
func pipelined(records, perBurst int, encode func(buffer []byte, lane int, record record) []byte) []*requests {
	all := make([]*requests, connections)
	for lane := range all {
		first, end := share(records, connections, lane)
		sent := &requests{bytes: make([]byte, 0, (end-first)*(recordBytes+100))}
		for first < end {
			next, begin := min(first+perBurst, end), len(sent.bytes)
			for task := first; task < next; task++ {
				sent.bytes = encode(sent.bytes, lane, makeRecord(task))
			}
			sent.bursts = append(sent.bursts, burst{begin, len(sent.bytes), next - first})
			first = next
		}
		all[lane] = sent
	}
	return all
}

// lane is a connection and what is sent on it.
type lane struct {
	net.Conn
	reader   *bufio.Reader
	requests *requests
}

func dial(address string, requests *requests) (lane, error) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return lane{}, err
	}
	dialled := lane{connection, bufio.NewReaderSize(connection, readBufferBytes), requests}
	return dialled, connection.SetDeadline(time.Now().Add(measurementTime))
}

// exchange sends everything on all connections at once, with no more than so many bursts unanswered on each. answer
// reads one answer, or fails if it says that something went wrong.
func exchange(lanes []lane, burstsInFlight int, answer func(lane) error) error {
	var group errgroup.Group
	for _, lane := range lanes {
		room, failed := make(chan struct{}, burstsInFlight), make(chan struct{})
		group.Go(func() error {
			for _, burst := range lane.requests.bursts {
				select {
				case room <- struct{}{}:
				case <-failed:
					return nil
				}
				if _, err := lane.Write(lane.requests.bytes[burst.begin:burst.end]); err != nil {
					return err
				}
			}
			return nil
		})
		group.Go(func() error {
			defer close(failed)
			for _, burst := range lane.requests.bursts {
				for range burst.requests {
					if err := answer(lane); err != nil {
						return err
					}
				}
				<-room
			}
			return nil
		})
	}
	return group.Wait()
}
