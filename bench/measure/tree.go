package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// every is the time between two samples of memory.
const every = 50 * time.Millisecond

// sample is the resident memory of a tree of processes at its largest. Pages
// that processes share, such as those of libraries, count in each of them.
type sample struct {
	bytes     int64
	processes int // most at one time
}

// watcher samples the descendants of a process until it is stopped.
type watcher struct {
	done   chan struct{}
	result chan sample
}

// watch samples the descendants of pid, and the daemon with its own unless it is 0.
func watch(pid, daemon int) watcher {
	w := watcher{make(chan struct{}), make(chan sample, 1)}
	go func() {
		var peak sample
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-w.done:
				w.result <- peak
				return
			case <-tick.C:
				now := descendants("/proc", pid)
				if daemon != 0 {
					of := resident("/proc", daemon)
					now.bytes, now.processes = now.bytes+of.bytes, now.processes+of.processes
				}
				peak.bytes = max(peak.bytes, now.bytes)
				peak.processes = max(peak.processes, now.processes)
			}
		}
	}()
	return w
}

// stop ends the sampling; the peak comes out of the channel.
func (w watcher) stop() <-chan sample {
	close(w.done)
	return w.result
}

// resident sums up the memory of a process and its descendants. Processes come
// and go meanwhile: what cannot be read any more counts nothing.
func resident(proc string, pid int) sample {
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "statm"))
	if err != nil {
		return sample{}
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return sample{}
	}
	sum := descendants(proc, pid)
	sum.bytes += pages * int64(os.Getpagesize())
	sum.processes++
	return sum
}

// descendants sums up the memory of the children of a process and theirs, which
// proc/PID/task/TID/children lists per thread (proc_pid_task(5)).
func descendants(proc string, pid int) sample {
	var sum sample
	for _, child := range children(proc, pid) {
		of := resident(proc, child)
		sum.bytes += of.bytes
		sum.processes += of.processes
	}
	return sum
}

// children are those of all threads of a process.
func children(proc string, pid int) (pids []int) {
	threads, _ := filepath.Glob(filepath.Join(proc, strconv.Itoa(pid), "task", "*", "children"))
	for _, path := range threads {
		list, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(list)) {
			if child, err := strconv.Atoi(word); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// cpu is the time that processes took.
type cpu struct{ user, system time.Duration }

func (c cpu) sum() time.Duration { return c.user + c.system }
func (c cpu) less(b cpu) cpu     { return cpu{c.user - b.user, c.system - b.system} }

// cpuOfTree sums up what a process and its descendants have taken so far, those
// included that have ended and were waited for: columns 14 to 17 of
// proc_pid_stat(5). A process that ends meanwhile is still in its parent's
// figures if that is read later, so the parent comes last.
func cpuOfTree(proc string, pid int) (cpu, error) {
	var sum cpu
	for _, child := range children(proc, pid) {
		if of, err := cpuOfTree(proc, child); err == nil {
			sum.user, sum.system = sum.user+of.user, sum.system+of.system
		}
	}
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return cpu{}, err
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const first = 14 - 3 // the first field behind the name is the third
	if len(fields) < first+4 {
		return cpu{}, fmt.Errorf("%s/%d/stat has %d fields only", proc, pid, len(fields)+2)
	}
	for i, to := range []*time.Duration{&sum.user, &sum.system, &sum.user, &sum.system} {
		ticks, err := strconv.ParseInt(fields[first+i], 10, 64)
		if err != nil {
			return cpu{}, fmt.Errorf("%s/%d/stat: %w", proc, pid, err)
		}
		*to += time.Duration(ticks) * (time.Second / ticksPerSecond)
	}
	return sum, nil
}

// ticksPerSecond is what Linux counts CPU time in for user space, on every
// architecture that Go knows.
const ticksPerSecond = 100
