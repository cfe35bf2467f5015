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
	"time"
)

// othersMax is the share of the machine that others may use in a measurement; the kernel's own work is in it.
const othersMax = 0.1

// measurement is what some records cost: wall-clock and CPU seconds. Others is the share of the machine that processes
// used that are none of ours, from before the server began to after its end.
type measurement struct {
	records                 int
	seconds, server, client float64
	others                  float64
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
	patience       = flag.Int("patience", 0, "how often a measurement is repeated that others disturbed")
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
			result, err := measurePatiently(running, one)
			if err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
			one.results = append(one.results, result)
			fmt.Fprintf(os.Stderr, "round %d: %s: %s/s, others used %.0f %% of the machine\n",
				round+1, one.name, thousands(result.rate()), max(0, 100*result.others))
		}
	}
	printTable(taking, "a crash leaves", "records/s", "server", "client")
	printTable(gathering, "a crash leaves", "tasks/s", "server", "Python")
	if len(missing) > 0 {
		return fmt.Errorf("MISSING %s", &missing)
	}
	return nil
}

// available is what has a program and is wanted: what takes records, and what gathers results. The others are put
// beside the first of each.
func available(wanted *regexp.Regexp) (taking, gathering []*contender) {
	add := func(to *[]*contender, program, name, keeps string, records, quick int,
		measure func(context.Context, string, int) (measurement, error),
	) {
		if program != "" && wanted.MatchString(name) {
			*to = append(*to, &contender{name: name, keeps: keeps, records: records, quick: quick, measure: measure})
		}
	}
	const million, nothing = 1_000_000, "nothing"
	program := *fanoutProgram
	add(&taking, program, "Fanout, 128 records a message", nothing, million, 300_000, fanout{program, 128}.measure)
	add(&taking, program, "Fanout, 1 record a message", nothing, million, 300_000, fanout{program, 1}.measure)

	program = *redisProgram
	stream := redis{program: program}
	hash := redis{program: program, hash: true}
	persistent := redis{program: program, persistent: true}
	add(&taking, program, "Redis stream", nothing, million, 300_000, stream.measure)
	add(&taking, program, "Redis hash by task", nothing, million, 300_000, hash.measure)
	add(&taking, program, "Redis stream, everysec", "all but about the last second", million, 300_000, persistent.measure)

	program = *natsProgram
	memory, file := nats{program, "memory"}, nats{program, "file"}
	add(&taking, program, "NATS JetStream, memory", nothing, 400_000, 150_000, memory.measure)
	add(&taking, program, "NATS JetStream, file", "all but the last two minutes", 400_000, 150_000, file.measure)

	program = *postgresFolder
	single := postgres{program, 1, postgresSingleClients}
	hundreds, thousands := postgres{program, 100, connections}, postgres{program, 1_000, connections}
	add(&taking, program, "PostgreSQL, upserts of 1", "all", 30_000, 10_000, single.measure)
	add(&taking, program, "PostgreSQL, upserts of 100", "all", 300_000, 150_000, hundreds.measure)
	add(&taking, program, "PostgreSQL, upserts of 1,000", "all", 300_000, 150_000, thousands.measure)

	inPython := gather{python: *python, script: *gatherScript, stubs: *stubs}
	if inPython.fanout = *fanoutProgram; inPython.fanout != "" {
		add(&gathering, *python, "Python: Fanout", nothing, 60_000, 20_000, inPython.measure)
	}
	inPython.fanout = ""
	add(&gathering, *python, "Python: Dask", nothing, 4_000, 2_000, inPython.measure)
	return taking, gathering
}

// measurePatiently measures again what others disturbed, as often as there is patience.
func measurePatiently(running context.Context, one *contender) (measurement, error) {
	for again := range *patience {
		result, err := measureOne(running, one)
		if err != nil || result.others <= othersMax {
			return result, err
		}
		select {
		case <-running.Done():
			return measurement{}, running.Err()
		case <-time.After(time.Duration(again+1) * time.Second):
		}
	}
	return measureOne(running, one)
}

// measureOne measures in a folder of its own.
func measureOne(running context.Context, one *contender) (result measurement, err error) {
	own, err := os.MkdirTemp(*folder, "server-")
	if err != nil {
		return measurement{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(own)) }()
	// A server that runs as somebody else finds its data.
	for _, path := range []string{*folder, own} {
		if err := os.Chmod(path, 0o711); err != nil {
			return measurement{}, err
		}
	}
	records := one.records
	if *quick {
		records = one.quick
	}
	foreign, err := foreignSeconds()
	if err != nil {
		return measurement{}, err
	}
	began := time.Now()
	if result, err = one.measure(running, own, records); err != nil {
		return measurement{}, err
	}
	now, err := foreignSeconds()
	result.others = (now - foreign) / (time.Since(began).Seconds() * float64(runtime.NumCPU()))
	// What was encoded for this one is not to be collected while the next is measured.
	runtime.GC()
	return result, err
}
