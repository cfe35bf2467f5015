// PostgreSQL: batched upserts into a table with a row for each task.

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	// Single upserts share a flush to disk only if many are under way.
	postgresSingleClients = 32
	postgresTable         = `create table record (task_id text primary key, document text not null)`
	upsertOne             = `insert into record (task_id, document) values ($1, $2)
		on conflict (task_id) do update set document = excluded.document`
	upsertMany = `insert into record (task_id, document) select * from unnest($1::text[], $2::text[])
		on conflict (task_id) do update set document = excluded.document`
)

// Beside the defaults (fsync and synchronous commit are on): room for all pages, no checkpoint amid a measurement, no
// compiling of queries.
var postgresSettings = []string{"shared_buffers=1GB", "max_wal_size=8GB", "checkpoint_timeout=30min", "jit=off"}

type postgres struct {
	programs string // folder
	batch    int
	clients  int
}

func (p postgres) measure(running context.Context, folder string, records int) (measurement, error) {
	owner, err := postgresOwner()
	if err != nil {
		return measurement{}, err
	}
	data := filepath.Join(folder, "postgres")
	if err := os.Mkdir(data, 0o700); err != nil {
		return measurement{}, err
	}
	if owner != nil {
		if err := os.Chown(data, int(owner.Uid), int(owner.Gid)); err != nil {
			return measurement{}, err
		}
	}
	initialise := exec.CommandContext(running, filepath.Join(p.programs, "initdb"),
		"--no-sync", "--auth=trust", "--username=fanout", "--encoding=UTF8", "--locale=C", "--pgdata="+data)
	initialise.Dir = data
	initialise.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: owner}
	if output, err := initialise.CombinedOutput(); err != nil {
		return measurement{}, fmt.Errorf("initdb: %w\n%s", err, output)
	}
	address, port, err := freeAddress()
	if err != nil {
		return measurement{}, err
	}
	arguments := []string{"-D", data}
	own := []string{"listen_addresses=127.0.0.1", "port=" + port, "unix_socket_directories="}
	for _, setting := range slices.Concat(own, postgresSettings) {
		arguments = append(arguments, "-c", setting)
	}
	// The signal for a stop at once, after which it still gives back its shared memory.
	program := filepath.Join(p.programs, "postgres")
	server, err := start(running, folder, address, syscall.SIGQUIT, owner, program, arguments...)
	if err != nil {
		return measurement{}, err
	}
	defer server.stop()

	clients := make([]*pgx.Conn, p.clients)
	for nth := range clients {
		client, err := connect(running, "postgres://fanout@"+address+"/postgres?sslmode=disable")
		if err != nil {
			return measurement{}, err
		}
		defer client.Close(running)
		clients[nth] = client
	}
	if _, err := clients[0].Exec(running, postgresTable, pgx.QueryExecModeSimpleProtocol); err != nil {
		return measurement{}, err
	}
	batches := p.batches(records)
	measured, err := server.clocked(records, func() error {
		group, running := errgroup.WithContext(running)
		for nth, client := range clients {
			group.Go(func() error {
				for _, batch := range batches[nth] {
					if err := batch.upsert(running, client); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return group.Wait()
	})
	if err != nil {
		return measurement{}, err
	}
	var count int
	if err := clients[0].QueryRow(running, "select count(*) from record").Scan(&count); err != nil {
		return measurement{}, err
	}
	return measured, expectCount(strconv.Itoa(count), records)
}

type batch struct{ taskIDs, documents []string }

func (b batch) upsert(running context.Context, client *pgx.Conn) (err error) {
	if len(b.taskIDs) == 1 {
		_, err = client.Exec(running, upsertOne, b.taskIDs[0], b.documents[0])
	} else {
		_, err = client.Exec(running, upsertMany, b.taskIDs, b.documents)
	}
	return err
}

// batches are what each client sends.
func (p postgres) batches(records int) [][]batch {
	all := make([][]batch, p.clients)
	for nth := range all {
		first, end := share(records, p.clients, nth)
		for task := first; task < end; task++ {
			if (task-first)%p.batch == 0 {
				all[nth] = append(all[nth], batch{})
			}
			last, record := &all[nth][len(all[nth])-1], makeRecord(task)
			last.taskIDs = append(last.taskIDs, record.taskID)
			last.documents = append(last.documents, string(record.document))
		}
	}
	return all
}

// connect waits until a server that listens is also ready.
func connect(running context.Context, address string) (*pgx.Conn, error) {
	for deadline := time.Now().Add(startTime); ; {
		client, err := pgx.Connect(running, address)
		if err == nil || running.Err() != nil || time.Now().After(deadline) {
			return client, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// postgresOwner is nobody where this is root, as whom PostgreSQL refuses to run.
func postgresOwner() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	id, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	group, err := strconv.ParseUint(nobody.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(id), Gid: uint32(group)}, err
}
