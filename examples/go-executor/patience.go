package main

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// Failures in a row before the server counts as lost, and the shortest and longest limits of the waits between them.
	failuresMax  = 10
	firstBackoff = 100 * time.Millisecond
	backoffMax   = 5 * time.Second
)

// patience says how often a server that is away is tried again, and how long to wait before.
type patience struct{ failures int }

// reward says that the server has answered: what failed before no longer counts.
func (p *patience) reward() { p.failures = 0 }

// after says how long to wait after a call has failed, and whether to call again at all.
func (p *patience) after(err error) (wait time.Duration, again bool) {
	p.failures++
	wait, again = retryDelay(err)
	// Full jitter: executors that lost the same server do not come back all at once.
	return wait + rand.N(min(backoffMax, firstBackoff<<p.failures)), again && p.failures < failuresMax
}

// retryDelay says how long to wait at least before a call that failed is made again, and whether that may help.
//
// The server says so, with a RetryInfo. An error without any details is not the server's: the connection broke, which may
// show as any of these codes.
func retryDelay(err error) (wait time.Duration, again bool) {
	details := status.Convert(err).Details()
	for _, detail := range details {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.RetryDelay.AsDuration(), true
		}
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.Unknown:
		return 0, len(details) == 0
	}
	return 0, false
}

// persist makes a call again while the server is away.
func persist[T any](call func(context.Context) (T, error)) (T, error) {
	var patience patience
	for {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		answer, err := call(ctx)
		cancel()
		if err == nil {
			return answer, nil
		}
		wait, again := patience.after(err)
		if !again {
			return answer, err
		}
		time.Sleep(wait)
	}
}
