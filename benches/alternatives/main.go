// Measures what a user would pick instead of Fanout, and Fanout, with the same records, round by round.
//
// scripts/alternatives installs the servers and starts this.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// measurement is what some records cost: wall-clock and CPU seconds.
type measurement struct {
	records                 int
	seconds, server, client float64
}

// contender is one way to take in records.
type contender struct {
	name string
	// keeps is what a crash of the machine leaves.
	keeps string
	// records of one measurement, and of a quick one.
	records, quick int
	measure        func(running context.Context, folder string, records int) (measurement, error)
	results        []measurement
}

var (
	rounds         = flag.Int("rounds", 5, "how many rounds")
	quick          = flag.Bool("quick", false, "fewer records")
	only           = flag.String("only", "", "measure only what matches this regular expression")
	folder         = flag.String("folder", "", "where servers keep their files; deleted at the end")
	fanoutProgram  = flag.String("fanout", "", "the fanout program")
	redisProgram   = flag.String("redis", "", "the redis-server program")
	natsProgram    = flag.String("nats", "", "the nats-server program")
	postgresFolder = flag.String("postgres", "", "the folder of initdb and postgres")
	python         = flag.String("python", "", "the python that has dask.distributed and grpcio")
	gatherScript   = flag.String("gather", "", "gather.py")
	missing        list
	stubs          = flag.String("stubs", "", "the folder of the generated Python stubs of Fanout")
)

// list is an option that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, "; ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func main() {
	// Children end with the thread that began them, so that is to be the one that lives as long as the program.
	runtime.LockOSThread()
	flag.Var(&missing, "missing", "what could not be had; may be given several times")
	flag.Parse()
	running, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(running)
	interrupted := running.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "alternatives: interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "alternatives:", err)
		os.Exit(1)
	}
}

func run(running context.Context) (err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(*folder)) }()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	taking, gathering := available(wanted)
	all := slices.Concat(taking, gathering)
	if len(all) == 0 {
		return errors.New("there is nothing to measure")
	}
	if err := printSettings(running); err != nil {
		return err
	}
	for round := range *rounds {
		for _, one := range all {
			if err := measureOne(running, one); err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d: %s: %s/s\n", round+1, one.name, thousands(one.results[round].rate()))
		}
	}
	printTable(taking, "a crash leaves", "records/s", "server", "client")
	printTable(gathering, "a crash leaves", "tasks/s", "server", "Python")
	fmt.Println("\nLoad of the machine at the end:", load())
	if len(missing) > 0 {
		return fmt.Errorf("MISSING %s", &missing)
	}
	return nil
}

// available is what has a program and is wanted: what takes records, and what gathers results. The others are put beside
// the first of each.
func available(wanted *regexp.Regexp) (taking, gathering []*contender) {
	add := func(to *[]*contender, program, name, keeps string, records, quick int,
		measure func(context.Context, string, int) (measurement, error),
	) {
		if program != "" && wanted.MatchString(name) {
			*to = append(*to, &contender{name: name, keeps: keeps, records: records, quick: quick, measure: measure})
		}
	}
	const million, nothing = 1_000_000, "nothing"
	add(&taking, *fanoutProgram, "Fanout, 128 records a message", nothing, million, 300_000, fanout{*fanoutProgram, 128}.measure)
	add(&taking, *fanoutProgram, "Fanout, 1 record a message", nothing, million, 300_000, fanout{*fanoutProgram, 1}.measure)
	add(&taking, *redisProgram, "Redis stream", nothing, million, 300_000, redis{program: *redisProgram}.measure)
	add(&taking, *redisProgram, "Redis hash by task", nothing, million, 300_000, redis{program: *redisProgram, hash: true}.measure)
	add(&taking, *redisProgram, "Redis stream, everysec", "all but about the last second", million, 300_000,
		redis{program: *redisProgram, persistent: true}.measure)
	add(&taking, *natsProgram, "NATS JetStream, memory", nothing, 400_000, 150_000, nats{*natsProgram, "memory"}.measure)
	add(&taking, *natsProgram, "NATS JetStream, file", "all but the last two minutes", 400_000, 150_000,
		nats{*natsProgram, "file"}.measure)
	add(&taking, *postgresFolder, "PostgreSQL, upserts of 1", "all", 30_000, 10_000,
		postgres{*postgresFolder, 1, postgresSingleClients}.measure)
	add(&taking, *postgresFolder, "PostgreSQL, upserts of 100", "all", 300_000, 150_000,
		postgres{*postgresFolder, 100, connections}.measure)
	add(&taking, *postgresFolder, "PostgreSQL, upserts of 1,000", "all", 300_000, 150_000,
		postgres{*postgresFolder, 1_000, connections}.measure)

	inPython := gather{python: *python, script: *gatherScript, stubs: *stubs}
	if inPython.fanout = *fanoutProgram; inPython.fanout != "" {
		add(&gathering, *python, "Python: Fanout", nothing, 60_000, 20_000, inPython.measure)
	}
	inPython.fanout = ""
	add(&gathering, *python, "Python: Dask", nothing, 4_000, 2_000, inPython.measure)
	return taking, gathering
}

// measureOne measures in a folder of its own.
func measureOne(running context.Context, one *contender) (err error) {
	own, err := os.MkdirTemp(*folder, "server-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(own)) }()
	// A server that runs as somebody else finds its data.
	for _, path := range []string{*folder, own} {
		if err := os.Chmod(path, 0o711); err != nil {
			return err
		}
	}
	records := one.records
	if *quick {
		records = one.quick
	}
	result, err := one.measure(running, own, records)
	one.results = append(one.results, result)
	// What was encoded for this one is not to be collected while the next is measured.
	runtime.GC()
	return err
}
