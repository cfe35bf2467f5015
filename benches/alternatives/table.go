// What is printed: versions and settings, and tables as benches/RESULTS.md has them.

package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	daskVersion = "import dask, platform; print('Dask', dask.__version__, 'on Python', platform.python_version())"
	// The number of a file system in memory.
	tmpfs = 0x01021994
)

// printSettings says what is measured, and how.
func printSettings(running context.Context) error {
	fmt.Printf("Records of %d bytes, a task each; client and server share %d cores; medians of %d rounds.\n",
		recordBytes, runtime.NumCPU(), *rounds)
	postgresProgram := ""
	if *postgresFolder != "" {
		postgresProgram = filepath.Join(*postgresFolder, "postgres")
	}
	for _, one := range []struct {
		program  string
		version  []string
		settings string
	}{
		{*fanoutProgram, []string{"--version"}, fmt.Sprintf("%d streams over %d connections", fanoutStreams, connections)},
		{*redisProgram, []string{"--version"}, fmt.Sprintf(
			"%d connections, pipelined %d deep; save \"\"; appendonly no, or yes with appendfsync everysec",
			connections, redisDepth)},
		{*natsProgram, []string{"--version"}, fmt.Sprintf(
			"%d connections, %d unacknowledged on each; sync_interval 2m (the default)", connections, natsDepth)},
		{postgresProgram, []string{"--version"}, fmt.Sprintf(
			"%d connections, %d for upserts of 1; fsync and synchronous_commit on, %s",
			connections, postgresSingleClients, strings.Join(postgresSettings, ", "))},
		{*python, []string{"-c", daskVersion}, "two processes work and one gathers; " +
			"client.map and as_completed, or SubmitRecord and WatchPlan"},
	} {
		if one.program == "" {
			continue
		}
		version, err := exec.CommandContext(running, one.program, one.version...).Output()
		if err != nil {
			return fmt.Errorf("%s: %w", one.program, err)
		}
		fmt.Printf("- %s: %s\n", strings.TrimSpace(string(version)), one.settings)
	}
	var files syscall.Statfs_t
	if err := syscall.Statfs(*folder, &files); err != nil {
		return err
	}
	if files.Type == tmpfs {
		fmt.Printf("WARNING: %s is in memory, so nothing is on a disk: set TMPDIR to a folder that is.\n", *folder)
	}
	return nil
}

// printTable puts the contenders beside the first of them: each ratio is the median of the rounds' ratios.
func printTable(contenders []*contender, keeps, rate, server, client string) {
	if len(contenders) == 0 {
		return
	}
	fmt.Printf("\n| what | %s | %s | least to most | beside the first | %s CPU-s per million | %s CPU-s per million "+
		"| others used at most |\n", keeps, rate, server, client)
	fmt.Println("|---|---|---:|---:|---:|---:|---:|---:|")
	for _, one := range contenders {
		var rates, ratios, servers, clients, others []float64
		for round, result := range one.results {
			million := float64(result.records) / 1e6
			rates = append(rates, result.rate())
			ratios = append(ratios, result.rate()/contenders[0].results[round].rate())
			servers = append(servers, result.server/million)
			clients = append(clients, result.client/million)
			others = append(others, max(0, 100*result.others))
		}
		fmt.Printf("| %s | %s | %s | %s to %s | %.2f | %s | %s | %.0f %% |\n", one.name, one.keeps, thousands(median(rates)),
			thousands(slices.Min(rates)), thousands(slices.Max(rates)), median(ratios),
			seconds(median(servers)), seconds(median(clients)), slices.Max(others))
	}
}

// median is the upper one of two.
func median(figures []float64) float64 {
	return slices.Sorted(slices.Values(figures))[len(figures)/2]
}

func (m measurement) rate() float64 { return float64(m.records) / m.seconds }

// thousands writes a number as the results do: 1,234,567.
func thousands(number float64) string {
	digits := strconv.FormatFloat(number, 'f', 0, 64)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// seconds writes CPU seconds: to two digits, or whole ones if there are many.
func seconds(number float64) string {
	if number < 10 {
		return strconv.FormatFloat(number, 'f', 2, 64)
	}
	return thousands(number)
}
