package client

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"

	fanout "example/go-executor/generated/fanout/v1"
)

const (
	messageBytesMax = 16 << 20
	startTime       = 60 * time.Second
)

// server is `fanout serve` on a free port of the loopback interface. It is killed when the test ends.
type server struct {
	fanout.FanoutServiceClient
	process *os.Process
	address string
	options []string
	// Closed when it has ended.
	ended <-chan struct{}
}

func startServer(t *testing.T, options ...string) *server {
	t.Helper()
	return startServerAt(t, "127.0.0.1:0", options)
}

// startAgain ends the server with a signal, and starts it again at its address.
func (s *server) startAgain(t *testing.T, with os.Signal) *server {
	t.Helper()
	check(t, s.process.Signal(with))
	check(t, waitFor(limited(t), s.ended))
	return startServerAt(t, s.address, s.options)
}

func startServerAt(t *testing.T, listen string, options []string) *server {
	t.Helper()
	arguments := append([]string{"serve", "--listen", listen, "--log-format", "json"}, options...)
	command := exec.Command(binary, arguments...)
	command.Env = append(os.Environ(), "FANOUT_LOG=info")
	log, err := command.StderrPipe()
	check(t, err)
	check(t, command.Start())
	serving := make(chan string, 1)
	var lines strings.Builder
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for scanner := bufio.NewScanner(log); scanner.Scan(); {
			lines.WriteString(scanner.Text() + "\n")
			var line struct {
				Fields struct{ Message, Address string }
			}
			if json.Unmarshal(scanner.Bytes(), &line) == nil && line.Fields.Message == "serving" {
				serving <- line.Fields.Address
			}
		}
		_ = command.Wait() // Whoever ends it knows how.
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the server's log:\n%s", lines.String())
		}
	})
	select {
	case address := <-serving:
		connection, err := grpc.NewClient(address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax)),
		)
		check(t, err)
		t.Cleanup(func() { _ = connection.Close() })
		awaitReadiness(t, connection)
		return &server{fanout.NewFanoutServiceClient(connection), command.Process, address, options, ended}
	case <-ended:
		t.Fatal("the server ended before it served")
	case <-time.After(startTime):
		t.Fatalf("the server did not say in %v that it serves", startTime)
	}
	return nil
}

// awaitReadiness waits until the plans of the server's data directory are read.
func awaitReadiness(t *testing.T, connection *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	watch, err := health.NewHealthClient(connection).Watch(ctx, &health.HealthCheckRequest{Service: "readiness"})
	check(t, err)
	for status := health.HealthCheckResponse_UNKNOWN; status != health.HealthCheckResponse_SERVING; {
		answer, err := watch.Recv()
		check(t, err)
		status = answer.Status
	}
}

// wire is a TCP relay to a server. cut breaks the connections there are; later ones work.
type wire struct {
	address string
	server  string
	mutex   sync.Mutex
	ends    []net.Conn
}

func startWire(t *testing.T, server string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	w := &wire{address: listener.Addr().String(), server: server}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			w.connect(client)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		accepting.Wait()
		w.cut()
	})
	return w
}

func (w *wire) connect(client net.Conn) {
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		_ = client.Close()
		return
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.ends = append(w.ends, client, server)
	go relay(client, server)
	go relay(server, client)
}

// relay passes on what comes, until either end is closed; then it closes both.
func relay(from, to net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, broken := to.Write(buffer[:n]); broken != nil {
				err = broken
			}
		}
		if err != nil {
			_ = from.Close()
			_ = to.Close()
			return
		}
	}
}

func (w *wire) cut() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, end := range w.ends {
		_ = end.Close()
	}
	w.ends = nil
}
